"""A store of features on disk: memory-mapped shards, fp16 or fp32, any number of rows an item, checksummed.

`FeatureWriter` writes it, one writer a rank, and goes on after a kill at any moment; `FeatureStore` reads it,
a single item or a whole padded batch. The bytes are described in `prunelab.data.store_format`. Nothing is
pickled.
"""

# B items of a batch, S rows of the longest, F width

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.data.store_format import (
    END,
    HEADER_SIZE,
    RECORD_SIZE,
    Header,
    Index,
    Record,
    index_files,
    padded,
    read_index,
    shard_name,
)
from prunelab.errors import UserError
from prunelab.util import StrPath

SHARD_BYTES = 2**30
"""A shard is finished when it has grown to this size."""

LARGE_PAGE = 2**21


def is_store(path: StrPath) -> bool:
    """Whether a folder holds feature shards."""
    return Path(path).is_dir() and bool(index_files(Path(path)))


class FeatureWriter:
    """Appends items to a store; as a context manager it finishes its last shard when the block ends well.

    Opening it again after a kill keeps all whole items: ``image_id in writer`` tells what need not be
    computed again (items of other ranks included, so a run may go on with another number of ranks).

    Args:
        path: the store's folder; made where it is missing.
        width: values a row F.
        dtype: ``"float16"`` or ``"float32"``.
        rank: this process; each rank writes files of its own.
        shard_bytes: size at which a shard is finished.

    Raises:
        UserError: the folder cannot be written, holds features of another dtype or width, is damaged, or
            another process is writing as this rank.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        width: int,
        dtype: str = "float16",
        rank: int = 0,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if dtype not in ("float16", "float32"):
            raise UserError(f"feature store's dtype is {dtype!r}; expected float16 or float32")
        self.path, self.rank, self.shard_bytes = Path(path), rank, shard_bytes
        self._dtype, self._width = np.dtype(dtype).newbyteorder("<"), width
        self._files: tuple[int, int] | None = None
        self._ids: set[int] = set()
        self._number = 0
        with self._faults():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            try:
                self._find_written()
            except BaseException:
                self._release()
                raise

    def _take_lock(self) -> int:
        import fcntl

        name = self.path / f".rank-{self.rank:04d}.lock"
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UserError(f"{self.path}: another process is writing it as rank {self.rank}") from error
        return lock

    def _find_written(self) -> None:
        """Learn what is in the store, and bring the own unfinished shard to its last whole item."""
        for path in index_files(self.path):
            own = path.name.startswith(f"shard-{self.rank:04d}-")
            index = read_index(path)
            if own:
                self._number = max(self._number, int(path.stem.rpartition("-")[2]) + 1)
            if index is None:
                continue
            if index.header.dtype != self._dtype or index.header.width != self._width:
                raise UserError(
                    f"{path}: holds {index.header.dtype.name} rows of {index.header.width} values; expected "
                    f"{self._dtype.name} rows of {self._width} (give another folder, or remove this one)"
                )
            if own and not index.sealed:
                index = self._recover(index)
            self._ids.update(record.image_id for record in index.records)

    def _recover(self, index: Index) -> Index:
        """Cut a killed writer's shard after its last good item, and finish it."""
        with open(index.data, "r+b") as data:
            good = len(index.records)
            for place, record in enumerate(index.records):
                data.seek(record.offset)
                item = data.read(padded(index.header.item_bytes(record.rows)))
                # After a power failure the last records may be on the disk without their items.
                if zlib.crc32(item) != record.crc:
                    good = place
                    break
            kept = Index(path=index.path, header=index.header, records=index.records[:good], sealed=True)
            data.truncate(kept.size)
            os.fsync(data.fileno())
        with open(index.path, "r+b") as records:
            records.truncate(HEADER_SIZE + good * RECORD_SIZE)
            records.seek(0, os.SEEK_END)
            records.write(_end_record(kept))
            records.flush()
            os.fsync(records.fileno())
        return kept

    def __contains__(self, image_id: int) -> bool:
        """Whether the item is in the store, whoever wrote it."""
        return image_id in self._ids

    def __len__(self) -> int:
        """Number of items in the store, whoever wrote them."""
        return len(self._ids)

    def add(self, image_id: int, rows: np.ndarray) -> None:
        """Append one item; when this returns, a kill of the process cannot take it back.

        Args:
            image_id: its name, a whole number >= 0.
            rows: (n, F) of any float dtype.

        Raises:
            UserError: the shape is wrong, a value is not finite (in the store's dtype), the item is there
                already, or the disk is full (what was written before is intact).
        """
        if rows.ndim != 2 or rows.shape[1] != self._width:
            raise UserError(
                f"features of image {image_id} have shape {rows.shape}; expected (n, {self._width})"
            )
        if image_id < 0 or image_id in self._ids:
            why = "is in the store already" if image_id in self._ids else "is negative"
            raise UserError(f"{self.path}: image id {image_id} {why}; expected a new whole number >= 0")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(rows, dtype=self._dtype)
        if not np.isfinite(values).all():
            raise UserError(f"features of image {image_id} are not finite in {self._dtype.name}")
        with self._faults():
            self._append(image_id, values)
        self._ids.add(image_id)

    def _append(self, image_id: int, values: np.ndarray) -> None:
        if self._files is None:
            self._begin_shard()
        assert self._files is not None
        item = values.tobytes()
        item += bytes(padded(len(item)) - len(item))
        index = self._index
        record = Record(image_id=image_id, offset=index.size, rows=len(values), crc=zlib.crc32(item))
        data, records = self._files
        try:
            _write_all(data, item)
            _write_all(records, record.pack(index.header, len(index.records)))
        except OSError:
            os.ftruncate(data, index.size)
            os.ftruncate(records, HEADER_SIZE + len(index.records) * RECORD_SIZE)
            raise
        index.records.append(record)
        if index.size >= self.shard_bytes:
            self._finish_shard()

    def _begin_shard(self) -> None:
        header = Header(dtype=self._dtype, width=self._width, rank=self.rank, number=self._number)
        path = self.path / shard_name(self.rank, self._number)
        self._number += 1
        self._index = Index(path=path, header=header, records=[], sealed=False)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        data = os.open(self._index.data, flags, 0o644)
        self._files = data, os.open(path, flags, 0o644)
        _write_all(self._files[1], header.pack())

    def _finish_shard(self) -> None:
        assert self._files is not None
        data, records = self._files
        os.fsync(data)  # before the end record, which says that all of it is there
        _write_all(records, _end_record(self._index))
        os.fsync(records)
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files or ():
            os.close(file)
        self._files = None

    def close(self) -> None:
        """Finish the last shard and let go of the folder."""
        with self._faults():
            if self._files is not None:
                self._finish_shard()
        self._release()

    def _release(self) -> None:
        self._close_files()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            self._release()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Say which store the operating system complains about."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written: {error.strerror}; what was there is intact"
            ) from error


