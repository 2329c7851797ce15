"""Memory of processes: what one holds, what it held at its peak, and a fresh one to measure in."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from prunelab.bench.compare import Skip

STATUS = Path("/proc/self/status")
"""Where Linux says how much memory a process holds."""

P = ParamSpec("P")
T = TypeVar("T")


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
