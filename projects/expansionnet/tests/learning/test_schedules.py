"""Both schedules by hand, and their state in the original's words."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD

from expansionnet.config import OptimConfig
from expansionnet.learning.schedules import from_original, make_schedule, rate, to_original
from prunelab.errors import UserError
from prunelab.optim import Schedule

HYPERBOLIC = OptimConfig(
    sched_type="custom_warmup_anneal",
    lr=0.1,
    min_lr=0.04,
    warmup_iters=4,
    anneal_coeff=0.5,
    anneal_every_epoch=1.5,
)
LINEAR = OptimConfig(
    sched_type="annealing", lr=0.1, min_lr=0.04, warmup_iters=4, anneal_coeff=0.5, anneal_every_epoch=1.5
)


def schedule(cfg: OptimConfig) -> Schedule:
    return make_schedule(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), cfg, 4)


def test_the_hyperbola_falls_in_the_warm_up_too_and_has_a_floor_after_it() -> None:
    expected = [0.1 / 4, 0.1 / 3, 0.1 / 2, 0.1, 0.1, 0.1, 0.05, 0.05]
    assert [rate(it, HYPERBOLIC, 4) for it in range(8)] == pytest.approx(expected)
    assert rate(12, HYPERBOLIC, 4) == 0.04
    early = OptimConfig(sched_type="custom_warmup_anneal", lr=0.1, warmup_iters=100, anneal_every_epoch=1.0)
    assert rate(50, early, 10) == pytest.approx(0.1 / 50 * 0.8**5)


def test_annealing_rises_from_zero_and_falls_by_four_fifths_whatever_the_coefficient() -> None:
    expected = [0.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.08, 0.08]
    assert [rate(it, LINEAR, 4) for it in range(8)] == pytest.approx(expected)
    assert rate(60, LINEAR, 4) == pytest.approx(0.1 * 0.8**10)


@pytest.mark.parametrize("name", ["annealing", "custom_warmup_anneal"])
def test_no_warm_up_begins_with_the_full_rate(name: str) -> None:
    cfg = OptimConfig(sched_type=name, lr=0.1, warmup_iters=0)
    assert rate(0, cfg, 4) == pytest.approx(0.1)


def test_a_schedule_goes_on_from_the_originals_state() -> None:
    straight, stopped = schedule(HYPERBOLIC), schedule(HYPERBOLIC)
    for _ in range(5):
        straight.step()
        stopped.step()
    saved = to_original(stopped)
    assert saved["_last_lr"] == [rate(5, HYPERBOLIC, 4)]
    assert saved["_step_count"] == 6
    resumed = schedule(HYPERBOLIC)
    resumed.load_state_dict(from_original(saved))
    assert [resumed.step() for _ in range(5)] == [straight.step() for _ in range(5)]


@pytest.mark.parametrize("state", [{}, {"last_epoch": "five"}, {"last_epoch": -1}])
def test_a_state_of_something_else_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(UserError, match="last_epoch"):
        from_original(state)
