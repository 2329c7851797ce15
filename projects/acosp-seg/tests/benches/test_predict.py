"""The rows of the windows' benchmark at toy sizes: both sides agree, and a difference is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from acosp_seg.benches import predict as bench_predict
from acosp_seg.benches.predict import program_row, same, windows_row
from prunelab.bench import Row

TOY = {"width": 16, "size": (40, 70), "crop": (33, 33)}


@pytest.mark.parametrize(
    "row",
    [
        lambda: windows_row("psp", 3, "dense", **TOY),  # type: ignore[arg-type]
        lambda: windows_row("segnet", 3, "compact", **TOY),  # type: ignore[arg-type]
        lambda: program_row(classes=3, width=16, count=2, size=(33, 40)),
    ],
    ids=["windows-dense", "windows-compact", "program"],
)
def test_both_sides_of_a_row_agree_and_are_timed(
    row: Callable[[], Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_predict, "BASE_SIZE", 64)
    found = row()
    assert len(found.ours.seconds) == len(found.reference.seconds) == 5
    assert found.goal in (None, *bench_predict.GOALS.values())


def test_another_probability_or_label_is_a_difference() -> None:
    probabilities = np.full((4, 4, 2), 0.5)
    labels = np.zeros((4, 4), np.uint8)
    other = probabilities.copy()
    other[0, 0, 0] += 1e-3
    assert same((probabilities, labels), (probabilities + 1e-6, labels))
    assert not same((probabilities, labels), (other, labels))
    assert not same((probabilities, labels), (probabilities, labels + 1))
