"""Learning rates, as recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from apt_vit.config import Config, OptimConfig, QuirkConfig
from apt_vit.learning.schedules import rate
from apt_vit.steps import Updates, make_optimizer
from testing.parity import Folder, of_kind

from .small import small_model

CLOSE = {"rel": 1e-12, "abs": 0.0}


def config(table: dict[str, Any]) -> OptimConfig:
    return OptimConfig(
        decay_type=table["kind"],
        warmup_steps=table["warmup_steps"],
        num_steps=table["t_total"],
        learning_rate=table["base_lr"],
    )


@pytest.mark.parity
@of_kind("schedules")
def test_multipliers_and_rates_are_the_recorded_ones(folder: Folder) -> None:
    tables = folder.json("tables.json")
    assert tables
    for table in tables:
        cfg = config(table)
        for step, expected in table["multiplier_at_step"].items():
            assert rate(int(step), cfg) == pytest.approx(expected, **CLOSE), (table["kind"], step)
        assert cfg.learning_rate * rate(0, cfg) == pytest.approx(
            table["lr_right_after_construction"], **CLOSE
        )


@pytest.mark.parity
@of_kind("schedules")
def test_updates_use_the_recorded_rates(folder: Folder) -> None:
    model = small_model(clip_layers=(), num_layers=1)
    for table in folder.json("tables.json"):
        cfg = config(table)
        cfg = Config(model=model.cfg, optim=cfg, quirks=QuirkConfig.of("faithful"))
        updates = Updates(make_optimizer(model, cfg.optim), cfg)
        for step, expected in table["lr_used_by_update"].items():
            updates.load_state_dict({"count": int(step) - 1})
            model.head.bias.grad = torch.zeros_like(model.head.bias)
            used = updates.update(cfg.optim.gradient_accumulation_steps - 1)["train/lr"]
            assert used == pytest.approx(expected, **CLOSE), (table["kind"], step)
