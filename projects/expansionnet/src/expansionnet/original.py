"""Checkpoint files of the original: their names, their content, when they are written and deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from expansionnet.model import ExpansionNet

XE, RF = "xe", "rf"


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointName:
    """What the name of a checkpoint says."""

    written: datetime
    epoch: int
    iteration: int
    batch_size: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Where the original's loader stands."""

    epoch: int = 0
    """Epoch, from 0."""
    batch: int = 0
    """Batches of it that were read."""
    batch_size: int
    """Samples of a batch, of all processes."""
    seeds: tuple[float, ...] = ()
    """Seed of each epoch's order; empty: still to be drawn."""


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What a run goes on with, after the original's rules."""

    path: Path
    state: dict[str, Tensor]
    """Weights under the names of our model."""
    optimizer: dict[str, Any] | None
    """State for `torch.optim.Optimizer.load_state_dict` over the model's parameters in their order; None: begin anew."""
    loader: LoaderState
    """Where data go on; the micro-batch counter is ``loader.epoch * batches an epoch + loader.batch``."""


def find_newest(folder: str | Path) -> Path | None:
    """The newest checkpoint of a folder, by the date in its name; None where it holds none."""
    raise NotImplementedError


def resume(path: Path, model: ExpansionNet, *, reinforce: bool, batch_size: int) -> Resumed:
    """Read a checkpoint by the original's rules: with another kind of run or batch size only weights stay."""
    raise NotImplementedError


def write_checkpoint(
    folder: str | Path,
    model: ExpansionNet,
    optimizer: torch.optim.Optimizer,
    loader: LoaderState,
    *,
    iteration: int,
    learning_rate: float,
    reinforce: bool,
    keep: int,
) -> Path:
    """Write a checkpoint of the original and delete the oldest ones above ``keep``."""
    raise NotImplementedError
