"""When is it time? Cadences that name their unit, a clock of training time, counters, and the step border."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prunelab import dist
from prunelab.errors import UserError

UNITS = {
    "step": "steps",
    "steps": "steps",
    "update": "updates",
    "updates": "updates",
    "epoch": "epochs",
    "epochs": "epochs",
    "min": "minutes",
    "minute": "minutes",
    "minutes": "minutes",
}
"""Accepted words and the unit that each means."""

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Every:
    """A cadence: every ``count`` of a ``unit``."""

    count: float
    """How many; 0 means never."""
    unit: str
    """``steps`` (micro-batches), ``updates`` (of the optimizer), ``epochs`` or ``minutes`` (of training)."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS.values():
            raise UserError(f"unit is {self.unit!r}; expected {', '.join(sorted(set(UNITS.values())))}")
        whole = self.unit == "minutes" or self.count == int(self.count)
        if not (math.isfinite(self.count) and self.count >= 0 and whole):
            raise UserError(f"cadence is {self.count} {self.unit}; expected a whole number of {self.unit}")

    @classmethod
    def parse(cls, text: str | Every) -> Every:
        """Read ``"500 steps"``, ``"1 epoch"``, ``"200 updates"``, ``"10 min"`` or ``"never"``.

        Raises:
            UserError: the text has another form, or its number is zero.
        """
        return text if isinstance(text, Every) else _parse(text)

    def __str__(self) -> str:
        return f"{self.count:g} {self.unit}" if self.count else "never"


@lru_cache(maxsize=256)
def _parse(text: str) -> Every:
    if text.strip().lower() == "never":
        return Every(count=0, unit="steps")
    match = _FORM.fullmatch(text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) == 0:
        raise UserError(
            f"cadence is {text!r}; expected a number and a unit ('500 steps', '200 updates', '1 epoch', "
            "'10 min') or 'never'"
        )
    return Every(count=float(match[1]), unit=unit)


def due(count: float, every: Every, *, last: bool = False, first: bool = False) -> bool:
    """Whether a cadence falls on ``count``.

    Args:
        count: how many of the cadence's unit are done, the present one included (1 after the first).
        every: the cadence; one that means never is never due.
        last: this is the last one, which is due whatever its number.
        first: the first one is due too.
    """
    if not every.count or count <= 0:
        return False
    return last or (first and count == 1) or count % every.count == 0


def crossed(before: float, now: float, every: Every) -> bool:
    """Whether a multiple of the cadence lies in (before, now], for counts that move unevenly."""
    return bool(every.count) and now // every.count > before // every.count


class Clock:
    """Seconds of training: it starts paused, stands still in evaluation and is saved in checkpoints."""

    def __init__(self) -> None:
        self._done = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, of all starts together."""
        return self._done + (0.0 if self._since is None else time.monotonic() - self._since)

    def start(self) -> None:
        """Go on; does nothing if it goes already."""
        if self._since is None:
            self._since = time.monotonic()

    def stop(self) -> None:
        """Stand still; does nothing if it does already."""
        self._done, self._since = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still for a while; blocks may lie inside each other."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the seconds of an earlier start; a running clock keeps running."""
        running = self._since is not None
        self._done, self._since = float(state["seconds"]), None
        if running:
            self.start()


