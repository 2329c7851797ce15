"""Checkpoint files of the original: their names and content, and how they are written and gone on from.

A file is ``torch.save`` of a dict with the states of model, optimiser, scheduler and loader. Its name tells
when it was written; the original writes the time with colons, which not every file system takes, and ours
with hyphens. Both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from expansionnet.config import OPTIMIZERS
from expansionnet.files.recognise import ORIGINAL, recognise
from expansionnet.layout import REINFORCE, XE
from expansionnet.learning import schedules
from prunelab.errors import UserError
from prunelab.hub import load_state
from prunelab.optim import Schedule
from prunelab.torchfile import load_pth
from prunelab.util import atomic_write

if TYPE_CHECKING:
    from expansionnet.model import ExpansionNet

MODEL, OPTIMIZER, SCHEDULER, LOADER = (
    f"{part}_state_dict" for part in ("model", "optimizer", "scheduler", "data_loader")
)
"""Keys of a checkpoint."""
ADAM, RADAM = OPTIMIZERS
BASE_RATE = 1.0
"""Learning rate of the original's optimisers, which its scheduler multiplies."""
_NAME = re.compile(
    r"checkpoint_(\d{4}-\d\d-\d\d-\d\d[:-]\d\d[:-]\d\d)_epoch(\d+)it(\d+)bs(\d+)_(xe|rf)_\.pth", re.ASCII
)


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointName:
    """What the name of a checkpoint says; later ones are greater."""

    written: datetime
    """When it was written, in seconds."""
    epoch: int
    """Epoch that was trained last, from 0."""
    batch: int
    """Batches of it that were trained."""
    batch_size: int
    """Samples of a batch."""
    kind: str
    """``xe`` or ``rf``."""

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Read a file's name; None where it is of something else."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            written = datetime.strptime(found[1].replace(":", "-"), "%Y-%m-%d-%H-%M-%S")
        except ValueError:  # such as a 13th month
            return None
        epoch, batch, size = (int(found[at]) for at in (2, 3, 4))
        return cls(written=written, epoch=epoch, batch=batch, batch_size=size, kind=found[5])

    def __str__(self) -> str:
        """The name of the file."""
        when = self.written.strftime("%Y-%m-%d-%H-%M-%S")
        return f"checkpoint_{when}_epoch{self.epoch}it{self.batch}bs{self.batch_size}_{self.kind}_.pth"


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Where the original's loader stands."""

    epoch: int = 0
    """Epoch, from 0."""
    batch: int = 0
    """Batches of it that were read; all of them at its end."""
    batch_size: int
    """Samples of a batch, of all processes."""
    seeds: tuple[float, ...] = ()
    """Seed of each epoch's order, the list repeated as the original does; empty where they are not known."""

    @classmethod
    def of(cls, content: Any, path: Path) -> LoaderState:
        """Read a checkpoint's ``data_loader_state_dict``.

        Raises:
            UserError: it is not the state of a loader.
        """
        try:
            return cls(
                epoch=int(content["epoch_it"]),
                batch=int(content["batch_it"]),
                batch_size=int(content["batch_size"]),
                seeds=tuple(float(seed) for seed in content["array_of_init_seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: {LOADER} is not what the original writes, expected epoch_it, batch_it, batch_size "
                "and array_of_init_seed"
            ) from error

    @property
    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "batch_it": self.batch,
            "epoch_it": self.epoch,
            "batch_size": self.batch_size,
            "array_of_init_seed": list(self.seeds),
        }

    def micro_batches(self, batches_per_epoch: int) -> int:
        """Micro-batches done in all: the number of the next one."""
        return self.epoch * batches_per_epoch + self.batch


# ------------------------------------------------------------------------------------------------------ files


def checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoints in a folder, the oldest first; files of other names are none."""
    place = Path(folder)
    files = sorted(place.iterdir()) if place.is_dir() else []
    named = [(found, file) for file in files if (found := CheckpointName.parse(file.name)) and file.is_file()]
    return [file for _, file in sorted(named)]


def find_newest(folder: str | Path) -> Path | None:
    """The newest checkpoint in a folder, by the time in its name; None where there is none."""
    return next(reversed(checkpoints(folder)), None)


def write_checkpoint(
    folder: str | Path,
    model: ExpansionNet,
    optimizer: Optimizer,
    schedule: Schedule,
    loader: LoaderState,
    *,
    reinforce: bool,
    keep: int,
    written: datetime | None = None,
) -> Path:
    """Write a checkpoint that the original can go on from, and delete the oldest so that ``keep`` remain.

    Those of training by reward and those by cross entropy are counted apart: a phase must not delete what it
    started from. The original counts both together; it deletes one file where there are exactly ``keep``
    before it writes, and none where there are more, which then stay for ever.

    Args:
        folder: where to.
        model: the bare network.
        optimizer: over all its parameters, in their order.
        schedule: of the learning rate, after the same micro-batches.
        loader: where the data stand.
        reinforce: whether training is by reward.
        keep: how many files of this kind of training remain, the new one included.
        written: what the name says of the time; None: now.

    Raises:
        UserError: the file cannot be written; the others are unchanged then.
    """
    name = CheckpointName(
        written=written or datetime.now(),
        epoch=loader.epoch,
        batch=loader.batch,
        batch_size=loader.batch_size,
        kind=REINFORCE if reinforce else XE,
    )
    target = Path(folder) / str(name)
    scheduler = schedules.to_original(schedule)
    training = {
        OPTIMIZER: _written_optimizer(optimizer, scheduler["_last_lr"][0]),
        SCHEDULER: scheduler,
        LOADER: loader.content,
    }
    write_model(target, model, training)
    alike = [file for file in checkpoints(folder) if file.name.endswith(f"_{name.kind}_.pth")]
    for old in [file for file in alike if file != target][: -(keep - 1) or None]:
        old.unlink(missing_ok=True)
    return target


def write_model(path: str | Path, model: ExpansionNet, training: Mapping[str, Any] | None = None) -> None:
    """Write a network as the original does, alone (as its published weights) or with states of training."""
    state = {name: value.detach().cpu() for name, value in model.original_state().items()}
    with atomic_write(path) as file:
        torch.save({MODEL: state, **(training or {})}, file)


def _written_optimizer(optimizer: Optimizer, rate: float) -> dict[str, Any]:
    """State of an optimiser with what the original's scheduler keeps in it; its parameters are in order."""
    plain = optimizer.state_dict()
    groups = []
    for group in plain["param_groups"]:
        kept = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
        groups.append(kept | {"lr": rate, "initial_lr": BASE_RATE, "params": group["params"]})
    return {"state": plain["state"], "param_groups": groups}


# -------------------------------------------------------------------------------------------------- going on


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What a run goes on with besides weights."""

    path: Path
    """The checkpoint."""
    optimizer: dict[str, Any] | None
    """State for `torch.optim.Optimizer.load_state_dict`; None: the optimiser begins anew."""
    schedule: dict[str, Any] | None
    """State for `prunelab.optim.Schedule.load_state_dict`; None: the schedule begins anew."""
    loader: LoaderState
    """Where the data go on."""
    line: str
    """What to tell the user."""


def resume(path: Path, model: ExpansionNet, *, reinforce: bool, batch_size: int, optim_type: str) -> Resumed:
    """Load a checkpoint into a model, and find out what else goes on, by the original's rules.

    After cross entropy, training by reward begins anew with the weights, and so does a run with another batch
    size: optimiser and schedule from their start, data from epoch 0.

    Args:
        path: the checkpoint; its name tells how it was trained, ``xe`` where it has another.
        model: gets the weights, all of which must fit.
        reinforce: whether the run trains by reward.
        batch_size: of the run, over all processes.
        optim_type: of the run, ``adam`` or ``radam``.

    Raises:
        UserError: a damaged file, weights of another model, or the state of another optimiser.
    """
    content = load_pth(path)
    found = recognise(content, path)
    if found.kind != ORIGINAL or not {OPTIMIZER, SCHEDULER, LOADER} <= found.training.keys():
        raise UserError(f"{path}: {found}, expected a checkpoint to go on from, with the state of a training")
    load_state(model, found.state, where=str(path))
    loader = LoaderState.of(found.training[LOADER], path)
    named = CheckpointName.parse(path.name)
    reason = ""
    if reinforce and (named is None or named.kind == XE):
        reason = "it was trained by cross entropy"
    elif loader.batch_size != batch_size:
        reason = f"its batches are of {loader.batch_size} samples, here of {batch_size}"
    if reason:
        return Resumed(
            path=path,
            optimizer=None,
            schedule=None,
            loader=LoaderState(batch_size=batch_size, seeds=loader.seeds),
            line=f"weights of {path}; all else begins anew, as {reason}",
        )
    return Resumed(
        path=path,
        optimizer=_read_optimizer(found.training[OPTIMIZER], model, optim_type, path),
        schedule=schedules.from_original(found.training[SCHEDULER]),
        loader=loader,
        line=f"goes on from {path}: epoch {loader.epoch}, {loader.batch} batches of it done",
    )


def _read_optimizer(state: Any, model: ExpansionNet, optim_type: str, path: Path) -> dict[str, Any]:
    """Check that a checkpoint's optimiser is that of this run, whose parameters have the original's order.

    Raises:
        UserError: it is another one, or has another number of parameters, or moments of other shapes.
    """
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    try:
        groups, entries = state["param_groups"], state["state"]
        theirs = RADAM if all("buffer" in group for group in groups) else ADAM
        count = sum(len(group["params"]) for group in groups)
        moments = {index: tuple(entry["exp_avg"].shape) for index, entry in entries.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {OPTIMIZER} is not what the original writes") from error
    if theirs != optim_type:
        raise UserError(f"optim_type is {optim_type}, expected {theirs}, with which {path} was trained")
    wrong = [index for index, shape in moments.items() if index >= len(shapes) or shapes[index] != shape]
    if count != len(shapes) or wrong:
        raise UserError(
            f"{path}: the optimiser has {count} parameters, {len(wrong)} of them of other shapes, "
            f"expected the model's {len(shapes)}"
        )
    return state
