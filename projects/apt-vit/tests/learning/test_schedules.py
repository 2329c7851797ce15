"""Multipliers of the learning rate, by hand."""

from __future__ import annotations

import pytest

from apt_vit.config import OptimConfig
from apt_vit.learning.schedules import rate


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("cosine", [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.25, 0.0, 0.25]),
        ("linear", [0.0, 0.25, 0.5, 0.75, 1.0, 2 / 3, 1 / 3, 0.0, 0.0]),
        ("constant", [1.0] * 9),
        ("warmup_constant", [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_warm_up_and_decay_are_as_computed_by_hand(decay: str, expected: list[float]) -> None:
    cfg = OptimConfig(decay_type=decay, warmup_steps=4, num_steps=7)
    assert [rate(update, cfg) for update in range(9)] == pytest.approx(expected, abs=1e-15)


def test_without_warm_up_the_first_rate_is_the_base() -> None:
    cfg = OptimConfig(warmup_steps=0, num_steps=10)
    assert rate(0, cfg) == 1.0
    assert rate(10, cfg) == pytest.approx(0.0, abs=1e-15)