class Counter:
    """Counts steps, updates and epochs, and knows which of them is the last.

    Attributes:
        step: micro-batches so far, the present one included.
        updates: optimizer updates so far.
        epoch: the present epoch, from 0.
        position: micro-batches of this epoch so far.
        through: this epoch's micro-batches have all been made, and its loop is left.
        epochs: number of epochs in all, if known.
        steps_per_epoch: number of micro-batches in an epoch, if known.
    """

    def __init__(self, max_steps: int | None) -> None:
        self.max_steps = max_steps
        self.step = self.updates = self.epoch = self.position = 0
        self.through = False
        self.epochs: int | None = None
        self.steps_per_epoch: int | None = None
        self._updates_before = 0

    def begin_step(self) -> None:
        """One more micro-batch is handed out."""
        self.step += 1
        self.position += 1
        self._updates_before = self.updates

    def begin_epoch(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self.position = 0
        self.through = False

    @property
    def at_limit(self) -> bool:
        """The largest allowed number of steps is made."""
        return self.max_steps is not None and self.step >= self.max_steps

    @property
    def cut_short(self) -> bool:
        """That number fell inside an epoch."""
        return self.at_limit and not self.through

    @property
    def epoch_ends(self) -> bool:
        """This is the epoch's last micro-batch, or it is behind us."""
        return self.through or self.position == self.steps_per_epoch

    @property
    def is_last(self) -> bool:
        """No step comes after this one."""
        return self.at_limit or (self.epoch + 1 == self.epochs and self.epoch_ends)

    @property
    def total(self) -> int | None:
        """Number of steps in all, if known; epochs before the present one may have had other lengths."""
        total = None
        if self.steps_per_epoch is not None and self.epochs is not None:
            total = self.step - self.position + (self.epochs - self.epoch) * self.steps_per_epoch
        if total is None or self.max_steps is None:
            return self.max_steps if total is None else total
        return min(total, self.max_steps)

    def due(self, every: Every, *, last: bool) -> bool:
        """Whether a cadence in steps, updates or epochs falls on this step; see `prunelab.run.Run.due`."""
        last = last and self.is_last
        if every.unit == "epochs":
            return self.epoch_ends and due(self.epoch + 1, every, last=last)
        if every.unit == "updates":
            return crossed(self._updates_before, self.updates, every) or (last and bool(every.count))
        return due(self.step, every, last=last)

    def state_dict(self) -> dict[str, int]:
        """Where to go on: after an epoch that is through, at the beginning of the next one."""
        return {
            "step": self.step,
            "updates": self.updates,
            "epoch": self.epoch + self.through,
            "position": 0 if self.through else self.position,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the state was taken."""
        self.step, self.updates = state["step"], state["updates"]
        self.epoch, self.position = state["epoch"], state["position"]
        self._updates_before = self.updates


class Border:
    """What may come between two steps: a signal to stop, cadences in minutes; alike on all ranks.

    Args:
        clock: of training time.
    """

    def __init__(self, clock: Clock) -> None:
        self.signals = dist.StopSignals()
        self._clock = clock
        self._agreement = dist.Agreement()
        self._minutes: dict[Every, list[Any]] = {}  # cadence: [multiples so far, due in this step]

    def minutes_due(self, every: Every) -> bool:
        """Whether this many minutes have passed since the last time; the same answer all through a step."""
        if every not in self._minutes:
            self._minutes[every] = [self._multiples(every), False]
        return self._minutes[every][1]

    def _multiples(self, every: Every) -> int:
        return int(self._clock.seconds // (60 * every.count)) if every.count else 0

    def cross(self, step: int) -> bool:
        """Pass the border after ``step``; collective. Whether the run is to stop here."""
        told = self.signals.received is not None
        if dist.world_size() == 1 and not self._minutes:
            return told
        flags = 0
        for bit, (every, entry) in enumerate(self._minutes.items()):
            entry[1] = False
            flags |= (self._multiples(every) > entry[0]) << bit
        agreed = self._agreement.reach(step, told, flags, self._clock.seconds / step)
        if agreed is None:
            return False
        stop, flags = agreed
        for bit, (every, entry) in enumerate(self._minutes.items()):
            if flags >> bit & 1:
                entry[:] = [self._multiples(every), True]
        return stop

    def told_anyone(self) -> bool:
        """Whether any rank was told to stop; collective."""
        return bool(dist.reduce_max([int(self.signals.received is not None)])[0])

    @property
    def reason(self) -> str:
        """The signal's name, for people."""
        return self.signals.received or "a signal to another rank"
