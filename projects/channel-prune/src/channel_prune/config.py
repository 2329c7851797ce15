"""The one truth about a run of channel-prune: frozen dataclasses, and `lower` from what was typed to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from prunelab.doors import did_you_mean
from prunelab.errors import UserError

PRESETS = ("faithful", "fixed")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    width: int = 32
    """Hidden units."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set."""

    samples: int = 512
    """Generated points in the training split."""
    batch_size: int = 32
    """Samples a step."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How it is trained."""

    epochs: int = 5
    """Passes over the training split."""
    learning_rate: float = 0.01
    """Of Adam."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"learning_rate is {self.learning_rate}, expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Around the training."""

    output: str = ""
    """The run's folder; empty: `runs/channel-prune` below the working directory."""
    seed: int = 0
    """Of everything that is random."""
    resume: bool = False
    """Go on from the newest checkpoint of the folder."""
    max_steps: int | None = None
    """Stop after this many micro-batches."""
    device: str = "auto"
    """Where it runs."""
    preset: str = "fixed"
    """`faithful`: with the original's quirks; `fixed`: without those that are plain bugs."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"preset is {self.preset!r}, expected one of {', '.join(PRESETS)}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunOptions = field(default_factory=RunOptions)


GROUPS = {"model": ModelConfig, "data": DataConfig, "optim": OptimConfig, "run": RunOptions}


def lower(raw: Mapping[str, Any]) -> Config:
    """Turn what was typed, by field name, into a config; what was not typed keeps its default.

    Raises:
        UserError: a name that is no field, or a value out of range.
    """
    groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    owner = {f.name: name for name, group in GROUPS.items() for f in fields(group)}
    for key, value in raw.items():
        if key not in owner:
            raise UserError(f"unknown key {key!r}: {did_you_mean(key, owner)}")
        groups[owner[key]][key] = value
    return Config(**{name: group(**groups[name]) for name, group in GROUPS.items()})
