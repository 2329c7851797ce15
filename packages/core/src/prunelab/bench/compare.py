"""Measure a fast way beside the straightforward one, in one process, if both give the same result."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

LEAST_ROUNDS = 5
"""Fewer alternations than this are not a measurement."""

_rounds: ContextVar[int] = ContextVar("rounds", default=LEAST_ROUNDS)


class Skip(Exception):
    """Raised by a row that cannot be measured here; the message says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds a call of one side took, one figure a round."""

    name: str
    """``ours``, ``reference``, or the name of another package."""
    seconds: tuple[float, ...]
    """Seconds of one call, in the order of the rounds."""

    @property
    def min(self) -> float:
        """The fastest round."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.seconds)

    @property
    def max(self) -> float:
        """The slowest round."""
        return max(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What `compare` found."""

    name: str
    """What was measured."""
    ours: Times
    """Our side."""
    reference: Times
    """The straightforward side."""
    extra: tuple[Times, ...] = ()
    """Other packages that do the same job."""
    work: float | None = None
    """Items that one call handles."""
    unit: str = "items"
    """What an item is."""
    goal: float | None = None
    """Least ratio reference / ours of the medians."""
    goal_rate: float | None = None
    """Least items a second on our side (median)."""
    goal_seconds: float | None = None
    """Most seconds of a call on our side (median)."""
    note: str = ""
    """Setting, in one line."""

    @property
    def ratio(self) -> float:
        """How many times faster ours is than the reference (ratio of the medians)."""
        return self.reference.median / self.ours.median

    def rate(self, side: Times) -> float | None:
        """Items a second of a side, by its median; None where a call's work is not countable."""
        return None if self.work is None else self.work / side.median

    def goals(self) -> list[tuple[str, bool]]:
        """Each goal in words, and whether it was reached."""
        found: list[tuple[str, bool]] = []
        if self.goal is not None:
            found.append((f">= {self.goal:.3g}x", self.ratio >= self.goal))
        if self.goal_rate is not None:
            rate = self.rate(self.ours)
            found.append(
                (f">= {self.goal_rate:,.0f} {self.unit}/s", rate is not None and rate >= self.goal_rate)
            )
        if self.goal_seconds is not None:
            found.append((f"<= {self.goal_seconds:g} s", self.ours.median <= self.goal_seconds))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file; ``sides`` begins with ours and the reference."""
        sides = [
            {
                "name": side.name,
                "seconds": list(side.seconds),
                "min": side.min,
                "median": side.median,
                "max": side.max,
                "per_second": self.rate(side),
                "ratio_to_ours": side.median / self.ours.median,
            }
            for side in (self.ours, self.reference, *self.extra)
        ]
        return {
            "name": self.name,
            "kind": "times",
            "note": self.note,
            "work": self.work,
            "unit": self.unit,
            "ratio": self.ratio,
            "sides": sides,
            "goals": [{"goal": goal, "reached": reached} for goal, reached in self.goals()],
        }


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that is not a duration: a file's size, a count."""

    name: str
    """What was measured."""
    ours: float
    """Our figure."""
    reference: float | None = None
    """The straightforward way's figure."""
    unit: str = "bytes"
    """What is counted."""
    at_most: float | None = None
    """Goal: not above this."""
    at_least: float | None = None
    """Goal: not below this."""
    note: str = ""
    """Setting, in one line."""

    def goals(self) -> list[tuple[str, bool]]:
        """Each goal in words, and whether it was reached."""
        found: list[tuple[str, bool]] = []
        if self.at_most is not None:
            found.append((f"<= {_rounded(self.at_most)}", self.ours <= self.at_most))
        if self.at_least is not None:
            found.append((f">= {_rounded(self.at_least)}", self.ours >= self.at_least))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {
            "name": self.name,
            "kind": "figure",
            "note": self.note,
            "ours": self.ours,
            "reference": self.reference,
            "unit": self.unit,
            "goals": [{"goal": goal, "reached": reached} for goal, reached in self.goals()],
        }


Result: TypeAlias = Row | Figure


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


@contextlib.contextmanager
def using_rounds(rounds: int) -> Iterator[None]:
    """Inside the block, `compare` makes this many alternations unless it is told a number."""
    token = _rounds.set(rounds)
    try:
        yield
    finally:
        _rounds.reset(token)


def compare(
    name: str,
    ours: Callable[..., Any],
    reference: Callable[..., Any],
    check: Callable[[Any, Any], object],
    *,
    rounds: int | None = None,
    extra: Mapping[str, Callable[..., Any]] | None = None,
    setup: Callable[[], Any] | None = None,
    warmup: int = 1,
    least_seconds: float = 0.01,
    work: float | None = None,
    unit: str = "items",
    goal: float | None = None,
    goal_rate: float | None = None,
    goal_seconds: float | None = None,
    note: str = "",
) -> Row:
    """Time two ways to do the same job, alternating, after their results were found equal.

    First every side runs once and its result is held against the reference's; then ``warmup - 1`` more
    untimed calls; then the rounds, in which each side is timed once, forwards and backwards in turn, so that
    a machine that gets slower or faster hurts all sides alike. The garbage collector runs between the timings
    only. A call shorter than ``least_seconds`` is repeated within a round, and its mean counts.

    Args:
        name: What is measured.
        ours: Our side; called without arguments, or with what ``setup`` returned.
        reference: The straightforward way.
        check: Called with (a side's result, the reference's); raises, or returns False, if they differ.
        rounds: Alternations, five or more; None takes five or what ``--rounds`` says.
        extra: Other packages that do the same job, by name; checked and timed as well.
        setup: Called before every call, outside the timing; its result is the call's one argument.
        warmup: Untimed calls of every side.
        least_seconds: See above; has no effect with ``setup``, whose calls are timed one by one.
        work: Items that one call handles, for a rate.
        unit: Name of the items, e.g. ``"captions"``.
        goal: Least ratio that is wanted.
        goal_rate: Least items a second that are wanted.
        goal_seconds: Most seconds that are wanted.
        note: The setting: sizes, dtype, threads.

    Raises:
        AssertionError: The results differ (``check``).
        ValueError: Fewer than five rounds, or a goal for a rate without ``work``.
    """
    rounds = _rounds.get() if rounds is None else rounds
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"rounds must be {LEAST_ROUNDS} or more, not {rounds}")
    if goal_rate is not None and work is None:
        raise ValueError("goal_rate needs work, the number of items of one call")
    sides = {"ours": ours, "reference": reference, **(extra or {})}
    gc.freeze()  # what is alive now need not be looked at before every timing
    try:
        calls = _check_and_count(name, sides, check, setup, 0.0 if setup else least_seconds)
        for side in sides.values():
            for _ in range(warmup - 1):
                _time(side, setup, 1)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                seconds[side].append(_time(sides[side], setup, calls[side]))
    finally:
        gc.unfreeze()
    times = {side: Times(name=side, seconds=tuple(values)) for side, values in seconds.items()}
    return Row(
        name=name,
        ours=times.pop("ours"),
        reference=times.pop("reference"),
        extra=tuple(times.values()),
        work=work,
        unit=unit,
        goal=goal,
        goal_rate=goal_rate,
        goal_seconds=goal_seconds,
        note=note,
    )


def _check_and_count(
    name: str,
    sides: Mapping[str, Callable[..., Any]],
    check: Callable[[Any, Any], object],
    setup: Callable[[], Any] | None,
    least_seconds: float,
) -> dict[str, int]:
    """Compare every side's result with the reference's, and find how many calls make up one timing."""

    def call(side: str) -> Any:
        return sides[side](setup()) if setup else sides[side]()

    expected = call("reference")
    for side in sides:
        if side != "reference" and check(call(side), expected) is False:
            raise AssertionError(f"{name}: the result of {side} differs from the reference's")
    counts = {}
    for side in sides:
        once = _time(sides[side], setup, 1) if least_seconds else 1.0
        counts[side] = max(1, min(1_000_000, round(least_seconds / max(once, 1e-9))))
    return counts


def _time(side: Callable[..., Any], setup: Callable[[], Any] | None, calls: int) -> float:
    """Mean seconds of a call; the last result is dropped outside the timing."""
    result = None
    arguments = (setup(),) if setup else ()
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            result = side(*arguments)
        end = time.perf_counter()
    finally:
        if was_enabled:
            gc.enable()
    del result
    return (end - start) / calls
