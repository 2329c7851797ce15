"""The original's file of features, written so that a kill at any moment takes nothing back.

The file has one data set a picture, ``<id>_features``, in one piece, neither chunked nor compressed. All of
them are of one shape, so the whole file is laid out before the first value is known; what is written from
then on is plain bytes at places that do not move. HDF5's own structures are never touched again: the file
cannot be left torn, and any number of processes may write into it. Until it is whole it lies in a folder
beside its place, ``<name>.part``, with lists of the pictures that are done.
"""

# N pictures, S visual tokens, F their width

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expansionnet.features.extractor import Origin
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.util import human_bytes, read_json, write_json

SUFFIX = "_features"
"""What follows a picture's id in the name of its data set."""
SYNC_BYTES = 2**28
"""Written bytes are forced to the disk about so often; after a power failure the rest is looked at again."""
_SYNC = "sync"


class Hdf5Parts:
    """The unfinished file of some pictures' features.

    Args:
        output: the file that is to be written.
        ids: of the pictures, in the order of the file.
        shape: (S, F).
        dtype: ``float32`` or ``float16``.
    """

    def __init__(self, output: Path, ids: Sequence[int], shape: tuple[int, int], dtype: str) -> None:
        self.output, self.ids, self.shape, self.dtype = output, list(ids), shape, np.dtype(dtype)
        self.folder = output.with_name(f"{output.name}.part")
        self.data, self.header = self.folder / "features.hdf5", self.folder / "header.json"
        self._offsets: dict[int, int] = {}

    @property
    def item_bytes(self) -> int:
        """Bytes of a picture's features."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def begun(self) -> bool:
        """Whether there is an unfinished file."""
        return self.folder.exists()

    @property
    def whole(self) -> bool:
        """Whether the file is there, and no unfinished one that is to take its place."""
        return self.output.is_file() and not self.begun

    def prepare(self, origin: Origin) -> list[int]:
        """Lay the file out, or find out what it lacks; for one process.

        Returns:
            Ids of the pictures whose features are to be written.

        Raises:
            UserError: an unfinished file of other features, or too little space.
        """
        about = {
            "origin": to_plain(origin),
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "ids": self.ids,
        }
        if not self.header.is_file():  # nothing, or a kill while it was laid out
            self._lay_out()
            write_json(self.header, about, indent=None)
            return self.ids
        known = read_json(self.header)
        if {**known, "origin": None} != {**about, "origin": None} or not origin.same_as(_origin(known)):
            raise UserError(
                f"{self.folder}: an unfinished file of other features, expected the same backbone, pictures "
                "and dtype; remove it to begin anew"
            )
        if not self.data.is_file():  # killed after the file had gone to its place
            return []
        done = self._recover()
        return [image_id for image_id in self.ids if image_id not in done]

    def _lay_out(self) -> None:
        import h5py
        from h5py import h5d, h5p, h5s, h5t  # pyright: ignore[reportAttributeAccessIssue] - modules in C

        with _faults(self.output):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            needed, free = len(self.ids) * self.item_bytes, shutil.disk_usage(self.folder).free
            if needed > free:
                raise UserError(
                    f"{self.output}: needs {human_bytes(needed)}, {human_bytes(free)} are free there; "
                    "--dtype fp16 takes half of it"
                )
            plan = h5p.create(h5p.DATASET_CREATE)
            plan.set_layout(h5d.CONTIGUOUS)
            plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
            plan.set_fill_time(h5d.FILL_TIME_NEVER)
            space, kind = h5s.create_simple(self.shape), h5t.py_create(self.dtype)
            with h5py.File(self.data, "w") as file:
                for image_id in self.ids:
                    h5d.create(file.id, f"{image_id}{SUFFIX}".encode(), kind, space, plan)

    def _recover(self) -> set[int]:
        """Ids of the pictures that are done; what was not forced to the disk is checked."""
        done: set[int] = set()
        doubtful: dict[int, int] = {}
        for log in sorted(self.folder.glob("done-*.txt")):
            for line in log.read_text(encoding="ascii").splitlines(keepends=True):
                if line.strip() == _SYNC:
                    done |= doubtful.keys()
                    doubtful.clear()
                elif line.endswith("\n"):
                    image_id, checksum = line.split()
                    doubtful[int(image_id)] = int(checksum, 16)
            with self.writer(rank=-1) as reader:
                done |= {i for i, checksum in doubtful.items() if zlib.crc32(reader.read(i)) == checksum}
            doubtful.clear()
        with open(self.data, "rb") as file:
            os.fsync(file.fileno())
        joined = self.folder / "joined.txt"
        lines = [*(f"{image_id} 0\n" for image_id in sorted(done)), f"{_SYNC}\n"]
        joined.write_text("".join(lines), encoding="ascii")
        os.replace(joined, self.folder / "done-0000.txt")
        for log in self.folder.glob("done-*.txt"):
            if log.name != "done-0000.txt":
                log.unlink()
        return done

    def offsets(self) -> dict[int, int]:
        """Where each picture's bytes lie."""
        import h5py
        from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue] - a module in C

        if not self._offsets:
            with h5py.File(self.data, "r") as file:
                self._offsets = {
                    image_id: h5d.open(file.id, f"{image_id}{SUFFIX}".encode()).get_offset()
                    for image_id in self.ids
                }
        return self._offsets

    def writer(self, rank: int) -> PartWriter:
        """What a process writes with."""
        return PartWriter(self, rank)

    def finish(self, origin: Origin) -> None:
        """Put the file, which is whole, in its place; for one process."""
        with _faults(self.output):
            if self.data.is_file():
                with open(self.data, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.data, self.output)
            origin.save(self.output)
            shutil.rmtree(self.folder)


