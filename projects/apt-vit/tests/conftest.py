"""Tiny runs that many tests look at: their data, their configurations, and finished ones nobody changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_vit.config import Config
from apt_vit.lowering import lower_values
from testing.pictures import write_colours

UPDATES, EVALUATE, SAVE = 6, 2, 3
"""Updates of a tiny training, between two evaluations, and between two checkpoints."""
PICTURES = {"train": 50, "test": 23}
TINY: dict[str, Any] = {
    "dataset": "cifar10",
    "checksum": "warn",
    "download": False,
    "num_workers": 0,
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_heads": 2,
    "num_layers": 4,
    "clip_layers": (0, 2),
    "img_size": (16, 16),
    "patch_size": (4, 4),
    "train_batch_size": 12,
    "gradient_accumulation_steps": 3,
    "eval_batch_size": 9,
    "validation_share": 0.2,
    "learning_rate": 0.05,
    "num_steps": UPDATES,
    "warmup_steps": 1,
    "eval_every": EVALUATE,
    "save_every": SAVE,
    "device": "cpu",
}
"""A network of 17 tokens of width 16 in 4 blocks, on pictures of one colour for each class.

An epoch has 10 micro-batches, under ``faithful`` 13: neither divides by the 3 of an update.
"""
Build = Callable[..., Config]
Finished = Callable[..., Path]


def words(values: dict[str, Any]) -> list[str]:
    """The command line that says some fields."""
    from apt_vit.cli import ORIGINAL

    found = []
    for name, value in values.items():
        flag = f"--{name}" if name in ORIGINAL else f"--{name.replace('_', '-')}"
        if name in ("resume", "dry_run", "tour", "show_shapes"):
            found += [flag] if value else []
        else:
            found += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
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
def valued(values: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Gives the values of a tiny run in a folder."""

    def build(output: Path, preset: str = "fixed", **more: Any) -> dict[str, Any]:
        own: dict[str, Any] = {"preset": preset, "output": str(output)}
        if preset == "faithful":
            own["validation_share"] = 0.0
        return values | own | more

    return build


@pytest.fixture(scope="session")
def build(valued: Callable[..., dict[str, Any]]) -> Build:
    """Builds the configuration of a tiny run in a folder."""
    return lambda output, preset="fixed", **more: lower_values(valued(output, preset, **more))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Finished:
    """Gives the folder of a finished run, by preset, which is made once."""
    root = tmp_path_factory.mktemp("finished")
    made: dict[str, Path] = {}

    def get(preset: str = "fixed") -> Path:
        if preset not in made:
            from apt_vit.train import train

            made[preset] = train(build(root / preset, preset), quiet=True)
        return made[preset]

    return get
