"""What a run folder tells: text, JSON lines, TensorBoard, and how the run was started."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml

from prunelab.clock import Clock, Counter, Every
from prunelab.progress import Progress, number
from prunelab.util import atomic_write, write_json

METRICS = "metrics.jsonl"


class RunLog:
    """Appends to the files of a run folder; other ranks than 0 get one that writes nothing.

    Files that are appended to (`append`) have a length in each checkpoint (`marks`). When a run goes on from
    there, each is cut back to that length at its first write, so that no line comes twice.

    Args:
        folder: the run folder.
        console: where lines for people go besides ``log.txt``.
        writes: whether this process writes at all.
        tensorboard: whether scalars go to TensorBoard too.
        marks: the lengths to go on from; None at a fresh start.
        step: the step to go on from.
    """

    def __init__(
        self,
        folder: Path,
        console: Progress,
        *,
        writes: bool,
        tensorboard: bool,
        marks: Mapping[str, int] | None = None,
        step: int = 0,
    ) -> None:
        self._folder = folder
        self._console = console
        self.writes = writes
        self._tensorboard = tensorboard
        self._marks = None if marks is None else dict(marks)
        self._step = step
        self._files: dict[str, IO[bytes]] = {}
        self._events: Any = None

    def text(self, line: str) -> None:
        """Add a line with the time of day to ``log.txt``."""
        if self.writes:
            now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            with open(self._folder / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{now} {line}\n")

    def say(self, line: str) -> None:
        """Print a line and keep it in ``log.txt``."""
        self._console.line(line)
        self.text(line)

    def progress(self, step: int, values: Mapping[str, float], *, epoch: int | None, seconds: float) -> None:
        """Tell people how far the run is: at the end of a bar, or as a line; and in ``log.txt``.

        Args:
            step: of the figures.
            values: figures by name.
            epoch: from 0; None where steps alone are counted.
            seconds: of training so far.
        """
        if not self.writes:
            return
        text = "  ".join(f"{name} {number(value)}" for name, value in values.items())
        where = "" if epoch is None else f"epoch {epoch + 1}  "
        line = f"{self._console.place(step, seconds)}  {where}{text}"
        self.text(line)
        if self._console.live:
            self._console.step(step, seconds, text)
        else:
            self._console.line(line)

    def scalars(
        self, step: int, values: Mapping[str, float], *, at: int | None = None, **place: float
    ) -> None:
        """Write figures of a step as one JSON line and to TensorBoard.

        Args:
            step: the step they belong to.
            values: the figures; infinite ones and nan become strings in JSON.
            at: where TensorBoard draws them; None: at the step.
            place: more fields of the JSON line (epoch, seconds); not for TensorBoard.
        """
        if not self.writes:
            return
        record = {"step": step, **place, **{name: _json_number(v) for name, v in values.items()}}
        self.append(METRICS, json.dumps(record, allow_nan=False))
        if self._tensorboard:
            events = self._open_events()
            for name, value in values.items():
                events.add_scalar(name, value, step if at is None else at)

    def append(self, name: str, line: str) -> None:
        """Add a line to a text file of the run folder, which is cut back when a run goes on."""
        if not self.writes:
            return
        if name not in self._files:
            self._files[name] = self._open(name)
        self._files[name].write(line.encode() + b"\n")
        self._files[name].flush()

    def _open(self, name: str) -> IO[bytes]:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 - closed by close()
        if self._marks is not None:
            file.truncate(min(self._marks.get(name, 0), file.tell()))
        return file

    def _open_events(self) -> Any:
        if self._events is None:
            from tensorboardX import SummaryWriter

            # Events after the checkpoint stay in the earlier file; readers drop them for the sake of this
            # mark.
            purge = None if self._marks is None else self._step + 1
            # The name has the second of the start; the step keeps two starts within one second apart.
            suffix = f".from-{self._step + 1}"
            self._events = SummaryWriter(logdir=str(self._folder), purge_step=purge, filename_suffix=suffix)
        return self._events

    def marks(self) -> dict[str, int]:
        """The present length of each appended file, of this start and of earlier ones."""
        lengths = dict(self._marks or {})
        lengths.update({name: file.tell() for name, file in self._files.items()})
        return lengths

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._events is not None:
            self._events.close()
            self._events = None


class Figures:
    """Collects the figures of a step, and reads and writes them only where a line is due.

    Args:
        log: where lines go.
        log_every: cadence of ``metrics.jsonl`` and TensorBoard.
        console_every: cadence of lines for people.
        counter: of the run.
        clock: of the run.
        due: whether a cadence falls on the present step.
    """

    def __init__(
        self,
        log: RunLog,
        log_every: str,
        console_every: str,
        counter: Counter,
        clock: Clock,
        due: Callable[[Every], bool],
    ) -> None:
        self._log = log
        self._log_every = Every.parse(log_every)
        self._console_every = Every.parse(console_every)
        self._counter = counter
        self._clock = clock
        self._due = due
        self._pending: dict[str, Any] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep figures of this step, if they may be wanted at its end."""
        if self._may_tell(self._log_every) or self._may_tell(self._console_every):
            for name, value in values.items():
                self._pending[name] = value.detach() if isinstance(value, torch.Tensor) else value

    def _may_tell(self, every: Every) -> bool:
        """Whether a line may be due in this step; updates and minutes are known only at its end."""
        return every.unit != "steps" or self._due(every)

    def flush(self) -> None:
        """Write what is kept, as far as a line is due, and forget it."""
        if self._pending:
            pending, self._pending = self._pending, {}
            self.write(pending, to_log=self._due(self._log_every), to_console=self._due(self._console_every))

    def write(
        self,
        values: Mapping[str, Any],
        *,
        to_log: bool = True,
        to_console: bool = False,
        at: int | None = None,
    ) -> None:
        """Write figures now, as those of the present step; ``at``: where TensorBoard draws them instead."""
        if not self._log.writes or not (to_log or to_console):
            return
        counter, seconds = self._counter, self._clock.seconds
        figures = {name: read(value) for name, value in values.items()}
        if to_log:
            place = {"updates": counter.updates, "seconds": round(seconds, 3)}
            if counter.epochs is not None:
                place = {"epoch": counter.epoch} | place
            self._log.scalars(counter.step, figures, at=at, **place)
        if to_console:
            epoch = None if counter.epochs is None else counter.epoch
            self._log.progress(counter.step, figures, epoch=epoch, seconds=seconds)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def plain(value: Any) -> Any:
    """Nested configuration as what YAML holds: paths become strings, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """One line for each entry in which two configurations differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines = []
        for key in [*before, *(k for k in after if k not in before)]:
            lines += differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if before == after else [f"{path} was {before!r}, now {after!r}"]


def describe(folder: Path, config: Mapping[str, Any], *, compare: bool) -> list[str]:
    """Write what explains a run: ``config.yaml``, ``versions.json``, and one more line of ``command.txt``.

    Returns:
        With ``compare``, what differs from the ``config.yaml`` that was there before.
    """
    path = folder / "config.yaml"
    now = plain(config)
    earlier = _read_yaml(path) if compare else None
    with atomic_write(path, "w") as file:
        yaml.safe_dump(now, file, sort_keys=False, allow_unicode=True)
    versions = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "prunelab": importlib.metadata.version("prunelab"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    write_json(folder / "versions.json", versions)
    with open(folder / "command.txt", "a", encoding="utf-8") as file:
        file.write(shlex.join(sys.argv) + "\n")
    return [] if earlier is None else differences(earlier, now)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None


def read(value: Any) -> float:
    """A figure as a Python number, from a number or a one-element tensor; whole numbers stay whole."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    return value if isinstance(value, int) else float(value)
