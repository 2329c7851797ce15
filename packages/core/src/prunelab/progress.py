"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

_REDRAW_SECONDS = 0.1


def duration(seconds: float) -> str:
    """A time span for people: ``0:07``, ``12:05``, ``3:04:05``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def number(value: float) -> str:
    """A figure for people, with four significant digits; whole numbers stay whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


class Progress:
    """The console of one run.

    Args:
        name: what the bar is called.
        quiet: print nothing at all (other ranks, tests).
    """

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name = name
        self._quiet = quiet
        self._total: int | None = None
        self._first = 0
        self._started = 0.0
        self._drawn = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._unit, self._each = "steps", 1
        self.live = not quiet and sys.stdout.isatty()

    def speed_in(self, unit: str, each: int) -> None:
        """Tell the speed of plain lines in another unit than steps: so many of them come with each step."""
        self._unit, self._each = unit, each

    def begin(self, step: int, total: int | None, seconds: float) -> None:
        """Steps are made from now on.

        Args:
            step: number of steps made before.
            total: number of steps in all, if known.
            seconds: training time so far.
        """
        self._first, self._total, self._started = step, total, seconds
        if not self.live:
            return
        if self._bar is None:
            self._bar = _make_bar()
            self._task = self._bar.add_task(self._name, text="", left="-:--")
            self._bar.start()
        self._bar.update(self._task, total=total, completed=step)

    def step(self, step: int, seconds: float, text: str | None = None) -> None:
        """Move the bar, at most ten times a second; ``text`` replaces what stands at its end."""
        if self._bar is None:
            return
        now = time.monotonic()
        if text is None and now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        fields = {} if text is None else {"text": text}
        self._bar.update(self._task, completed=step, left=self.left(step, seconds), **fields)

    def left(self, step: int, seconds: float) -> str:
        """The time left, ``-:--`` where it is not known."""
        made = step - self._first
        if self._total is None or made <= 0:
            return "-:--"
        return duration((seconds - self._started) / made * (self._total - step))

    def place(self, step: int, seconds: float) -> str:
        """``step 25/300 ... 4.1 steps/s, 1:07 left``, for plain lines."""
        total = "" if self._total is None else f"/{self._total}"
        spent = seconds - self._started
        made = step - self._first
        speed = f", {self._each * made / spent:.3g} {self._unit}/s" if made > 0 and spent > 0 else ""
        left = f", {self.left(step, seconds)} left" if self._total is not None else ""
        return f"step {step}{total}{speed}{left}"

    def line(self, text: str) -> None:
        """Print a line; a bar stays below it."""
        if self._quiet:
            return
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Let go of the bar, as it stands; `begin` makes another."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _make_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]} left  {task.fields[text]}"),
        refresh_per_second=5,
    )
