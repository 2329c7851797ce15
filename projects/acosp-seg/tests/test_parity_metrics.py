"""Areas, means and running means against recorded numbers of the original's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prunelab.errors import UserError
from prunelab.metrics import Areas, AverageMeter, Scores, areas, areas_closed_bin, areas_histc
from testing.parity import Folder, of_kind

RTOL = 1e-12  # of the summaries; areas are exact

Case = tuple[dict[str, Any], np.ndarray, np.ndarray]


def cases(folder: Folder) -> list[Case]:
    """Every recorded case with its maps."""
    maps = folder.numpy("data.npz")
    listed = folder.json("metrics.json")["cases"]
    found = [(case, maps[f"out{n}"], maps[f"target{n}"]) for n, case in enumerate(listed)]
    assert found
    return found


def check(found: Areas, expected: dict[str, Any]) -> None:
    parts = {"inter": found.intersection, "union": found.union, "target": found.target}
    for name, part in parts.items():
        assert part.tolist() == expected[name], name
    scores = Scores.of(found)
    for name, value in {"mIoU": scores.miou, "mAcc": scores.macc, "allAcc": scores.allacc}.items():
        assert value == pytest.approx(expected[name], rel=RTOL, abs=0), name


@pytest.mark.parity
@of_kind("metrics")
def test_the_final_evaluation_with_its_closed_last_bin_agrees(folder: Folder) -> None:
    for case, guess, truth in cases(folder):
        check(areas_closed_bin(guess, truth, case["K"]), case["as_final_evaluation_ignore255"])
        check(areas_closed_bin(guess, truth, case["K"], case["void_id"]), case["with_void_ignored"])


@pytest.mark.parity
@of_kind("metrics")
def test_the_evaluation_during_training_agrees(folder: Folder) -> None:
    for case, guess, truth in cases(folder):
        check(areas_histc(guess, truth, case["K"], case["void_id"]), case["training_time"])


@pytest.mark.parity
@of_kind("metrics")
def test_counting_without_void_pixels_agrees_wherever_the_original_is_right(folder: Folder) -> None:
    for case, guess, truth in cases(folder):
        if 0 <= case["void_id"] < case["K"]:
            with pytest.raises(UserError, match="one of the"):
                areas(guess, truth, case["K"], case["void_id"])
        else:
            check(areas(guess, truth, case["K"], case["void_id"]), case["training_time"])


@pytest.mark.parity
@of_kind("metrics")
def test_running_means_agree(folder: Folder) -> None:
    trace = folder.json("metrics.json").get("average_meter")
    if trace is None:
        pytest.skip(f"{folder.path} has no trace of a running mean")
    meter = AverageMeter()
    for row in trace["rows"]:
        expected = dict(zip(trace["columns"], row, strict=True))
        meter.update(expected["val_in"], expected["n"])
        for name in ("val", "sum", "count", "avg"):
            assert getattr(meter, name) == pytest.approx(expected[name], rel=RTOL, abs=0), name
