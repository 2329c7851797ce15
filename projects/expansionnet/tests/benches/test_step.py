"""Rows of training at a toy size: both sides agree before they are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from expansionnet.benches import step as bench_step
from expansionnet.benches.step import ROWS, Size, cross_entropy, memory, peak_of, self_critical
from prunelab.bench import Row
from prunelab.bench import memory as bench_memory

from ..small import config

SMALL = Size(model=config(vocab_size=40), pictures=2, tokens=5, words=5, samples=3, corpus=12)


@pytest.mark.parametrize("row", [self_critical, cross_entropy])
def test_both_sides_agree_and_are_timed(row: Callable[[Size], Row]) -> None:
    found = row(SMALL)
    assert found.work == 2
    assert [found.ours.name, found.reference.name] == ["ours", "reference"]


@pytest.mark.parametrize(
    ("plain", "row"), [("xe_loss_plain", cross_entropy), ("scst_loss_plain", self_critical)]
)
def test_a_difference_stops_the_row(
    monkeypatch: pytest.MonkeyPatch, plain: str, row: Callable[[Size], Row]
) -> None:
    true = getattr(bench_step, plain)
    monkeypatch.setattr(bench_step, plain, lambda *args, **kwargs: 1.01 * true(*args, **kwargs))
    with pytest.raises(AssertionError, match="step"):
        row(SMALL)


def test_memory_is_that_of_a_step_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def here(work: Callable[..., int], side: str, *rest: Any) -> int:
        calls.append(side)
        assert work is peak_of
        return work(side, *rest)

    monkeypatch.setattr(bench_memory, "in_fresh_process", here)
    found = memory(replace(SMALL, dropout=0.1))
    assert calls == ["ours", "reference"]
    assert found.unit == "MiB"
    assert set(ROWS) == {"train-scst", "train-xe", "train-memory"}
