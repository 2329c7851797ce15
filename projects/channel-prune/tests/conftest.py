"""Tiny runs that many tests look at: their data, their configurations, and finished ones nobody changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channel_prune.config import Config
from channel_prune.lowering import lower_values
from testing.pictures import write_colours

STEPS, SAVE = 6, 2
"""Steps of a tiny training, and between two checkpoints."""
PICTURES = {"train": 90, "test": 47}
TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": "cifar10",
    "width_divisor": 2,
    "batch_size": 16,
    "batch_size_eval": 20,
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
"""A network of 8 layers with at most 16 channels, on pictures of one colour for each class."""
Build = Callable[..., Config]
Finished = Callable[..., Path]


def words(values: dict[str, Any]) -> list[str]:
    """The command line that says some fields."""
    from channel_prune.cli import config_flags

    flags = {flag.name: flag.text for flag in config_flags()}
    found = []
    for name, value in values.items():
        if name in ("resume", "dry_run", "tour"):
            found += [f"--{name.replace('_', '-')}"] if value else []
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found.append(f"{flags[name]}={shown}")
    return found


@pytest.fixture(scope="session", autouse=True)
def fast_disk(unsynced: None) -> None:
    """Many tests write small files."""


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`TINY` with its data set."""
    folder = tmp_path_factory.mktemp("data")
    write_colours(folder, **PICTURES)
    return TINY | {"data_dir": str(folder)}


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> Finished:
    """Gives the folder of a full training, which is made once."""
    made: list[Path] = []

    def get() -> Path:
        if not made:
            from channel_prune.train import train

            output = tmp_path_factory.mktemp("full") / "run"
            made.append(train(lower_values(values | {"output": str(output)}), quiet=True))
        return made[0]

    return get


@pytest.fixture(scope="session")
def pruning(full: Finished, values: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Gives the values of a tiny pruned run in a folder."""

    def build(output: Path, preset: str = "fixed", **more: Any) -> dict[str, Any]:
        own = {"preset": preset, "learner": "chn-pruned-rmt", "save_path": str(full() / "last")}
        return values | own | {"output": str(output)} | more

    return build


@pytest.fixture(scope="session")
def build(pruning: Callable[..., dict[str, Any]]) -> Build:
    """Builds the configuration of a tiny pruned run in a folder."""
    return lambda output, preset="fixed", **more: lower_values(pruning(output, preset, **more))


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Finished:
    """Gives the folder of a finished pruned run (by preset), which is made once."""
    root = tmp_path_factory.mktemp("pruned")
    made: dict[str, Path] = {}

    def get(preset: str = "fixed") -> Path:
        if preset not in made:
            from channel_prune.train import train

            made[preset] = train(build(root / preset, preset), quiet=True)
        return made[preset]

    return get
