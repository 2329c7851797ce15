"""Features kept in memory while enough of it is free, shared by all processes that load them.

No process serves the others: what is kept lies in one anonymous file in memory (Linux' ``memfd``), which
loading processes inherit and other ranks of the machine open. Every image has a place of its own in it, and
places that nobody has written take no memory.
"""

# N images, n rows of an image, F width

from __future__ import annotations

import contextlib
import multiprocessing.context
import os
import secrets
import struct
import weakref
from collections.abc import Iterable
from multiprocessing import reduction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunelab import dist
from prunelab.data.features import FeatureSource
from prunelab.errors import UserError
from prunelab.util import StrPath

SLOT = 2**26
"""Bytes from one image's place to the next one's; larger images are not kept."""
LEAST_FREE = 0.2
"""Nothing more is kept when a smaller share of the memory is free, whatever was asked for."""

_ENTRY = struct.Struct("<QQ")
_TOKEN_BYTES = 16
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Offer(NamedTuple):
    """Where other processes of this machine find a memory."""

    machine: str
    """Names the machine and its present start."""
    process: int
    """The process that made it."""
    descriptor: int
    """The file's number there."""
    token: bytes
    """What the file begins with."""


class FeatureMemory:
    """Rows of features (n, F) float32 by image id, in memory that processes share.

    A copy made for a new process (by fork, or pickled while it is spawned) is the same memory; any other
    pickle begins empty. Processes need no lock: an image's place is written by whoever reads it first, all
    write the same bytes, and what says that they are there is written last. So a reader never sees half of an
    image, also when a writer was killed.

    Args:
        ids: the images that may be kept, N of them.

    Raises:
        OSError: the system has no such files (`available`).
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._places = {image_id: place for place, image_id in enumerate(dict.fromkeys(ids))}
        self.token = secrets.token_bytes(_TOKEN_BYTES)
        self._hold(os.memfd_create("prunelab-features", os.MFD_CLOEXEC))
        os.pwrite(self._file, self.token, 0)

    def _hold(self, file: int) -> None:
        self._file = file
        self._closing = weakref.finalize(self, os.close, file)
        table = _TOKEN_BYTES + _ENTRY.size * len(self._places)
        self._first = -(-table // SLOT) * SLOT

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {"places": self._places, "token": self.token, "file": None}
        if multiprocessing.context.get_spawning_popen() is not None:
            state["file"] = reduction.DupFd(self._file)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["file"] is None:
            self.__init__(state["places"])
            return
        self._places, self.token = state["places"], state["token"]
        self._hold(state["file"].detach())

    def __len__(self) -> int:
        """How many images are kept now."""
        return sum(self._entry(place) is not None for place in self._places.values())

    def __contains__(self, image_id: int) -> bool:
        """Whether this image is kept now."""
        place = self._places.get(image_id)
        return place is not None and self._entry(place) is not None

    def _entry(self, place: int) -> tuple[int, int] | None:
        found = os.pread(self._file, _ENTRY.size, _TOKEN_BYTES + _ENTRY.size * place)
        if len(found) < _ENTRY.size:
            return None
        rows, width = _ENTRY.unpack(found)
        return (rows, width) if rows and width else None

    def get(self, image_id: int) -> np.ndarray | None:
        """The rows (n, F) of an image, a copy; None where they are not kept."""
        place = self._places.get(image_id)
        shape = None if place is None else self._entry(place)
        if place is None or shape is None:
            return None
        rows = np.empty(shape, np.float32)
        view = rows.data.cast("B")
        done = 0
        while done < len(view):
            done += os.preadv(self._file, [view[done:]], self._first + place * SLOT + done)
        return rows

    def put(self, image_id: int, rows: np.ndarray) -> bool:
        """Keep an image's rows (n, F); whether that was possible."""
        place = self._places.get(image_id)
        values = np.ascontiguousarray(rows, np.float32)
        if place is None or values.ndim != 2 or not 0 < values.nbytes <= SLOT:
            return False
        view = values.data.cast("B")
        try:
            done = 0
            while done < len(view):
                done += os.pwrite(self._file, view[done:], self._first + place * SLOT + done)
            os.pwrite(self._file, _ENTRY.pack(*values.shape), _TOKEN_BYTES + _ENTRY.size * place)
        except OSError:  # no memory is left, or a file may not be that long here
            return False
        return True

    def offer(self) -> Offer:
        """What `join` needs in another process of this machine."""
        return Offer(_machine(), os.getpid(), self._file, self.token)

    def join(self, offer: Offer) -> bool:
        """Go over to another process's memory of the same images; whether that was possible."""
        if offer.token == self.token or offer.machine != _machine():
            return False
        try:
            file = os.open(f"/proc/{offer.process}/fd/{offer.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        if os.pread(file, _TOKEN_BYTES, 0) != offer.token:
            os.close(file)
            return False
        self._closing()
        self.token = offer.token
        self._hold(file)
        return True


def _machine() -> str:
    with contextlib.suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return ""


def shared_memory(ids: Iterable[int]) -> FeatureMemory:
    """A memory for some images that all ranks of a machine share; every rank must call this.

    Where a rank cannot open another one's, it has its own.
    """
    memory = FeatureMemory(ids)
    here = [offer for offer in dist.gather_objects([memory.offer()]) if offer.machine == _machine()]
    if here:
        memory.join(here[0])
    dist.barrier()  # so that nobody has closed its own before others have opened it
    return memory


def available() -> str | None:
    """Why features cannot be kept on this system, in a few words; None where they can."""
    if not hasattr(os, "memfd_create"):
        return "this system has no memory that processes share by a file (Linux has)"
    if free_share() == 0:
        return "this system does not tell how much memory is free (/proc/meminfo)"
    return None


class CachedFeatures:
    """A source of features that keeps what it has read.

    Following the original's rule, nothing is kept where ``min_free_ram`` is 1; else an image is kept if the
    free share of the machine's memory is greater than ``max(0.2, min_free_ram)`` at that moment. Nothing is
    dropped again.
    """

    def __init__(self, source: FeatureSource, memory: FeatureMemory, *, min_free_ram: float) -> None:
        if not 0 <= min_free_ram <= 1:
            raise UserError(f"cache_min_free_ram is {min_free_ram}; expected a share from 0 to 1")
        self.source, self.memory, self.min_free_ram = source, memory, min_free_ram

    def __contains__(self, image_id: int) -> bool:
        """Whether there are features of this image."""
        return image_id in self.memory or image_id in self.source

    def get(self, image_id: int) -> np.ndarray:
        """As the source's, (n, F) float32."""
        found = self.memory.get(image_id)
        if found is None:
            found = self.source.get(image_id)
            if self.min_free_ram < 1 and free_share() > max(LEAST_FREE, self.min_free_ram):
                self.memory.put(image_id, found)
        return found


def free_share(meminfo: StrPath = "/proc/meminfo", cgroups: StrPath = "/sys/fs/cgroup") -> float:
    """The share of the memory that is free; 0 where the system does not tell.

    Free is MemFree + Buffers + Cached without what is kept in files in memory, which Linux counts as cached.
    Where a container's limit leaves less, that share counts.
    """
    try:
        amounts = _amounts(Path(meminfo), 1024)
        free = amounts["MemFree"] + amounts["Buffers"] + amounts["Cached"] - amounts.get("Shmem", 0)
        share = free / amounts["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError, ZeroDivisionError):
        return 0.0
    with contextlib.suppress(OSError, KeyError, ValueError, IndexError, ZeroDivisionError):
        limit = int((Path(cgroups) / "memory.max").read_text(encoding="ascii"))
        used = _amounts(Path(cgroups) / "memory.stat", 1)
        share = min(share, (limit - used["anon"] - used["shmem"]) / limit)
    return max(share, 0.0)


def _amounts(file: Path, unit: int) -> dict[str, int]:
    """Names and numbers of a file of the system, in bytes."""
    lines = file.read_text(encoding="ascii").splitlines()
    pairs = [line.replace(":", " ").split()[:2] for line in lines if line.strip()]
    return {name: unit * int(number) for name, number in pairs}
