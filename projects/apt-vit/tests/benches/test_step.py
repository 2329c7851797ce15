"""The rows of training at a tiny size: both sides are run and compared, times are not judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from apt_vit.benches import step as bench_step
from apt_vit.benches.step import BY_TORCH, REFERENCE_BY_ONEDNN, SIZE, Done, Sides, Size, alike, same
from apt_vit.config import PruneConfig
from prunelab.bench import Row

TINY = Size(
    model=replace(
        SIZE.model,
        patch_size=(4, 4),
        img_size=(24, 24),
        hidden_size=32,
        mlp_dim=64,
        num_layers=4,
        num_heads=2,
        clip_layers=(0, 2),
    ),
    pictures=4,
)


@pytest.mark.parametrize(
    ("row", "goal"),
    [
        (bench_step.whole, ">= 1.65x"),
        (bench_step.pruned, ">= 2.1x"),
        (bench_step.fixed, ">= 2.2x"),
        (bench_step.drawn, ">= 1x"),
    ],
)
def test_both_ways_give_equal_steps(
    row: Callable[[Size], Row], goal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_step, "GRADIENTS_CLOSE", 1e-4)  # a small network's gradients are large
    monkeypatch.setattr(bench_step, "LOSS_ALIKE", 1.0)
    found = row(TINY)
    assert [name for name, _ in found.goals()] == [goal]
    assert found.work == TINY.pictures
    extra = [side.name for side in found.extra]
    assert extra[-1] == REFERENCE_BY_ONEDNN
    assert (BY_TORCH in extra) == (row is not bench_step.drawn)


def test_a_step_that_prunes_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_step, "KEPT_ALIKE", -1.0)
    with pytest.raises(AssertionError, match=r"stages keep \[.*expected 0.7"):
        bench_step.pruned(TINY)


def test_results_that_differ_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = Sides(TINY, PruneConfig(keep_rate=0.7), "fixed")
    one = sides.ours()
    assert same(one, one)
    assert alike(one, one)
    assert not same(replace(one, kept=one.kept + 1), one)
    assert not same(replace(one, rewards={}), one)
    assert not same(replace(one, rewards={layer: r + 1e-5 for layer, r in one.rewards.items()}), one)
    assert not same(replace(one, gradients=[None] * len(one.gradients)), one)
    assert not same(replace(one, gradients=[torch.zeros(()) for _ in one.gradients]), one)
    assert not alike(replace(one, loss=one.loss * 2), one)
    monkeypatch.setattr(bench_step, "same", lambda found, expected: False)
    with pytest.raises(AssertionError, match="results differ"):
        bench_step.fixed(TINY)


def test_sizes_are_told() -> None:
    assert SIZE.describe().startswith("D 192, 12 blocks, 224 px, agents behind blocks 2, 5, 8, micro-batch 8")
    assert isinstance(Sides(TINY, PruneConfig(), "fixed").reference(), Done)
