"""LASSO over channels in its quadratic form: min over m of 1/2 m'Am - b'm + gamma |m|_1.

A = Z'Z and b = Z'y, where column i of Z is what channel i alone adds to the outputs. Both are divided by the
Frobenius norm of A, so gamma is relative to that.

`ista` and `search` are the original's: 100 steps from a random start, and a search for the gamma that leaves
the wanted number of channels. `path` is the exact solution for all gammas at once: coefficients are piecewise
linear in gamma, and from knot to knot one channel comes in or goes out.

# C channels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FIRST_GAMMA = 0.1
"""Where the search begins; it is doubled until few enough channels are left."""
GAMMA_TOLERANCE = 1e-8
"""The search ends when its bracket is this small, whatever is left then."""
DEPENDENT = 1e-11
"""A channel whose part that the others do not explain is below this share of it is not taken in."""
CLOSE = 1e-10
"""Two gammas are one where they differ by less than this share."""
RESIDUE = 1e-12
"""Where a solution leaves more than this share of its right side, the inverse is computed anew as well."""
REFRESHED = 32
"""After so many channels that came or went the inverse is computed anew."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which channels stay, and how that was found."""

    kept: list[int]
    """Places of channels, ascending."""
    gamma: float | None
    """Weight of the penalty that leaves them; None for a selection without one."""
    trace: list[tuple[float, int]]
    """What was tried: gamma and how many channels it leaves."""


@dataclass(frozen=True, kw_only=True)
class Knot:
    """The solution at one gamma of the path."""

    gamma: float
    support: list[int]
    """Channels in the order in which they came; those that come or go just here are in, with zero."""
    values: np.ndarray
    """Their coefficients."""


