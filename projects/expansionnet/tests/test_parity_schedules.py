"""Learning rates agree with recorded ones, as a function and through a schedule's steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD

from expansionnet.config import OptimConfig
from expansionnet.learning.schedules import make_schedule, rate
from testing.parity import Folder, of_kind


def config(setting: dict[str, Any]) -> OptimConfig:
    names = ("lr", "min_lr", "warmup_iters", "anneal_coeff", "anneal_every_epoch")
    return OptimConfig(sched_type=setting["type"], **{name: setting[name] for name in names})


@pytest.mark.parity
@of_kind("schedules")
def test_rates_are_those_recorded(folder: Folder) -> None:
    tolerance = folder.tolerance["rel"]
    for setting in folder.json("table*.json"):
        cfg, batches = config(setting), setting["num_batches"]
        for it, expected in setting["table"]:
            assert rate(it, cfg, batches) == pytest.approx(expected, rel=tolerance)
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=folder.facts["base_lr"])
        schedule = make_schedule(optimizer, cfg, batches)
        (first,) = (values for name, values in setting.items() if name.startswith("first_"))
        assert len(first) == folder.facts["num_first_via_scheduler"]
        for expected in first:
            assert schedule.step() == pytest.approx(expected, rel=tolerance)
            assert optimizer.param_groups[0]["lr"] == schedule.lr
