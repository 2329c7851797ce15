"""Learning rates agree with the recorded ones, iteration by iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from acosp_seg.config import ModelConfig, OptimConfig
from acosp_seg.model.pspnet import PSPNet
from acosp_seg.steps import group_factors, learning_rate, make_optimizer, set_rates
from prunelab.optim import step
from testing.parity import Folder, of_kind

RTOL, ATOL = 1e-12, 1e-15  # as the folder's README says


def with_key(folder: Folder, key: str) -> list[dict[str, Any]]:
    """The recorded schedules that have a key; the test is skipped where none has."""
    entries = [entry for path in folder.find("*.json") for entry in folder.json(path.name).values()]
    return [e for e in entries if isinstance(e, dict) and key in e] or pytest.skip(f"no {key} recorded")


@pytest.mark.parity
@of_kind("lr")
@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_a_schedule_has_the_recorded_values(folder: Folder, schedule: str) -> None:
    for entry in with_key(folder, schedule):
        optim = OptimConfig(base_lr=entry["base"], power=entry["power"], lr_schedule=schedule, epochs=1)
        values = [learning_rate(optim, i, entry["max_iter"]) for i in range(len(entry[schedule]))]
        assert values == pytest.approx(entry[schedule], rel=RTOL, abs=ATOL)


@pytest.mark.parity
@of_kind("lr")
def test_steps_by_epochs_have_the_recorded_values(folder: Folder) -> None:
    found = with_key(folder, "step_epoch")
    for entry in found:
        each = {"base": entry["base"], "every": entry["step_epoch"], "rate": entry["multiplier"]}
        values = [step(epoch, **each) for epoch in range(len(entry["values"]))]
        assert values == pytest.approx(entry["values"], rel=RTOL, abs=ATOL)


@pytest.mark.parity
@of_kind("lr")
def test_each_iteration_uses_the_recorded_rates_of_trunk_and_head(folder: Folder) -> None:
    found = with_key(folder, "iters_per_epoch")
    with torch.device("meta"):
        model = PSPNet(ModelConfig(width=1, bins=(1,)))
    for entry in found:
        optim = OptimConfig(
            base_lr=entry["base"],
            epochs=entry["epochs"],
            power=entry["power"],
            head_factor=entry["head_factor"],
        )
        each = entry["iters_per_epoch"]
        optimizer, factors = make_optimizer(model, optim), group_factors(model, optim)
        used = []
        for done in range(entry["epochs"] * each):
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates[:5] == [rates[0]] * 5
            assert rates[5:] == [rates[5]] * 3
            used.append([rates[0], rates[5]])
            set_rates(optimizer, learning_rate(optim, done + 1, each), factors)
        assert np.array(used) == pytest.approx(np.array(entry["values"]), rel=RTOL, abs=ATOL)
