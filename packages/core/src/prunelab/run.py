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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from torch import nn

from prunelab import checkpoint, dist
from prunelab.checkpoint import Checkpoint, reached
from prunelab.clock import Border, Clock, Counter, Every
from prunelab.errors import UserError
from prunelab.log import Figures, RunLog, read
from prunelab.modes import evaluating
from prunelab.optim import NonFiniteError
from prunelab.progress import Progress, duration, number
from prunelab.runfolder import CHECKPOINTS, FINISHED, ONCE, RunConfig, claim, write_model_folders
from prunelab.seed import preserved, seed_all
from prunelab.tracked import Replay, Tracked
from prunelab.util import write_json

__all__ = ["Run", "RunConfig", "evaluating"]

T = TypeVar("T")

KEPT_BATCHES = 5
"""How many batches `Run.keep_batch` keeps in one start."""


class _Stopped(Exception):
    """Leaves the ``with`` block of a run that was told to stop before one-off work; never seen outside."""


class Run(AbstractContextManager["Run"]):
    """One training run, or one stage of it, in a folder of its own.

    In several processes all ranks make the same calls in the same order; only rank 0 writes. Stages (train,
    then fine-tune) are several runs in sequence with sub-folders of one folder: one that has finished says so
    in ``finished.json``, and resuming it makes no step but loads its final state.

    Args:
        cfg: see `RunConfig`.
        config: the project's whole configuration as plain data, for ``config.yaml``.
        name: what the console calls this run.

    Attributes:
        device: where models and batches go.
        rank, world_size: number of this process, of all processes.
        is_main: whether this process writes.
        structure: plain data to build the model by; None on a fresh start. Readable before anything is built.
        resumed: whether the state comes from a checkpoint.
        stopping: told to stop (a signal); the loops end, a checkpoint has been written.
        finished: this run had come to its end before, and nothing is left to do.
        best: the best value of each name given to `is_best`, and its step.
    """

    def __init__(self, cfg: RunConfig, *, config: Mapping[str, Any] | None = None, name: str = "run") -> None:
        self.cfg = cfg
        self.name = name
        self._config = config or {}
        self.structure: Any = None
        self.resumed = self.stopping = self.finished = False
        self.best: dict[str, dict[str, Any]] = {}
        self._finished_epochs = 0
        self._complete = True  # nothing was cut short: the end of the block is the end of the run
        self._count = Counter(cfg.max_steps)
        self._clock = Clock()
        self._border = Border(self._clock)
        self._dirty = False  # something has changed since the last checkpoint
        self._in_step = False
        self._iterated = False  # steps() was called in this epoch
        self._batch: Any = None
        self._kept = 0
        self._replay = Replay()

    @property
    def step(self) -> int:
        """Micro-batches so far; in the loop's body the present one is counted, so the first is 1."""
        return self._count.step

    @property
    def updates(self) -> int:
        """Optimizer updates so far, as told by `updated`."""
        return self._count.updates

    @property
    def epoch(self) -> int:
        """The present epoch, from 0."""
        return self._count.epoch

    @property
    def steps_per_epoch(self) -> int | None:
        """Micro-batches in an epoch, once `steps` was given a loader that knows its length."""
        return self._count.steps_per_epoch

    # Beginning and end

    def __enter__(self) -> Run:
        cfg = self.cfg
        self.device = dist.start(cfg.device)
        self.rank, self.world_size, self.is_main = dist.rank(), dist.world_size(), dist.is_main()
        begin = dist.on_main(lambda: claim(cfg, self._config))
        marks: Mapping[str, int] | None = {} if cfg.resume else None
        source = None if begin.source is None else Checkpoint(begin.source)
        if source is not None:
            saved = self._take_counts(source)
            marks = saved if begin.own else None
        if begin.finished is not None:
            self._finished_epochs = begin.finished["epochs"]
            # A loop that only max_steps bounds goes on where it may make more steps than before.
            self.finished = bool(self._finished_epochs) or cfg.max_steps is None or self._count.at_limit
        self._console = Progress(self.name, quiet=cfg.quiet or not self.is_main)
        self._log = RunLog(
            cfg.dir,
            self._console,
            writes=self.is_main,
            tensorboard=cfg.tensorboard,
            marks=marks,
            step=self.step,
        )
        cadences = cfg.log_every, cfg.console_every
        self._figures = Figures(self._log, *cadences, self._count, self._clock, self.due)
        self._tracked = Tracked(source, seed=cfg.seed, step=self.step, device=self.device)
        for line in begin.lines:
            self.say(line)
        seed_all(cfg.seed)
        self._border.signals.install()
        return self

    def _take_counts(self, source: Checkpoint) -> Mapping[str, int]:
        state = source.part("run")
        self.resumed = True
        self.structure = source.structure
        self.best = state["best"]
        self._count.load_state_dict(state["count"])
        self._clock.load_state_dict(state["clock"])
        self._replay.load(state["replay"])
        return state["marks"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                self._end()
            elif isinstance(error, NonFiniteError) and self._batch is not None:
                error.args = (f"{error}; the batch is kept in {self.keep_batch(self._batch)}",)
            if error is not None and not isinstance(error, _Stopped):
                self._log.text(f"ended by {type(error).__name__}: {error}")
        finally:
            self._clock.stop()
            self._console.close()
            self._log.close()
            self._border.signals.remove()
            self._batch = None
        return isinstance(error, _Stopped)

    def _end(self) -> None:
        """The block ended well: leave a final checkpoint, and say so if nothing was cut short."""
        self._end_step()
        if self.stopping:
            return
        if self._tracked.objects and self._dirty:
            self.save()
        if self._complete and not self.finished:
            reached("finish")
            data = {"step": self.step, "updates": self.updates, "epochs": self._count.epochs or 0}
            dist.on_main(lambda: write_json(self.cfg.dir / FINISHED, data))
            self._log.text(f"finished after {self.step} steps, {duration(self._clock.seconds)} of training")

    # State

    def track(self, **objects: Any) -> None:
        """Put objects into every checkpoint, and on resume load them strictly, random states last.

        Modules, optimizers, samplers, schedules, pruners: anything with ``state_dict`` and
        ``load_state_dict``; also torch and NumPy generators. At a fresh start in several processes, modules
        get rank 0's values, and ranks other than 0 their own random numbers from here on.

        Raises:
            UserError: an object cannot be saved, or the checkpoint is of another model or lacks it.
        """
        self._tracked.add(objects)

    def retrack(self, *, structure: Any = ..., **objects: Any) -> None:
        """Replace tracked objects after surgery, and what the model is built by.

        Args:
            structure: the new plain data; left out, it stays.
            objects: by name; None ends the tracking of a name, a new name begins it.
        """
        self._tracked.replace(objects)
        if structure is not ...:
            self.structure = structure
        self._dirty = True

    def _prepare(self) -> None:
        """Before the first step: everything in the checkpoint must have found its object."""
        self._tracked.check_complete()
        self._clock.start()

    # Counting

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs that are left, from 0 to ``count - 1``; set the epoch of tracked samplers.

        After a resume in mid-epoch the epoch comes again, and `steps` goes on where it was. A `save` after
        the epoch's last micro-batch but outside of `steps` counts the epoch as done.
        """
        self._prepare()
        counter = self._count
        counter.epochs = count
        if self.finished and count <= self._finished_epochs:
            return
        if self.finished:
            self.finished = False
            dist.on_main(lambda: (self.cfg.dir / FINISHED).unlink())
        while counter.epoch < count and not self.stopping and not counter.cut_short:
            for sampler in self._tracked.samplers():
                sampler.set_epoch(counter.epoch)
            reached("epoch")
            yield counter.epoch
            self._end_step()
            if not self.stopping and not counter.cut_short:
                counter.begin_epoch()
                self._iterated = False
        self._complete = counter.epoch >= count
        self._console.close()  # what follows the loop may draw tables of its own

    def steps(self, loader: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield ``(step, batch)`` for the rest of the epoch; steps are micro-batches of all epochs, from 1.

        The step is counted, and tracked samplers (objects with ``set_epoch`` and ``advance``) are advanced,
        before the body runs; so a `save` at the body's end stands for this step being done. Signals and
        minutes are looked at between two steps.

        Args:
            loader: any iterable. With a tracked sampler it begins at the sampler's position; without, batches
                from before a resume are drawn again and dropped, under the epoch's first random states.

        Raises:
            UserError: the loader has a length of zero.
        """
        self._prepare()
        counter = self._count
        if self.finished or self.stopping or counter.at_limit:
            return
        if self._iterated:
            raise UserError("steps() came twice in one epoch; expected one steps() in each epoch of epochs()")
        self._iterated = True
        counter.steps_per_epoch = len(loader) if isinstance(loader, Sized) else None
        if counter.steps_per_epoch == 0:
            raise UserError("the loader gives no batch; expected one or more (fewer samples than a batch?)")
        self._console.begin(self.step, counter.total, self._clock.seconds)
        samplers = self._tracked.samplers()
        counter.through = False
        for batch in self._replay.batches(loader, counter.position, skip=not samplers):
            counter.begin_step()
            for sampler in samplers:
                sampler.advance()
            self._in_step = self._dirty = True
            self._batch = batch
            reached("step")
            yield counter.step, batch
            self._end_step()
            reached("border")
            if self._border.cross(counter.step):
                self._stop()
                return
            if counter.at_limit:
                counter.through = counter.position == counter.steps_per_epoch
                return
        counter.through = True

    def _stop(self) -> None:
        self.stopping = True
        self._complete = False
        self.save()
        self.say(f"stopped by {self._border.reason} after step {self.step}; a checkpoint is written")

    def begin_at(self, *, step: int, updates: int, epoch: int, position: int) -> None:
        """Count on from another program's checkpoint: in a run that was not resumed, before its loop."""
        self._count.load_state_dict({"step": step, "updates": updates, "epoch": epoch, "position": position})
        self._dirty = True

    def updated(self) -> None:
        """Count one update of the optimizer."""
        self._count.updates += 1
        self._dirty = True

    def due(self, every: str | Every, last: bool = True) -> bool:
        """Whether a cadence falls on this step.

        Args:
            every: ``"500 steps"``, ``"200 updates"``, ``"1 epoch"``, ``"10 min"`` or ``"never"``. Updates are
                due in the step that made them; epochs in their last step (if the loader knows its length)
                and after it; minutes are of training, without evaluation.
            last: the run's last step is due too.
        """
        every = Every.parse(every)
        if every.unit == "minutes":
            return self._border.minutes_due(every) or (last and self._count.is_last)
        return self._count.due(every, last=last)

    # Telling

    def say(self, line: str) -> None:
        """Print one line and keep it in ``log.txt``, on rank 0."""
        self._log.say(line)

    def speed_in(self, unit: str, each: int) -> None:
        """Tell the speed in another unit than steps from now on: so many of them come with each step."""
        self._console.speed_in(unit, each)

    def log(self, **values: Any) -> None:
        """Give figures of this step: numbers or one-element tensors, which are read only when a line is due.

        Several calls in one step make one line. Outside of `steps` the line is written at once.
        """
        if self._in_step:
            self._figures.add(values)
        else:
            self._figures.write(values, to_console=True)

    def _end_step(self) -> None:
        """The body of a step is through: write its line if one is due."""
        if self._in_step:
            self._in_step = False
            self._figures.flush()
            if self._console.live:
                self._console.step(self.step, self._clock.seconds)

    def append(self, name: str, line: str) -> None:
        """Add a line to a text file of the run folder (a CSV); on resume it is cut back to the checkpoint."""
        self._log.append(name, line)

    def report(
        self, results: Iterable[tuple[str, Any]], *, tell: Sequence[str] | None = None, at: int | None = None
    ) -> dict[str, float]:
        """Run an evaluation and write its figures: JSON lines, TensorBoard and one line for people.

        The clock stands still and random states are given back: evaluating more often changes nothing else.

        Args:
            results: pairs (name, number or one-element tensor); a generator does its work in here. All ranks
                give the same figures.
            tell: names of the figures that the line shows; None: all; with none of them there is no line.
            at: where TensorBoard draws them (the epoch, say); None: at the step.

        Returns:
            The figures by name, in order.
        """
        with self._clock.paused(), preserved():
            values = {name: read(value) for name, value in results}
        if values:
            self._figures.write(values, at=at)
            if told := {name: v for name, v in values.items() if tell is None or name in tell}:
                self.say(f"step {self.step}: " + "  ".join(f"{name} {number(v)}" for name, v in told.items()))
        return values

    @contextmanager
    def evaluating(self, *modules: nn.Module) -> Iterator[None]:
        """Evaluate in here: in evaluation mode, with equal buffers on all ranks, the clock standing still.

        Afterwards every submodule has its mode back and the random states are as before.
        """
        for module in modules:
            dist.sync_buffers(module)
        with self._clock.paused(), preserved(), evaluating(*modules):
            yield

    # Keeping

    def is_best(self, name: str, value: float, allowed: bool = True, *, lower: bool = False) -> bool:
        """Whether ``value`` is the best so far of this name; if so it is noted, and kept in checkpoints.

        Args:
            name: of the figure.
            value: larger is better; nan never is.
            allowed: a condition of the paper (sparsity near its target, say), else nothing is noted.
            lower: smaller is better.
        """
        value = float(value)
        if not allowed or value != value:
            return False
        earlier = self.best.get(name)
        if earlier is not None and (value >= earlier["value"] if lower else value <= earlier["value"]):
            return False
        self.best[name] = {"value": value, "step": self.step}
        self._dirty = True
        return True

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
        self._figures.flush()
        with self._clock.paused():
            self._tracked.sync_buffers()
            reached("save")
            # Folders first: a kill in between is made good by the steps that come again.
            if model_folder is not None:
                dist.on_main(lambda: write_model_folders(self.cfg.dir, model_folder, best=best))
            if self._dirty or not self.finished:
                self._save_checkpoint(best)

    def _save_checkpoint(self, best: bool) -> None:
        run = {
            "count": self._count.state_dict(),
            "best": self.best,
            "clock": self._clock.state_dict(),
            "marks": self._log.marks(),
            "replay": [] if self._count.through else self._replay.state(),
        }
        state = {"run": run, **self._tracked.state()}
        dist.on_main(
            lambda: checkpoint.save(
                self.cfg.dir / CHECKPOINTS,
                self.step,
                state,
                structure=self.structure,
                best=best,
                keep_last=self.cfg.keep_last,
            )
        )
        self._dirty = False

    def once(self, key: str, fn: Callable[[], T]) -> T:
        """Do one-off work and keep its result in the run folder, or return the kept result.

        ``fn`` runs on rank 0 alone, with random numbers of its own that depend on the seed and ``key``; the
        random states outside are not touched. It returns what it found (tensors and plain data) and changes
        nothing: the caller applies the result, which comes to all ranks, the first time as on resume.

        Told to stop, the run ends before the next work begins: the ``with`` block is left, and what follows
        it finds `stopping`.

        Args:
            key: names the work; unique in this run.
            fn: does it.

        Raises:
            UserError: the result holds something that cannot be written.
        """
        if not self.stopping and self._border.told_anyone():
            self.stopping = True
            self.say(f"stopped by {self._border.reason} before {key!r}")
        if self.stopping:
            raise _Stopped
        folder = self.cfg.dir / ONCE / quote(key, safe=" ")
        plain, tensors = dist.on_main(lambda: checkpoint.once(folder, key, self.cfg.seed, fn, self.say))
        return checkpoint.unpack(plain, lambda name: tensors[name].clone(), self.device)

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
