"""The folder of a run: what it needs to know, who may write into it, and what to go on from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab import checkpoint
from prunelab.checkpoint import reached
from prunelab.clock import Every
from prunelab.errors import UserError
from prunelab.log import METRICS, describe
from prunelab.util import atomic_folder, read_json, recover_folder

FINISHED = "finished.json"
"""Written when a run has come to its end."""

CHECKPOINTS = "checkpoints"
ONCE = "once"
MODEL_FOLDERS = ("last", "best")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run needs to know, whatever the paper."""

    dir: Path
    """The run folder; one that holds a run already is refused unless ``resume`` is set."""
    seed: int = 0
    """Seed of everything random."""
    resume: bool = False
    """Go on from the newest whole checkpoint in ``dir``; begin from the start where there is none yet."""
    start_from: Path | None = None
    """A checkpoint (or a run folder with one) whose whole state a new run takes over, counters included.
    Initial weights alone are the project's to load, before it tracks the model."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    max_steps: int | None = None
    """Stop after this many micro-batches in all."""
    keep_last: int = 2
    """How many of the newest checkpoints stay, besides the best one."""
    log_every: str = "25 steps"
    """Cadence of figures in ``metrics.jsonl`` and TensorBoard."""
    console_every: str = "25 steps"
    """Cadence of progress lines where the console is no terminal, and in ``log.txt``."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    quiet: bool = False
    """Print nothing; the files are written all the same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir))
        Every.parse(self.log_every)
        Every.parse(self.console_every)
        for name in ("keep_last", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; expected a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a run begins."""

    source: Path | None = None
    """The checkpoint to load."""
    own: bool = False
    """It is this run's own, so that logs go on."""
    finished: Mapping[str, int] | None = None
    """What the run noted when it came to its end, if it did."""
    lines: list[str] = field(default_factory=list)
    """What to tell the user."""


def claim(cfg: RunConfig, config: Mapping[str, Any]) -> Beginning:
    """Refuse a folder that holds a run, or find what to go on from, and write down how the run was started.

    Nothing is touched before all checks have passed.

    Args:
        cfg: of the run.
        config: the project's whole configuration, for ``config.yaml``.

    Raises:
        UserError: the folder holds a run and ``resume`` is off, is no folder or cannot be written; all
            checkpoints are damaged; ``start_from`` has none.
    """
    folder, lines, source, finished = cfg.dir, [], None, None
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder for the run")
    held = check_free(folder, resume=cfg.resume)
    if cfg.resume:
        source = _own_checkpoint(folder, lines)
        if source is None and held not in (FINISHED, ONCE):
            lines.append(f"{folder}: no checkpoint to resume from; beginning from the start")
        finished = read_json(folder / FINISHED) if (folder / FINISHED).is_file() else None
    own = source is not None
    if source is None and finished is None and cfg.start_from is not None:
        source = checkpoint.resolve(Path(cfg.start_from), lines.append)
        lines.append(f"starting from {source}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines += [f"config: {line}" for line in describe(folder, config, compare=cfg.resume)]
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror}; expected a folder for the run"
        ) from error
    for name in MODEL_FOLDERS:
        recover_folder(folder / name)
    return Beginning(source=source, own=own, finished=finished, lines=lines)


def check_free(folder: Path, *, resume: bool) -> str | None:
    """Refuse a folder that holds a run, unless that is to be resumed; for work that comes before a run.

    Returns:
        The first sign of a run; None: there is none.

    Raises:
        UserError: there is one, and ``resume`` is off.
    """
    held = _holds_run(folder)
    if held is not None and not resume:
        raise UserError(f"{folder}: already holds a run ({held}); expected --resume or another folder")
    return held


def _own_checkpoint(folder: Path, lines: list[str]) -> Path | None:
    checkpoints = folder / CHECKPOINTS
    checkpoint.clean(checkpoints)
    present = checkpoint.listed(checkpoints)
    source = checkpoint.newest(checkpoints, lines.append)
    if source is None:
        return None
    for damaged in present[present.index(source) + 1 :]:
        checkpoint.set_aside(damaged)
    lines.append(f"resuming from {source}")
    return source


def _holds_run(folder: Path) -> str | None:
    """The first sign that a folder holds a run."""
    if checkpoint.listed(folder / CHECKPOINTS):
        return CHECKPOINTS
    for name in (METRICS, FINISHED):
        if (folder / name).exists():
            return name
    return ONCE if any((folder / ONCE).glob("*")) else None


def write_model_folders(folder: Path, fill: Callable[[Path], None], *, best: bool) -> None:
    """Replace the run's ``last/`` model folder, and ``best/`` too if ``best``; each atomically.

    Args:
        folder: the run folder.
        fill: writes a loadable model into an empty folder.
        best: the model is the best one so far.
    """
    last = folder / "last"
    with atomic_folder(last) as new:
        fill(new)
        reached("model folder: last")
    if best:
        with atomic_folder(folder / "best") as new:
            shutil.copytree(last, new, dirs_exist_ok=True)
            reached("model folder: best")


def tour_folder(root: Path, output: str = "", *, resume: bool = False) -> Path:
    """The folder of a tour: as typed, else the newest below ``root`` to go on with, else a new numbered one.

    Raises:
        UserError: ``resume`` and there is no tour.
    """
    if output:
        return Path(output)
    numbers = [int(m[1]) for p in root.glob("tour-*") if (m := re.fullmatch(r"tour-(\d+)", p.name))]
    if resume and not numbers:
        raise UserError(f"--resume: {root} holds no tour to go on with")
    return root / f"tour-{max(numbers, default=0) + (not resume):03d}"