def _end_record(index: Index) -> bytes:
    return Record(image_id=END, offset=index.size, rows=0, crc=0).pack(index.header, len(index.records))


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class _Shard:
    """A shard's mapped values; an item is compared with its checksum when it is first asked for."""

    def __init__(self, index: Index) -> None:
        self.index = index
        size = index.size
        found = index.data.stat().st_size if index.data.exists() else -1
        if found < size or (index.sealed and found != size):
            raise UserError(
                f"{index.data}: has {max(found, 0)} bytes; expected {size} (cut off or not whole)"
            )
        values = np.zeros(0, index.header.dtype)
        if size:
            with open(index.data, "rb") as file:
                self.map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            values = np.frombuffer(self.map, index.header.dtype)  # all values of the shard, filling included
        self.values = values
        self.checked: list[np.ndarray | None] = [None] * len(index.records)
        self.unchecked = len(index.records)
        self.table = self._table()

    def _table(self) -> np.ndarray | None:
        """All items as (N, n, F), if they have equally many rows and need no filling."""
        records = self.index.records
        size = self.index.header.item_bytes(records[0].rows) if records else 0
        if size == 0 or size != padded(size) or any(r.rows != records[0].rows for r in records):
            return None
        return self.values.reshape(len(records), records[0].rows, -1)  # (N * n * F,) -> (N, n, F)

    def forget(self) -> None:
        """Check every item anew when it is asked for."""
        self.checked = [None] * len(self.checked)
        self.unchecked = len(self.checked)

    def announce(self, place: int) -> None:
        """Let the system read an item ahead."""
        record = self.index.records[place]
        start = record.offset // mmap.PAGESIZE * mmap.PAGESIZE
        if record.rows:
            self.map.madvise(mmap.MADV_WILLNEED, start, self._end(record) - start)

    def item(self, place: int) -> np.ndarray:
        """An item's rows (n, F), where they are mapped.

        Raises:
            UserError: they do not fit their checksum.
        """
        rows = self.checked[place]
        if rows is None:
            rows = self.checked[place] = self._check(self.index.records[place])
            self.unchecked -= 1
        return rows

    def _check(self, record: Record) -> np.ndarray:
        if record.rows and zlib.crc32(memoryview(self.map)[record.offset : self._end(record)]) != record.crc:
            raise UserError(
                f"{self.index.data}: features of image {record.image_id} are damaged (wrong checksum); "
                "remove this shard and write it again"
            )
        width = self.index.header.width
        start = record.offset // self.index.header.dtype.itemsize
        return self.values[start : start + record.rows * width].reshape(record.rows, width)  # -> (n, F)

    def _end(self, record: Record) -> int:
        return record.offset + padded(self.index.header.item_bytes(record.rows))


