"""The run around a paper's own loop: where to begin, counting, cadence, logging, saving, stopping.

    with Run(cfg.run, config=to_plain(cfg), name="smp-caption") as run:
        model = build(cfg.model, structure=run.structure)
        optimizer = make_optimizer(model, cfg.optim)
        run.track(model=model, optimizer=optimizer, sampler=sampler)
        for epoch in run.epochs(cfg.optim.epochs):
            for step, batch in run.steps(loader):
                run.log(**train_step(model, optimizer, batch))
                if run.due("500 steps"):
                    run.save()

A run never sees a loss, an optimizer step or a schedule: those are the paper's and stand in its loop.

**Where a run begins**: its own newest checkpoint (only with ``resume``), else a given one (``start_from``),
else whatever the project built: initial weights that it loaded, or none.

**What resuming means**: with the same configuration on the CPU, a run that was killed anywhere and resumed
ends with the same bits as one that was not. For that, `Run.save` comes last in the body of a loop, whatever
lives across steps is tracked, and work that changes the model between steps asks the model (or
`Run.structure`), not the epoch, whether it has been done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import torch
from torch import nn

from prunelab import checkpoint, dist, tracked
from prunelab.checkpoint import Checkpoint, reached
from prunelab.clock import Clock, Every, crossed, due
from prunelab.errors import UserError
from prunelab.log import METRICS, RunLog, describe
from prunelab.optim import NonFiniteError
from prunelab.progress import Progress, duration, number
from prunelab.seed import RngState, derive, preserved, seed_all
from prunelab.util import atomic_folder, read_json, recover_folder, write_json

T = TypeVar("T")

FINISHED = "finished.json"
KEPT_BATCHES = 5
"""How many batches `Run.keep_batch` keeps in one start."""


class _Stopped(Exception):
    """Leaves the ``with`` block of a run that was told to stop before one-off work; never seen outside."""


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
    """A checkpoint (or a run folder with one) whose whole state a new run takes over, counters included."""
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
        for field in ("keep_last", "max_steps"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UserError(f"{field} is {value}; expected a whole number of at least 1")


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode for a while, then give every submodule back the mode it had.

    For decoding inside a training step. `Run.evaluating` is for evaluation proper.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class Run(AbstractContextManager["Run"]):
    """One training run, or one stage of it, in a folder of its own.

    In several processes all ranks make the same calls in the same order; only rank 0 writes. Stages (train,
    then fine-tune) are several runs in sequence with sub-folders of one folder: one that has finished says so
    in ``finished.json``, and resuming it makes no step but loads its final state.

    Args:
        config: see `RunConfig`.
        config_data: the project's whole configuration as plain data, for ``config.yaml``.
        name: what the console calls this run.

    Attributes:
        device: where models and batches go.
        rank: number of this process.
        world_size: number of processes.
        is_main: whether this process writes.
        structure: plain data to build the model by; None on a fresh start. Readable before anything is built.
        resumed: whether the state comes from a checkpoint.
        step: micro-batches so far; inside the loop's body the present one is counted, so the first is 1.
        updates: optimizer updates so far, as told by `updated`.
        epoch: the present epoch, from 0.
        steps_per_epoch: micro-batches in an epoch, once `steps` was given a loader that knows its length.
        stopping: told to stop (a signal); the loops end, a checkpoint has been written.
        finished: this run had come to its end before.
    """

    def __init__(self, cfg: RunConfig, *, config: Mapping[str, Any] | None = None, name: str = "run") -> None:
        self.cfg = cfg
        self.name = name
        self._config = config or {}
        self.structure: Any = None
        self.resumed = False
        self.step = 0
        self.updates = 0
        self.epoch = 0
        self.steps_per_epoch: int | None = None
        self.stopping = False
        self.finished = False
        self._epochs: int | None = None
        self._finished_epochs = 0
        self._position = 0  # micro-batches of this epoch
        self._after_steps = False  # the epoch's micro-batches are through
        self._complete = True  # nothing was cut short: the end of the block is the end of the run
        self._in_step = False
        self._updates_before = 0
        self._objects: dict[str, Any] = {}
        self._source: Checkpoint | None = None
        self._dirty = False
        self._ready = False
        self._best: dict[str, dict[str, Any]] = {}
        self._pending: dict[str, Any] = {}
        self._batch: Any = None
        self._kept = 0
        self._epoch_random: RngState | None = None
        self._minutes: dict[Every, list[Any]] = {}  # cadence -> [multiples so far, due in this step]
        self._clock = Clock()
        self._signals = dist.StopSignals()
        self._agreement = dist.Agreement()
        self._log_every = Every.parse(cfg.log_every)
        self._console_every = Every.parse(cfg.console_every)

    # Beginning and end ------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        cfg = self.cfg
        self.device = dist.start(cfg.device)
        self.rank, self.world_size, self.is_main = dist.rank(), dist.world_size(), dist.is_main()
        self._progress = Progress(self.name, quiet=cfg.quiet or not self.is_main)
        begin = dist.on_main(self._claim_folder)
        marks: Mapping[str, int] | None = {} if cfg.resume else None
        if begin["finished"] is not None:
            self.finished, self._finished_epochs = True, begin["finished"]["epochs"]
        if begin["source"] is not None:
            self._source = Checkpoint(Path(begin["source"]))
            marks = self._take_counts(self._source.part("run"), own=begin["own"])
        self._log = RunLog(
            cfg.dir, writes=self.is_main, tensorboard=cfg.tensorboard, marks=marks, step=self.step
        )
        for line in begin["lines"]:
            self.say(line)
        seed_all(cfg.seed)
        self._signals.install()
        return self

    def _claim_folder(self) -> dict[str, Any]:
        """Refuse a folder that holds a run, or find what to go on from; on rank 0."""
        folder, lines, source = self.cfg.dir, [], None
        checkpoints = folder / "checkpoints"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; expected a folder for the run")
        if self.cfg.resume:
            source = self._own_checkpoint(checkpoints, lines)
        elif (held := _holds_run(folder)) is not None:
            raise UserError(f"{folder}: already holds a run ({held}); expected --resume or another folder")
        own = source is not None
        if source is None and self.cfg.start_from is not None:
            source = checkpoint.resolve(Path(self.cfg.start_from), lines.append)
            lines.append(f"starting from {source}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines += [f"config: {line}" for line in describe(folder, self._config)]
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written: {error.strerror}; expected a run folder"
            ) from error
        for name in ("last", "best"):
            recover_folder(folder / name)
        finished = read_json(folder / FINISHED) if own and (folder / FINISHED).is_file() else None
        return {"source": source and str(source), "own": own, "lines": lines, "finished": finished}

    def _own_checkpoint(self, checkpoints: Path, lines: list[str]) -> Path | None:
        checkpoint.clean(checkpoints)
        present = checkpoint.listed(checkpoints)
        source = checkpoint.newest(checkpoints, lines.append)
        if source is None:
            lines.append(f"{self.cfg.dir}: no checkpoint to resume from; beginning from the start")
            return None
        for damaged in present[present.index(source) + 1 :]:
            checkpoint.set_aside(damaged)
        lines.append(f"resuming from {source}")
        return source

    def _take_counts(self, state: Mapping[str, Any], *, own: bool) -> Mapping[str, int] | None:
        assert self._source is not None
        self.resumed = True
        self.structure = self._source.structure
        self.step, self.updates = state["step"], state["updates"]
        self.epoch, self._position = state["epoch"], state["position"]
        self._best = state["best"]
        self._clock.load_state_dict(state["clock"])
        if state["epoch_random"] is not None:
            self._epoch_random = RngState.from_state_dict(
                state["epoch_random"][self.rank % len(state["epoch_random"])]
            )
        return state["marks"] if own else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if kind is None:
                self._end()
            elif isinstance(error, NonFiniteError) and self._batch is not None:
                error.args = (f"{error}; the batch is kept in {self.keep_batch(self._batch)}",)
            if error is not None and not isinstance(error, _Stopped):
                self._log.text(f"ended by {type(error).__name__}: {error}")
        finally:
            self._clock.stop()
            self._progress.close()
            self._log.close()
            self._signals.remove()
            self._batch = self._source = None
        return isinstance(error, _Stopped)

    def _end(self) -> None:
        """The block ended well: leave a final checkpoint, and say so if nothing was cut short."""
        self._end_step()
        if self.stopping:
            return
        if self._objects and self._dirty:
            self.save()
        if self._complete and not self.finished:
            reached("finish")
            data = {"step": self.step, "updates": self.updates, "epochs": self._epochs or 0}
            dist.on_main(lambda: write_json(self.cfg.dir / FINISHED, data))
            self._log.text(f"finished after {self.step} steps, {duration(self._clock.seconds)} of training")

    # State ------------------------------------------------------------------------------------------------

    def track(self, **objects: Any) -> None:
        """Put objects into every checkpoint, and on resume load them strictly, random states last.

        Modules, optimizers, samplers, schedules, pruners: anything with ``state_dict`` and
        ``load_state_dict``; also torch and NumPy generators. At a fresh start in several processes, modules
        get rank 0's values, and ranks other than 0 their own random numbers from here on.

        Raises:
            UserError: an object cannot be saved, or the checkpoint is of another model or lacks it.
        """
        for name, value in objects.items():
            if name in self._objects:
                raise UserError(f"track({name}=...): already tracked; expected retrack() to replace it")
            tracked.check_trackable(name, value)
        first = not self._objects
        self._objects.update(objects)
        if self._source is None:
            for value in objects.values():
                if isinstance(value, nn.Module):
                    dist.broadcast_module(value)
            if first and not self.is_main:
                seed_all(derive(self.cfg.seed, "rank", self.rank))
            return
        for name, value in objects.items():
            self._load(name, value)
        tracked.load_ranks(self._objects, self._source.part("ranks"), self.cfg.seed, self.step)

    def _load(self, name: str, value: Any) -> None:
        assert self._source is not None
        saved = self._source.keys("objects")
        if name not in saved and not tracked.is_generator(value):
            raise UserError(
                f"{self._source.folder}: holds no {name!r}; it holds {', '.join(saved) or 'nothing'}"
            )
        if not tracked.is_generator(value):
            light = isinstance(value, nn.Module | torch.optim.Optimizer)  # these move tensors themselves
            tracked.load(
                name, value, self._source.part("objects", name, device=None if light else self.device)
            )

    def retrack(self, *, structure: Any = ..., **objects: Any) -> None:
        """Replace tracked objects after surgery, and what the model is built by.

        Args:
            structure: the new plain data; left out, it stays.
            objects: by name; None ends the tracking of a name, a new name begins it.
        """
        for name, value in objects.items():
            self._objects.pop(name, None)
            if value is not None:
                tracked.check_trackable(name, value)
                self._objects[name] = value
        if structure is not ...:
            self.structure = structure
        self._dirty = True

    def _prepare(self) -> None:
        """Before the first step: everything in the checkpoint must have found its object."""
        if self._ready:
            return
        self._ready = True
        if self._source is not None:
            left = [name for name in self._source.keys("objects") if name not in self._objects]
            if left:
                raise UserError(
                    f"{self._source.folder}: also holds {', '.join(left)}; expected track() for each"
                )
        self._clock.start()

    # Counting ---------------------------------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs that are left, from 0 to ``count - 1``; set the epoch of tracked samplers.

        After a resume in mid-epoch the epoch comes again, and `steps` goes on where it was. A `save` after
        the epoch's last micro-batch but outside of `steps` counts the epoch as done.
        """
        self._prepare()
        self._epochs = count
        if self.finished and count <= self._finished_epochs:
            return
        self.finished = False
        while self.epoch < count:
            if self._at_limit() and not self._after_steps:
                self._complete = False
                return
            for sampler in self._samplers():
                sampler.set_epoch(self.epoch)
            reached("epoch")
            yield self.epoch
            self._end_step()
            if self.stopping or (self._at_limit() and not self._after_steps):
                self._complete = False
                return
            self.epoch += 1
            self._position = 0
            self._after_steps = False

    def steps(self, loader: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield ``(step, batch)`` for the rest of the epoch; ``step`` counts micro-batches over all epochs,
        from 1.

        The step is counted, and tracked samplers (objects with ``set_epoch`` and ``advance``) are advanced,
        before the body runs; so a `save` at the end of the body stands for this step being done. Signals and
        minutes are looked at between two steps.

        Args:
            loader: any iterable. With a tracked sampler it begins at the sampler's position; without one,
                batches that were consumed before a resume are drawn again and dropped, under the random
                states that the epoch began with.

        Raises:
            UserError: the loader has a length of zero.
        """
        self._prepare()
        if self.finished or self.stopping or self._at_limit():
            return
        self.steps_per_epoch = len(loader) if isinstance(loader, Sized) else None
        if self.steps_per_epoch == 0:
            raise UserError(
                "the loader gives no batch; expected at least one (fewer samples than the batch size?)"
            )
        self._progress.begin(self.step, self._total_steps(), self._clock.seconds)
        samplers = self._samplers()
        self._after_steps = False
        for batch in self._batches(loader, skip=not samplers):
            self.step += 1
            self._position += 1
            for sampler in samplers:
                sampler.advance()
            self._in_step = self._dirty = True
            self._updates_before = self.updates
            self._batch = batch
            reached("step")
            yield self.step, batch
            self._end_step()
            if self._border():
                return
            if self._at_limit():
                self._after_steps = self._position == self.steps_per_epoch
                return
        self._after_steps = True

    def _batches(self, loader: Iterable[T], *, skip: bool) -> Iterator[T]:
        if self._position == 0:
            self._epoch_random = RngState.capture() if skip else None
            return iter(loader)
        # In mid-epoch the iterator is made a second time; whatever it draws must not be drawn twice.
        with preserved():
            if skip and self._epoch_random is not None:
                self._epoch_random.restore()
            iterator = iter(loader)
            for _ in range(self._position if skip else 0):
                next(iterator, None)
        return iterator

    def _samplers(self) -> list[Any]:
        return [v for v in self._objects.values() if hasattr(v, "set_epoch") and hasattr(v, "advance")]

    def _total_steps(self) -> int | None:
        total = None
        if self.steps_per_epoch is not None and self._epochs is not None:
            # Counted from here: epochs may have had other lengths before.
            total = self.step - self._position + (self._epochs - self.epoch) * self.steps_per_epoch
        limit = self.cfg.max_steps
        return limit if total is None else total if limit is None else min(limit, total)

    def _at_limit(self) -> bool:
        return self.cfg.max_steps is not None and self.step >= self.cfg.max_steps

    def updated(self) -> None:
        """Count one update of the optimizer."""
        self.updates += 1
        self._dirty = True

    def due(self, every: str | Every, last: bool = True) -> bool:
        """Whether a cadence falls on this step.

        Args:
            every: ``"500 steps"``, ``"200 updates"``, ``"1 epoch"``, ``"10 min"`` or ``"never"``. Updates are
                due in the step that made them; epochs in an epoch's last step (if the loader knows its
                length) and after it; minutes are of training, without evaluation.
            last: the run's last step is due too.
        """
        every = Every.parse(every)
        last = last and self._is_last()
        if every.unit == "steps":
            return due(self.step, every, last=last)
        if every.unit == "epochs":
            return self._epoch_through() and due(self.epoch + 1, every, last=last)
        if every.unit == "updates":
            return crossed(self._updates_before, self.updates, every) or (last and bool(every.count))
        if every not in self._minutes:
            self._minutes[every] = [self._clock.seconds // (60 * every.count), False]
        return self._minutes[every][1] or last

    def _epoch_through(self) -> bool:
        return self._after_steps or self._position == self.steps_per_epoch

    def _is_last(self) -> bool:
        return self._at_limit() or (self.epoch + 1 == self._epochs and self._epoch_through())

    def _border(self) -> bool:
        """Between two steps: agree on minutes and signals; whether the run stops here, with a checkpoint."""
        reached("border")
        if self.world_size == 1 and not self._minutes and self._signals.received is None:
            return False
        flags = 0
        for bit, (every, entry) in enumerate(self._minutes.items()):
            entry[1] = False
            flags |= (self._clock.seconds // (60 * every.count) > entry[0]) << bit
        pace = self._clock.seconds / self.step
        agreed = self._agreement.reach(self.step, self._signals.received is not None, flags, pace)
        if agreed is None:
            return False
        stop, flags = agreed
        for bit, (every, entry) in enumerate(self._minutes.items()):
            if flags >> bit & 1:
                entry[:] = [self._clock.seconds // (60 * every.count), True]
        if stop:
            self.stopping = True
            self._complete = False
            self.save()
            self.say(f"stopped by {self._signals.received or 'another rank'} after step {self.step}, saved")
        return stop

    # Telling ----------------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Print one line and keep it in ``log.txt``, on rank 0."""
        self._progress.line(line)
        self._log.text(line)

    def log(self, **values: Any) -> None:
        """Give figures of this step: numbers or one-element tensors, which are read only when a line is due.

        Several calls in one step make one line. Outside of `steps` the line is written at once.
        """
        if not self._in_step:
            self._pending.update(values)
            self._write_line(to_log=True, to_console=True)
        elif self._wants(self._log_every) or self._wants(self._console_every):
            detached = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
            self._pending.update(detached)

    def _wants(self, every: Every) -> bool:
        return every.unit != "steps" or due(self.step, every, last=self._is_last())

    def _end_step(self) -> None:
        """The body of a step is through: write its line if one is due."""
        if self._in_step:
            self._in_step = False
            self._flush_line()
            if self._progress.live:
                self._progress.step(self.step, self._clock.seconds)

    def _flush_line(self) -> None:
        if self._pending:
            self._write_line(to_log=self.due(self._log_every), to_console=self.due(self._console_every))

    def _write_line(self, *, to_log: bool, to_console: bool) -> None:
        if self.is_main and (to_log or to_console):
            values = {name: _read(value) for name, value in self._pending.items()}
            if to_log:
                self._log.scalars(self.step, values, **self._place())
            if to_console:
                text = "  ".join(f"{name} {number(value)}" for name, value in values.items())
                line = (
                    f"{self._progress.place(self.step, self._clock.seconds)}  epoch {self.epoch + 1}  {text}"
                )
                self._log.text(line)
                if self._progress.live:
                    self._progress.step(self.step, self._clock.seconds, text)
                else:
                    self._progress.line(line)
        self._pending = {}

    def _place(self) -> dict[str, float]:
        return {"epoch": self.epoch, "updates": self.updates, "seconds": round(self._clock.seconds, 3)}

    def append(self, name: str, line: str) -> None:
        """Add a line to a text file of the run folder (a CSV); it is cut back to the checkpoint on resume."""
        self._log.append(name, line)

    def report(self, results: Iterable[tuple[str, Any]]) -> dict[str, float]:
        """Run an evaluation and write its figures: JSON lines, TensorBoard and one line for people.

        The clock stands still and random states are given back, so evaluating more often changes nothing
        else.

        Args:
            results: pairs (name, number or one-element tensor); a generator does its work in here. All ranks
                give the same figures.

        Returns:
            The figures by name, in order.
        """
        with self._clock.paused(), preserved():
            values = {name: _read(value) for name, value in results}
        if values:
            self._log.scalars(self.step, values, **self._place())
            self.say(f"step {self.step}: " + "  ".join(f"{name} {number(v)}" for name, v in values.items()))
        return values

    @contextmanager
    def evaluating(self, *modules: nn.Module) -> Iterator[None]:
        """Evaluate in here: modules are in evaluation mode with equal buffers on all ranks, the clock stands
        still.

        Afterwards every submodule has its mode back and the random states are as before.
        """
        for module in modules:
            dist.sync_buffers(module)
        with self._clock.paused(), preserved(), evaluating(*modules):
            yield

    # Keeping ----------------------------------------------------------------------------------------------

    def is_best(self, name: str, value: float, allowed: bool = True, *, lower: bool = False) -> bool:
        """Whether ``value`` is the best so far of this name; if so it is noted, and kept in checkpoints.

        Args:
            name: of the figure.
            value: larger is better; nan never is.
            allowed: a condition of the paper (sparsity near its target, say); without it the value does not
                count.
            lower: smaller is better.
        """
        value = float(value)
        earlier = self._best.get(name)
        if not allowed or value != value:
            return False
        if earlier is not None and (value >= earlier["value"] if lower else value <= earlier["value"]):
            return False
        self._best[name] = {"value": value, "step": self.step}
        self._dirty = True
        return True

    @property
    def best(self) -> Mapping[str, Mapping[str, Any]]:
        """The best value of each name given to `is_best`, and its step."""
        return self._best

    def save(self, best: bool = False, model_folder: Callable[[Path], None] | None = None) -> None:
        """Write a checkpoint; on all ranks together, and last in the body of a loop.

        Args:
            best: this is the best one so far; it stays when older ones are removed.
            model_folder: writes a loadable model into a folder (on rank 0, nothing collective); it becomes
                ``last/``, and ``best/`` too if ``best``.

        Raises:
            UserError: the disk is full, or a tracked object holds what cannot be written; earlier checkpoints
                and model folders are unchanged.
        """
        self._flush_line()
        with self._clock.paused():
            for value in self._objects.values():
                if isinstance(value, nn.Module):
                    dist.sync_buffers(value)
            reached("save")
            # Folders first: a kill in between is made good by the steps that come again.
            if model_folder is not None:
                dist.on_main(lambda: self._save_folders(model_folder, best))
            if self._dirty or not self.finished:
                state = self._state()
                dist.on_main(lambda: self._save_checkpoint(state, best))
                self._dirty = False

    def _save_folders(self, fill: Callable[[Path], None], best: bool) -> None:
        with atomic_folder(self.cfg.dir / "last") as folder:
            fill(folder)
            reached("folder: last")
        if best:
            with atomic_folder(self.cfg.dir / "best") as folder:
                shutil.copytree(self.cfg.dir / "last", folder, dirs_exist_ok=True)
                reached("folder: best")

    def _save_checkpoint(self, state: Mapping[str, Any], best: bool) -> None:
        folder = self.cfg.dir / "checkpoints"
        checkpoint.save(
            folder, self.step, state, structure=self.structure, best=best, keep_last=self.cfg.keep_last
        )

    def _state(self) -> dict[str, Any]:
        """Everything that must survive; complete on rank 0 only. Collective."""
        through = self._after_steps
        random = None if self._epoch_random is None or through else self._epoch_random.state_dict()
        run = {
            "step": self.step,
            "updates": self.updates,
            "epoch": self.epoch + 1 if through else self.epoch,
            "position": 0 if through else self._position,
            "best": self._best,
            "clock": self._clock.state_dict(),
            "marks": self._log.marks(),
            "epoch_random": None if random is None else dist.gather_to_main(random),
        }
        ranks = tracked.ranks_state(self._objects)
        if not self.is_main:
            return {}
        objects = {n: v.state_dict() for n, v in self._objects.items() if not tracked.is_generator(v)}
        return {"run": run, "objects": objects, "ranks": ranks}

    def once(self, key: str, fn: Callable[[], T]) -> T:
        """Do one-off work, keep its result in the run folder, and return the kept result on resume.

        ``fn`` runs on rank 0 alone, with random numbers of its own that depend on the seed and ``key``; the
        random states outside are not touched. It returns what it found (tensors and plain data) and changes
        nothing: the caller applies the result, which comes to all ranks, the first time as on resume.

        Args:
            key: names the work; unique in this run.
            fn: does it.

        Raises:
            UserError: the result holds something that cannot be written.
        """
        if dist.reduce_max([int(self._signals.received is not None)])[0] and not self.stopping:
            self.stopping = True
            self.say(f"stopped by {self._signals.received or 'another rank'} before {key!r}")
            raise _Stopped
        folder = self.cfg.dir / "once" / quote(key, safe=" ")
        packed, tensors = dist.on_main(lambda: self._do_once(folder, key, fn))
        return checkpoint.unpack(packed, lambda name: tensors[name].clone(), self.device)

    def _do_once(self, folder: Path, key: str, fn: Callable[[], Any]) -> tuple[Any, dict[str, torch.Tensor]]:
        recover_folder(folder)
        if folder.is_dir():
            problem = checkpoint.verify(folder)
            if problem is None:
                return checkpoint.pack(Checkpoint(folder).part(device=self.device))
            self.say(f"{folder} is damaged ({problem}); doing {key!r} again")
        with preserved():
            seed_all(derive(self.cfg.seed, "once", key))
            result = fn()
        reached("once: done")
        checkpoint.write(folder, result, key=key)
        self._dirty = True
        return checkpoint.pack(result)

    def keep_batch(self, batch: Any) -> Path:
        """Keep a batch for a look (each rank its own): tensors and JSON in ``kept/step-000123-rank0/``.

        At most `KEPT_BATCHES` in one start; later ones are dropped.

        Returns:
            The folder.
        """
        folder = self.cfg.dir / "kept" / f"step-{self.step:06d}-rank{self.rank}"
        if self._kept < KEPT_BATCHES:
            self._kept += 1
            checkpoint.write(folder, batch, unknown=repr)
        return folder


def _holds_run(folder: Path) -> str | None:
    """The first sign that a folder holds a run."""
    if checkpoint.listed(folder / "checkpoints"):
        return "checkpoints"
    for name in (METRICS, FINISHED):
        if (folder / name).exists():
            return name
    return "once" if any((folder / "once").glob("*")) else None


def _read(value: Any) -> float:
    """A figure as a Python number; whole numbers stay whole."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    return value if isinstance(value, int) else float(value)