def _origin(header: dict[str, Any]) -> Origin:
    return from_plain(Origin, header["origin"], where="origin")


@contextlib.contextmanager
def _faults(output: Path) -> Iterator[None]:
    """Say which file the operating system complains about."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written: {error.strerror}; what is done is kept, --resume goes on"
        ) from error


class PartWriter:
    """Writes the features of single pictures into the file that `Hdf5Parts` laid out.

    Args:
        parts: the unfinished file.
        rank: number of this process; negative: it only reads.
    """

    def __init__(self, parts: Hdf5Parts, rank: int) -> None:
        self.parts, self._offsets = parts, parts.offsets()
        self._data = os.open(parts.data, os.O_RDWR)
        self._log = None
        if rank >= 0:
            self._log = open(parts.folder / f"done-{rank:04d}.txt", "a", encoding="ascii")  # noqa: SIM115
        self._unsynced = 0

    def add(self, image_id: int, rows: np.ndarray) -> None:
        """Write a picture's features (S, F); when this returns, a kill cannot take them back.

        Raises:
            UserError: a value is not finite in the file's precision, or the disk is full.
        """
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(rows, dtype=self.parts.dtype)
        if not np.isfinite(values).all():
            raise UserError(
                f"features of image {image_id} are not finite in {values.dtype}, expected numbers"
            )
        content = values.tobytes()
        with _faults(self.parts.output):
            written = 0
            while written < len(content):
                written += os.pwrite(self._data, content[written:], self._offsets[image_id] + written)
            self._note(f"{image_id} {zlib.crc32(content):08x}\n")
            self._unsynced += len(content)
            if self._unsynced >= SYNC_BYTES:
                os.fsync(self._data)
                self._note(f"{_SYNC}\n")
                self._unsynced = 0

    def _note(self, line: str) -> None:
        assert self._log is not None
        self._log.write(line)
        self._log.flush()

    def read(self, image_id: int) -> bytes:
        """A picture's bytes as they are in the file now."""
        return os.pread(self._data, self.parts.item_bytes, self._offsets[image_id])

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._log is not None:
            self._log.close()
        os.close(self._data)