def scaled(quadratic: np.ndarray, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """A (C, C) and b (C,) divided by A's Frobenius norm, and that norm; a norm of zero stays."""
    norm = float(np.linalg.norm(quadratic))
    return (quadratic / norm, linear / norm, norm) if norm > 0 else (quadratic, linear, norm)


def target(channels: int, ratio: float, *, least: int = 1, round_to: int = 1) -> int:
    """How many of ``channels`` stay: cut off, as the original does, then up to a multiple, and ``least``."""
    count = int(channels * (1.0 - ratio))
    count = -(-count // round_to) * round_to
    return min(channels, max(count, least))


# --- the original's ---


def ista(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, gamma: float, *, rate: float, steps: int
) -> np.ndarray:
    """Proximal gradient steps in single precision, not run to convergence: section "quadratic form" above.

    Args:
        a: (C, C).
        b: (C,).
        start: (C,).
        gamma: weight of the penalty.
        rate: length of a step.
        steps: how many.

    Returns:
        The coefficients (C,) float32; channels with exactly zero are out.
    """
    a, b, m = a.astype(np.float32), b.astype(np.float32), start.astype(np.float32)
    step, threshold = np.float32(rate), np.float32(gamma * rate)
    for _ in range(steps):
        m = m - step * (a @ m - b)
        m = np.sign(m) * np.maximum(np.abs(m) - threshold, np.float32(0))
    return m


def search(solve: Callable[[float], np.ndarray], wanted: int) -> Selection:
    """The original's search: double gamma until at most ``wanted`` channels are left, then halve the bracket.

    Where several channels go at once it may end beside the wanted number; the last solution counts.

    Args:
        solve: gamma to coefficients (C,).
        wanted: number of channels that should stay.
    """
    trace: list[tuple[float, int]] = []

    def tried(gamma: float) -> np.ndarray:
        found = solve(gamma)
        trace.append((gamma, int(np.count_nonzero(found))))
        return found

    low, high = 0.0, FIRST_GAMMA
    found = tried(high)
    while trace[-1][1] > wanted:
        high *= 2
        found = tried(high)
    while trace[-1][1] != wanted and high - low > GAMMA_TOLERANCE:
        middle = (low + high) / 2
        found = tried(middle)
        if trace[-1][1] < wanted:
            high = middle
        elif trace[-1][1] > wanted:
            low = middle
    return Selection(kept=np.flatnonzero(found).tolist(), gamma=trace[-1][0], trace=trace)


# --- exact ---


class _Active:
    """The channels that are in, with the inverse of their part of A."""

    def __init__(self, a: np.ndarray) -> None:
        self.a = a
        self.places: list[int] = []
        self._inverse = np.zeros_like(a)
        self._changes = 0

    @property
    def inverse(self) -> np.ndarray:
        size = len(self.places)
        return self._inverse[:size, :size]

    def solve(self, right: np.ndarray) -> np.ndarray:
        """What the channels that are in make of this right side (C,), where theirs alone counts."""
        if not self.places:
            return np.zeros(0)
        inside, right = self.a[np.ix_(self.places, self.places)], right[self.places]
        found = self.inverse @ right
        rest = right - inside @ found
        if np.abs(rest).max() > RESIDUE * np.abs(right).max():  # channels that nearly explain one another
            self._renew()
            found = self.inverse @ right
            found += self.inverse @ (right - inside @ found)
        return found

    def add(self, place: int) -> bool:
        """Take a channel in; False: the others explain it, it stays out."""
        size, inverse = len(self.places), self.inverse
        u = inverse @ self.a[self.places, place] if size else np.zeros(0)
        rest = self.a[place, place] - (self.a[place, self.places] @ u if size else 0.0)
        if rest <= DEPENDENT * max(self.a[place, place], np.finfo(np.float64).tiny):
            return False
        inverse += np.outer(u, u) / rest
        self._inverse[size, :size] = self._inverse[:size, size] = -u / rest
        self._inverse[size, size] = 1 / rest
        self.places.append(place)
        self._changed()
        return True

    def remove(self, at: int) -> None:
        """Let the channel at this place of the list go."""
        v = self.inverse[:, at].copy()
        left = self.inverse - np.outer(v, v) / v[at]
        rest = [i for i in range(len(self.places)) if i != at]
        self._inverse[: len(rest), : len(rest)] = left[np.ix_(rest, rest)]
        del self.places[at]
        self._changed()

    def _changed(self) -> None:
        self._changes += 1
        if self._changes % REFRESHED == 0 and self.places:
            self._renew()

    def _renew(self) -> None:
        self.inverse[:] = np.linalg.inv(self.a[np.ix_(self.places, self.places)])


def path(a: np.ndarray, b: np.ndarray) -> Iterator[Knot]:
    """Follow the exact solution from the largest gamma that has one, where all channels are out, down to 0.

    Channels come and go one at a time; where several would at the same gamma, the one with the lower place
    does first. A channel that those inside explain wholly never comes.

    Args:
        a: (C, C), symmetric and positive semidefinite, float64.
        b: (C,).

    Yields:
        The knots, by falling gamma; the last one has gamma 0.
    """
    active = _Active(a)
    out = np.ones(len(b), dtype=bool)  # may come in
    signs = np.zeros(len(b))
    gamma, just = np.inf, -1  # just: the channel that came or went at the last knot
    while True:
        places = active.places
        # With signs s inside m(gamma) = base - gamma turn, and b - A m = c + gamma d for those outside.
        base, turn = active.solve(b), active.solve(signs)
        c, d = b - a[:, places] @ base, a[:, places] @ turn
        comes, who, sign = _next_in(c, d, out, gamma, just)
        goes, leaver = _next_out(base, turn, places, gamma, just)
        gamma = max(comes, goes)
        values = base - gamma * turn
        if gamma <= 0:
            yield Knot(gamma=0.0, support=list(places), values=values)
            return
        if goes >= comes:
            at = places.index(leaver)
            active.remove(at)
            just, signs[leaver], out[leaver] = leaver, 0.0, True
            yield Knot(gamma=gamma, support=list(active.places), values=np.delete(values, at))
            continue
        out[who] = False
        if active.add(who):
            just, signs[who] = who, sign
            yield Knot(gamma=gamma, support=list(active.places), values=np.append(values, 0.0))


def _next_in(
    c: np.ndarray, d: np.ndarray, out: np.ndarray, gamma: float, just: int
) -> tuple[float, int, float]:
    """The largest gamma below this one where one from outside has |c + gamma d| = gamma, and its sign."""
    best = (0.0, -1, 0.0)
    for sign in (1.0, -1.0):
        slope = 1.0 - sign * d
        fits = out & (slope > CLOSE)
        roots = np.where(fits, sign * c / np.where(fits, slope, 1.0), 0.0)
        roots[roots > gamma * (1 + CLOSE)] = 0.0
        if just >= 0 and roots[just] > gamma * (1 - CLOSE):
            roots[just] = 0.0  # it went just here
        who = int(np.argmax(roots)) if len(roots) else -1
        if who >= 0 and (roots[who] > best[0] or (roots[who] == best[0] > 0 and who < best[1])):
            best = (float(min(roots[who], gamma)), who, sign)
    return best


def _next_out(
    base: np.ndarray, turn: np.ndarray, places: Sequence[int], gamma: float, just: int
) -> tuple[float, int]:
    """The largest gamma below this one at which a coefficient inside is zero, and whose."""
    best = (0.0, -1)
    for at, place in enumerate(places):
        root = base[at] / turn[at] if turn[at] else 0.0
        if place != just and best[0] < root < gamma * (1 + CLOSE):
            best = (min(float(root), gamma), place)
    return best


def minimiser(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """The exact solution (C,) for one gamma: between two knots of the path it is linear."""
    found = np.zeros(len(b))
    above = Knot(gamma=np.inf, support=[], values=np.zeros(0))
    for below in path(a, b):
        if below.gamma <= gamma:
            upper, lower = np.zeros(len(b)), np.zeros(len(b))
            upper[above.support], lower[below.support] = above.values, below.values
            share = (gamma - below.gamma) / (above.gamma - below.gamma) if above.gamma < np.inf else 0.0
            return lower + share * (upper - lower)
        above = below
    return found


def exact(a: np.ndarray, b: np.ndarray, wanted: int) -> Selection:
    """The channels at the largest gamma whose exact solution has ``wanted`` of them.

    Where the path ends with fewer (channels that are zero or that others explain wholly), those that add most
    to the outputs fill up, the lower place first among equals.
    """
    trace: list[tuple[float, int]] = []
    kept: list[int] = []
    if wanted < len(b):
        for knot in path(a, b):
            trace.append((knot.gamma, len(knot.support)))
            kept = knot.support
            if len(kept) == wanted:
                break
    else:
        trace.append((0.0, wanted))
    if len(kept) < wanted:
        rest = np.setdiff1d(np.arange(len(b)), kept)
        order = np.argsort(-np.diagonal(a)[rest], kind="stable")
        kept = [*kept, *rest[order][: wanted - len(kept)].tolist()]
    return Selection(kept=sorted(int(place) for place in kept), gamma=trace[-1][0], trace=trace)
