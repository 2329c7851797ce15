"""Tiny runs that many tests look at: their configurations, and finished ones that nobody changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channel_prune.config import Config
from channel_prune.lowering import lower_values

STEPS, SAVE = 6, 2
"""Steps of a tiny training, and between two checkpoints."""
TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": "tiny",
    "width_divisor": 2,
    "batch_size": 16,
    "batch_size_eval": 20,
    "nb_smpls_eval": 60,
    "workers": 0,
    "schedule": "constant",
    "nb_iters": STEPS,
    "lrn_rate_init": 0.05,
    "batch_size_norm": None,
    "nb_smpls": 32,
    "recalibrate": 32,
    "summ_step": 1,
    "save_step": SAVE,
    "device": "cpu",
}
"""A network of 8 layers with at most 16 channels, on generated pictures."""
Build = Callable[..., Config]


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a full training (by preset), which is made once."""
    root = tmp_path_factory.mktemp("full")
    made: dict[str, Path] = {}

    def get(preset: str = "fixed") -> Path:
        if preset not in made:
            from channel_prune.train import train

            made[preset] = train(lower_values(TINY | {"preset": preset, "output": str(root / preset)}))
        return made[preset]

    return get


@pytest.fixture(scope="session")
def pruning(full: Callable[[str], Path]) -> Build:
    """Builds the configuration of a tiny pruned run in a folder."""

    def build(output: Path, preset: str = "fixed", **more: Any) -> Config:
        values = {"preset": preset, "learner": "chn-pruned-rmt", "save_path": str(full("fixed") / "last")}
        return lower_values(TINY | values | {"output": str(output)} | more)

    return build


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory, pruning: Build) -> Callable[[str], Path]:
    """Gives the folder of a finished pruned run (by preset), which is made once."""
    root = tmp_path_factory.mktemp("pruned")
    made: dict[str, Path] = {}

    def get(preset: str = "fixed") -> Path:
        if preset not in made:
            from channel_prune.train import train

            made[preset] = train(pruning(root / preset, preset))
        return made[preset]

    return get
