"""Memory of processes: what one holds, what it held at its peak, and a fresh one to measure in."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from prunelab.bench.compare import Figure, Skip

STATUS = Path("/proc/self/status")
"""Where Linux says how much memory a process holds."""
MEBI = 2**20

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return _size("VmRSS")


def peak_resident() -> int:
    """Most bytes of memory that this process has held so far."""
    return _size("VmHWM")


def _size(key: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def in_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process of its own, whose peak is that of this call alone.

    Args:
        work: a module's function; it sets the number of threads itself.
        args: what it is called with; they travel to the process.
        kwargs: likewise.

    Raises:
        Skip: this system does not tell a process's memory.
    """
    if not STATUS.exists():
        raise Skip(f"the peak of resident memory is read from {STATUS}")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def peak_above(call: Callable[[], object]) -> int:
    """Bytes that a call needs at its peak beyond what this process, a fresh one, holds before it."""
    before = resident()
    call()
    return peak_resident() - before


def peak_figure(
    name: str, peak_of: Callable[[str, S, int], int], size: S, *, most: float | None = None, note: str
) -> Figure:
    """What both sides need at their peaks, in MiB, a fresh process a side.

    Args:
        name: of the figure.
        peak_of: a module's function that gives the bytes of ``ours`` or of the ``reference``, of a size and
            with so many threads of torch, which it sets itself; see `peak_above`.
        size: it is pickled.
        most: the goal, our peak over the reference's.
        note: what is measured.

    Raises:
        Skip: this system does not tell a process's memory.
    """
    threads = torch.get_num_threads()
    ours, plain = (in_fresh_process(peak_of, side, size, threads) / MEBI for side in ("ours", "reference"))
    at_most = None if most is None else most * plain
    return Figure(name=name, ours=ours, reference=plain, unit="MiB", at_most=at_most, note=note)
