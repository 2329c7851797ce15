"""The rows of the masks' benchmark at toy size: they run, and their sides give the same."""

from __future__ import annotations

import pytest
import torch

from acosp_seg.benches.mask import Size, agree, make_step, step_memory, step_time
from prunelab.bench import Figure, Row

TOY = Size(height=32, width=32, batch=2, classes=3, planes=16)


def test_a_soft_masked_step_is_measured_beside_the_plain_and_the_dense_one() -> None:
    row, figure = step_time(TOY)
    assert isinstance(row, Row)
    assert isinstance(figure, Figure)
    assert [side.name for side in (row.ours, row.reference, *row.extra)] == ["ours", "reference", "dense"]
    assert figure.at_most == 1.08
    assert figure.ours > 0


def test_a_step_with_other_masks_is_not_taken_for_the_same() -> None:
    exact = Size(height=32, width=32, classes=3, planes=8, dtype=torch.float64)
    ours, reference, dense = (make_step(side, exact)() for side in ("ours", "reference", "dense"))
    assert agree(ours, reference)
    assert agree(dense, reference)
    assert not agree({**dense, "side": "ours"}, reference)
    assert not agree({**ours, "loss": ours["loss"] + 1e-8}, reference)


@pytest.mark.slow
def test_peak_memory_is_measured_in_fresh_processes() -> None:
    (figure,) = step_memory(TOY)
    assert isinstance(figure, Figure)
    assert figure.at_most == 1.05
    assert figure.ours > 0
