"""When is it time? Cadences that name their unit, and a clock of training time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