class FeatureStore:
    """Reads a store: the index of all shards is joined when it is opened, the values are mapped, not loaded.

    Each item is compared with its checksum when a process reads it for the first time. One thread copies: it
    already reads as fast as the memory delivers.

    Args:
        path: the store's folder.

    Attributes:
        dtype: float16 or float32.
        width: values a row F.
        complete: whether every shard was finished by its writer.

    Raises:
        UserError: there is no store, shards do not fit each other, or an index is damaged.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        if not is_store(self.path):
            raise UserError(f"{self.path}: not a feature store; expected a folder with files shard-*.idx")
        indices = [index for file in index_files(self.path) if (index := read_index(file)) is not None]
        kinds = {(index.header.dtype, index.header.width) for index in indices}
        if len(kinds) != 1:
            found = " and ".join(sorted(f"{dtype.name} x {width}" for dtype, width in kinds)) or "nothing"
            raise UserError(f"{self.path}: its shards hold {found}; expected one dtype and width")
        self.dtype, self.width = kinds.pop()
        self.complete = all(index.sealed for index in indices)
        self._shards = [_Shard(index) for index in indices]
        # Sorted ids, and where each one's item lies: number of its shard, place in that.
        self._ids, self._shard, self._place = self._join()

    def _join(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Join the shards' indices; an item that is there twice counts once, if both are the same."""
        where: dict[int, tuple[int, int]] = {}
        for number, shard in enumerate(self._shards):
            for place, record in enumerate(shard.index.records):
                known, first = where.setdefault(record.image_id, (number, place))
                other = self._shards[known].index
                if (other.records[first].crc, other.records[first].rows) != (record.crc, record.rows):
                    raise UserError(
                        f"{shard.index.path}: image {record.image_id} is also in {other.path.name}, "
                        "with other features; remove one of the two shards"
                    )
        table = np.array([(image_id, *lies) for image_id, lies in sorted(where.items())], np.int64)
        ids, shards, places = table.reshape(-1, 3).T.copy()
        return ids, shards, places

    def __len__(self) -> int:
        """Number of items."""
        return len(self._ids)

    def __contains__(self, image_id: int) -> bool:
        """Whether there are features of this image."""
        place = int(self._ids.searchsorted(image_id))
        return place < len(self) and int(self._ids[place]) == image_id

    def ids(self) -> list[int]:
        """The image ids, sorted."""
        return self._ids.tolist()

    def _find(self, ids: Sequence[int]) -> np.ndarray:
        """Positions in the joined index, (B,)."""
        wanted = np.array(ids, np.int64)
        found = self._ids.searchsorted(wanted)
        wrong = self._ids.take(found, mode="clip") != wanted if len(self) else np.ones(len(wanted), bool)
        if wrong.any():
            missing = wanted[wrong][0]
            raise UserError(f"{self.path}: no features of image {missing} among its {len(self)} items")
        return found

    def _items(self, found: np.ndarray) -> list[np.ndarray]:
        """The items (n, F) at some positions, where they are mapped; those to check are announced first."""
        where = [
            (self._shards[number], place)
            for number, place in zip(self._shard[found].tolist(), self._place[found].tolist(), strict=True)
        ]
        for shard, place in where:
            if shard.checked[place] is None:
                shard.announce(place)
        return [shard.item(place) for shard, place in where]

    def rows(self, image_id: int) -> int:
        """Number of rows n of an item."""
        (position,) = self._find([image_id])
        return self._shards[self._shard[position]].index.records[self._place[position]].rows

    def get(self, image_id: int) -> np.ndarray:
        """One item as float32, (n, F): a copy.

        Raises:
            UserError: there is no such item, or it is damaged.
        """
        (item,) = self._items(self._find([image_id]))
        return item.astype(np.float32)

    def buffer(self, count: int, rows: int) -> np.ndarray:
        """Zeros for `get_batch` to fill again and again, (count, rows, F) in the store's dtype.

        They lie on large memory pages where the system has them; copying into those is some percent faster.
        """
        size = count * rows * self.width * self.dtype.itemsize
        pages = mmap.mmap(-1, size + 2 * LARGE_PAGE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # the system may have none
                pages.madvise(mmap.MADV_HUGEPAGE)
        values = np.frombuffer(pages, np.uint8)
        start = -values.ctypes.data % LARGE_PAGE
        return values[start : start + size].view(self.dtype).reshape(count, rows, self.width)

    def get_batch(self, ids: Sequence[int], out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Several items, padded with zeros to the longest.

        Args:
            ids: image ids, B of them.
            out: where to put them: (at least B, at least S, F) of any float dtype; made where it is None, in
                the store's dtype.

        Returns:
            The batch (B, S, F), a view of ``out`` where that is given, and each item's rows (B,) int64.

        Raises:
            UserError: an item is missing or damaged, or ``out`` is too small.
        """
        found = self._find(ids)
        if len(self._shards) == 1 and self._shards[0].table is not None and not self._shards[0].unchecked:
            return self._from_table(self._shards[0].table, self._place.take(found), out)
        items = self._items(found)
        counts = [len(item) for item in items]
        longest = max(counts, default=0)
        batch = self._buffer((len(items), longest, self.width), out)

        for target, item, count in zip(batch, items, counts, strict=True):
            target[:count] = item
            target[count:] = 0
        return batch, np.array(counts, np.int64)

    def _from_table(
        self, items: np.ndarray, places: np.ndarray, out: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`get_batch` where all items have equally many rows and were checked: one call copies them."""
        count = items.shape[1]
        batch = self._buffer((len(places), count, self.width), out)
        if batch.dtype == items.dtype and batch.flags.c_contiguous:
            # The places are valid; "clip" spares the copy that NumPy makes where it has to check.
            items.take(places, axis=0, out=batch, mode="clip")
        else:
            for target, place in zip(batch, places, strict=True):
                target[...] = items[place]
        return batch, np.full(len(places), count, np.int64)

    def _buffer(self, shape: tuple[int, int, int], out: np.ndarray | None) -> np.ndarray:
        if out is None:
            return np.empty(shape, self.dtype)
        if out.ndim != 3 or out.shape[0] < shape[0] or out.shape[1] < shape[1] or out.shape[2] != shape[2]:
            raise UserError(f"{self.path}: the batch needs shape {shape}; the buffer given has {out.shape}")
        return out[: shape[0], : shape[1]]

    def verify(self) -> int:
        """Compare every item with its checksum, also those that were read before; returns their number.

        Raises:
            UserError: one is damaged.
        """
        for shard in self._shards:
            shard.forget()
            for place in range(len(shard.checked)):
                shard.item(place)
        return len(self)
