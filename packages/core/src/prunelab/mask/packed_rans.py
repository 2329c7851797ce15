"""Entropy coding of bytes: static range asymmetric numeral systems (rANS), many lanes at a time in NumPy.

A stream of n bytes is cut into lanes of `LANE` symbols (the last one may be shorter). Each lane is coded
on its own with a 32-bit state and 16-bit words, all lanes of a stream by one table of frequencies that
sum to 2**12. Decoding advances all lanes of *all* streams of a file together, one symbol at a time: a
file of a million symbols takes about a thousand vector steps, which needs no compiled code and costs 4
bytes in 1024 symbols.

The byte layout is in docs/packed-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# n symbols of a stream, K its lanes, W its words, L lanes decoded together

Bytes = NDArray[np.uint8]

LANE = 1024
"""Symbols of a lane."""
PRECISION = 12
"""Frequencies sum to 2**PRECISION."""
_TOTAL = 1 << PRECISION
_LOW = 1 << 16  # states lie in [2**16, 2**32) between symbols; a lane starts (and its decoder ends) at 2**16
_TOGETHER = 1 << 14  # lanes that one pass decodes: its arrays stay in the cache


class Corrupt(ValueError):
    """Bytes that no encoder writes."""


def normalise(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale counts to frequencies that sum to 2**12 and are at least 1 where the count is.

    Args:
        counts: (256,) occurrences, at least two of them greater than 0.

    Returns:
        (256,) frequencies.
    """
    total = counts.sum()
    ideal = counts * (_TOTAL / total)
    frequencies = np.where(counts > 0, np.maximum(1, np.floor(ideal + 0.5)), 0).astype(np.int64)
    surplus = int(frequencies.sum()) - _TOTAL
    while surplus:
        # Take from (or give to) the symbol whose code length times count changes least for the better.
        step = 1 if surplus > 0 else -1
        changed = frequencies - step
        allowed = (counts > 0) & (changed >= 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.where(allowed, counts * (np.log2(frequencies) - np.log2(changed)), np.inf)
        frequencies[int(np.argmin(cost))] -= step
        surplus -= step
    return frequencies


def encode(symbols: Bytes, frequencies: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Code symbols, lane by lane.

    Args:
        symbols: (n,) with n >= 1; every symbol has a frequency of at least 1 and below 2**12.
        frequencies: (256,) as `normalise` makes them.

    Returns:
        (K,) word counts of the lanes, and (W,) their words one lane after the other.
    """
    lanes = -(-symbols.size // LANE)
    last = symbols.size - (lanes - 1) * LANE  # length of the last lane, 1..LANE
    padded = np.zeros(lanes * LANE, np.uint8)
    padded[: symbols.size] = symbols
    by_step = np.ascontiguousarray(padded.reshape(lanes, LANE).T)  # (LANE, K)
    frequency = frequencies.astype(np.uint64)
    start = (np.cumsum(frequencies) - frequencies).astype(np.uint64)
    state = np.full(lanes, _LOW, np.uint64)
    words = np.zeros((lanes, LANE + 2), np.uint16)  # in the order of emission
    used = np.zeros(lanes, np.int64)
    for step in reversed(range(min(LANE, symbols.size))):
        live = lanes if step < last else lanes - 1
        x, row = state[:live], by_step[step, :live]
        f = frequency[row]
        full = np.flatnonzero(x >= (f << np.uint64(32 - PRECISION)))
        words[full, used[full]] = x[full].astype(np.uint16)
        used[full] += 1
        x[full] >>= np.uint64(16)
        quotient = x // f
        x += quotient * (np.uint64(_TOTAL) - f) + start[row]  # = (x // f << 12) + x % f + start
    every = np.arange(lanes)
    words[every, used] = state.astype(np.uint16)
    words[every, used + 1] = (state >> np.uint64(16)).astype(np.uint16)
    used += 2
    # Decoding runs backwards through what was emitted.
    place = np.arange(LANE + 2)
    backwards = words[every[:, None], np.maximum(used[:, None] - 1 - place, 0)]
    return used.astype(np.uint16), backwards[place < used[:, None]]


@dataclass(frozen=True)
class Job:
    """One coded stream, ready to be decoded."""

    size: int
    """Number of symbols n, at least 1."""
    frequencies: NDArray[np.int64]
    """(256,) summing to 2**12, each below 2**12."""
    word_counts: NDArray[np.int64]
    """(K,) words of each lane, K = ceil(n / LANE)."""
    words: NDArray[np.uint16]
    """(W,) with W the sum of the word counts."""


def _table(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(2**12,) by slot: symbol in bits 0-7, its frequency - 1 in bits 8-19, slot - start in bits 20-31."""
    symbols = np.arange(256)
    starts = np.cumsum(frequencies) - frequencies
    symbol = np.repeat(symbols, frequencies)
    offset = np.arange(_TOTAL) - starts[symbol]
    return (symbol | (frequencies[symbol] - 1) << 8 | offset << 20).astype(np.uint32)


def decode(jobs: list[Job]) -> list[Bytes]:
    """Decode several streams in one go.

    Whatever the words hold, the work is bounded by the sizes: a lane reads at most one word a symbol,
    and words beyond the end read as 0. A lane that did not come out at its end is reported afterwards.

    Args:
        jobs: the coded streams.

    Returns:
        (n,) symbols of each.

    Raises:
        Corrupt: words that do not decode to exactly that many symbols.
    """
    if not jobs:
        return []
    tables = np.concatenate([_table(job.frequencies) for job in jobs])
    words = np.concatenate([*(job.words for job in jobs), np.zeros(LANE + 2, np.uint16)])
    lanes = np.array([len(job.word_counts) for job in jobs])
    counts = np.concatenate([job.word_counts for job in jobs])
    ends = np.cumsum(counts)
    lengths = np.full(counts.size, LANE, np.int64)
    lengths[np.cumsum(lanes) - 1] = [job.size - (k - 1) * LANE for job, k in zip(jobs, lanes, strict=True)]
    bases = np.repeat(np.arange(len(jobs)) << PRECISION, lanes)
    # Long lanes first, so that the lanes still running are always a front part of the arrays.
    order = np.argsort(-lengths, kind="stable")
    symbols = np.empty((counts.size, LANE), np.uint8)
    for at in range(0, counts.size, _TOGETHER):
        group = order[at : at + _TOGETHER]
        starts = (ends - counts)[group]
        decoded = _decode_lanes(words, tables, starts, ends[group], bases[group], lengths[group])
        symbols[group] = decoded.T
    first = np.cumsum(lanes) - lanes
    return [symbols[a : a + k].reshape(-1)[: job.size] for job, a, k in zip(jobs, first, lanes, strict=True)]


def _decode_lanes(
    words: NDArray[np.uint16],
    tables: NDArray[np.uint32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    bases: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Bytes:
    """Decode lanes (sorted by falling length) side by side to (LANE, L); short lanes leave what was there."""
    out = np.zeros((LANE, starts.size), np.uint8)
    wide = words.astype(np.uint32)
    position = starts + 2
    base = bases.astype(np.uint32)
    state = wide[starts] << np.uint32(16) | wide[starts + 1]
    running = np.searchsorted(-lengths, -np.arange(LANE), side="left")  # lanes longer than each step
    for step in range(int(lengths[0])):
        live = int(running[step])
        x, pos, offset = state[:live], position[:live], base[:live]
        entry = tables.take((x & np.uint32(_TOTAL - 1)) + offset)
        np.copyto(out[step, :live], entry, casting="unsafe")  # the low byte
        x >>= np.uint32(PRECISION)
        x *= ((entry >> np.uint32(8)) & np.uint32(_TOTAL - 1)) + np.uint32(1)
        x += entry >> np.uint32(20)
        need = x < _LOW
        np.copyto(x, x << np.uint32(16) | wide.take(pos), where=need)
        pos += need
    if not (np.array_equal(position, ends) and bool((state == _LOW).all())):
        raise Corrupt("coded bytes do not end where they should")
    return out
