"""Packed sparse files: a state dict in little more than the entropy of its positions and values.

```python
packed.pack(state, "model.plp")               # any state dict; zeros are left out
state = packed.unpack("model.plp")            # dense, equal bit for bit
sparse = packed.read_sparse("model.plp")      # positions and values, without the zeros
packed.PackedFile("model.plp").dense(["logit.weight"])  # one tensor, the rest unread
```

A file is a header, a table of names, shapes and blocks, and the blocks, each under a CRC-32, so that no
byte is unguarded; nothing in it is pickled or executed. Sizes are compared with the file's before memory
is asked for. The byte layout is in docs/packed-format.md.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed_rans as rans
from prunelab.mask.packed_codec import (
    DTYPES,
    Pending,
    SparseTensor,
    drop,
    encode_dense,
    encode_sparse,
    negative_zeros,
    parse_block,
    sparse_fits,
    to_sparse,
)
from prunelab.mask.packed_rans import Corrupt
from prunelab.util import atomic_write, human_bytes

MAGIC = b"\x89PLPACK\n"
VERSION = 1
SUFFIX = ".plp"
_HEADER = struct.Struct("<8sHHIQI")
_BLOCK = struct.Struct("<QI")
_DENSE, _SPARSE = 0, 1
_MOST_ENTRIES = 1 << 62
_MOST_SPARSE = 1 << 34

TRUSTED_BYTES = 1 << 30
TRUSTED_RATIO = 1000
"""A reader fills at most the larger of 1 GiB and 1000 times the file's size, unless told to do more."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the table says about one tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    numel: int
    kept: int | None
    """Entries written by position, or None where all are written."""
    block: int
    """Number of its block; tensors with equal contents share one."""

    @property
    def dense_bytes(self) -> int:
        """Size of the dense tensor in memory."""
        return self.numel * self.dtype.itemsize

    @property
    def read_bytes(self) -> int:
        """Size in memory of what the block itself holds."""
        return self.dense_bytes if self.kept is None else self.kept * (8 + self.dtype.itemsize)


def _check_machine() -> None:
    if sys.byteorder != "little":
        raise UserError(f"this machine is {sys.byteorder}-endian: packed files need a little-endian one")


# ---- writing ----


def pack(
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    merge_zeros: bool = False,
) -> int:
    """Write tensors to a packed file, atomically.

    Args:
        state: name to tensor: dense or sparse, any shape, any of the format's dtypes, on any device.
        path: the file, by custom ``*.plp``.
        metadata: plain data (JSON) to keep with them.
        merge_zeros: write ``-0.0`` as ``0.0``. Weights multiplied by masks hold as many ``-0.0`` as negative
            weights were pruned; kept bit for bit, they take a bit each and more.

    Returns:
        The file's size in bytes.

    Raises:
        UserError: something in the state that is no tensor or has no place in the format, metadata that
        is not plain, or a file that cannot be written.
    """
    _check_machine()
    blocks: dict[bytes, int] = {}
    rows = []
    for name, tensor in state.items():
        row, block = _encode(name, tensor, merge_zeros)
        rows.append(row + struct.pack("<I", blocks.setdefault(block, len(blocks))))
    table = _table(rows, list(blocks), metadata or {})
    payload = sum(map(len, blocks))
    head = _HEADER.pack(MAGIC, VERSION, 0, len(table), payload, 0)[:-4]
    head += struct.pack("<I", zlib.crc32(head))
    with atomic_write(path) as file:
        file.write(head + table + struct.pack("<I", zlib.crc32(table)))
        for block in blocks:
            file.write(block)
    return len(head) + len(table) + 4 + payload


def _encode(name: object, tensor: object, merge_zeros: bool) -> tuple[bytes, bytes]:
    """A tensor's row in the table, without the block's number, and its block."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise UserError(
            f"entry {name!r} holds a {type(tensor).__name__}: expected a tensor under a text name"
        )
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > 0xFFFF:
        raise UserError(f"tensor name {name[:40]!r}... has {len(encoded)} bytes: expected at most 65535")
    sparse = to_sparse(name, tensor)
    if merge_zeros:
        sparse = drop(sparse, negative_zeros(sparse))
    if sparse_fits(sparse):
        form, stored, block = _SPARSE, sparse.indices.numel(), encode_sparse(sparse)
    else:
        dense = sparse.dense().reshape(-1)
        form, stored, block = _DENSE, dense.numel(), encode_dense(dense)
    row = struct.pack("<H", len(encoded)) + encoded
    row += struct.pack("<BB", DTYPES.index(tensor.dtype), len(sparse.shape))
    row += struct.pack(f"<{len(sparse.shape)}Q", *sparse.shape) + struct.pack("<BQ", form, stored)
    return row, block


def _table(rows: list[bytes], blocks: list[bytes], metadata: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"metadata cannot be written as JSON ({error}): expected plain data") from error
    parts = [struct.pack("<I", len(text)), text, struct.pack("<I", len(blocks))]
    parts += [_BLOCK.pack(len(block), zlib.crc32(block)) for block in blocks]
    return b"".join([*parts, struct.pack("<I", len(rows)), *rows])


# ---- reading ----


class _Cursor:
    """Takes fields off a table, never past its end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes."""
        if length > len(self.data) - self.at:
            raise Corrupt("the table is cut off")
        self.at += length
        return self.data[self.at - length : self.at]

    def fields(self, layout: str) -> tuple[Any, ...]:
        """The next fields, little-endian."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def number(self, layout: str) -> int:
        """The next single number."""
        return self.fields(layout)[0]


class PackedFile:
    """A packed file whose header and table have been read and checked; tensors are read when asked for.

    Args:
        path: the file.
        limit: most bytes that one call may fill with what it reads; None means `TRUSTED_BYTES` or
            `TRUSTED_RATIO` times the file's size, whichever is more.

    Raises:
        UserError: the file is missing, cut off, changed, or no packed file.
    """

    def __init__(self, path: str | os.PathLike[str], *, limit: int | None = None) -> None:
        _check_machine()
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                table, self._payload_at = _read_table(file, self.size)
            self.metadata, self._blocks, entries = _parse_table(table, self.size - self._payload_at)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}): expected a packed file"
            ) from error
        except Corrupt as error:
            raise self._broken(error) from error
        self.entries: dict[str, Entry] = entries
        self.limit = max(TRUSTED_BYTES, TRUSTED_RATIO * self.size) if limit is None else limit

    def read(self, names: Iterable[str] | None = None) -> dict[str, SparseTensor | Tensor]:
        """Read tensors as they are written: by positions, or densely where the file has all entries.

        Args:
            names: which ones; None means all.

        Raises:
            UserError: an unknown name, a damaged file, or more bytes than the limit.
        """
        chosen = self._chosen(names)
        self._check_limit(sum(e.read_bytes for e in chosen))
        return self._read(chosen)

    def dense(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read tensors densely, zeros filled in; arguments and errors as for `read`."""
        chosen = self._chosen(names)
        self._check_limit(sum(e.dense_bytes + e.read_bytes for e in chosen))
        read = self._read(chosen)
        return {name: t.dense() if isinstance(t, SparseTensor) else t for name, t in read.items()}

    def block_bytes(self, name: str) -> int:
        """Size in the file of a tensor's block."""
        return self._blocks[self.entries[name].block][1]

    def _chosen(self, names: Iterable[str] | None) -> list[Entry]:
        wanted = list(self.entries) if names is None else list(names)
        for name in wanted:
            if name not in self.entries:
                raise UserError(
                    f"{self.path}: has no tensor {name!r}: expected one of {', '.join(self.entries)}"
                )
        return [self.entries[name] for name in wanted]

    def _check_limit(self, total: int) -> None:
        if total > self.limit:
            raise UserError(
                f"{self.path}: its tensors fill {human_bytes(total)}, the file {human_bytes(self.size)}: "
                f"expected at most {human_bytes(self.limit)} (a higher limit can be given)"
            )

    def _read(self, chosen: list[Entry]) -> dict[str, SparseTensor | Tensor]:
        try:
            with self.path.open("rb") as file:
                blocks = {n: self._block(file, n) for n in dict.fromkeys(e.block for e in chosen)}
            pending: list[Pending] = [
                parse_block(blocks[e.block], e.shape, e.numel, e.dtype, e.kept) for e in chosen
            ]
            decoded = iter(rans.decode([job for p in pending for job in p.jobs]))
            return {
                e.name: p.finish([next(decoded) for _ in p.jobs])
                for e, p in zip(chosen, pending, strict=True)
            }
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        except Corrupt as error:
            raise self._broken(error) from error

    def _block(self, file: Any, number: int) -> memoryview:
        start, length, checksum = self._blocks[number]
        file.seek(self._payload_at + start)
        block = file.read(length)
        if len(block) != length or zlib.crc32(block) != checksum:
            raise Corrupt(f"block {number} does not have its checksum")
        return memoryview(block)

    def _broken(self, error: Corrupt) -> UserError:
        return UserError(f"{self.path}: is no whole packed file ({error}): expected one written by pack")


def _read_table(file: Any, size: int) -> tuple[memoryview, int]:
    """Header checked against the file's size; the table's bytes and where the blocks begin."""
    head = file.read(_HEADER.size)
    if head[: len(MAGIC)] != MAGIC:
        raise Corrupt("it does not begin with the format's mark")
    if len(head) < _HEADER.size:
        raise Corrupt("the header is cut off")
    _, version, reserved, table_size, payload, checksum = _HEADER.unpack(head)
    if zlib.crc32(head[:-4]) != checksum:
        raise Corrupt("the header does not have its checksum")
    if version != VERSION or reserved:
        raise Corrupt(f"format version {version} is unknown, this program knows {VERSION}")
    whole = _HEADER.size + table_size + 4 + payload
    if whole != size:
        raise Corrupt(f"it has {size} bytes, its header says {whole}")
    table = file.read(table_size + 4)
    if len(table) != table_size + 4 or zlib.crc32(table[:-4]) != struct.unpack("<I", table[-4:])[0]:
        raise Corrupt("the table does not have its checksum")
    return memoryview(table)[:-4], _HEADER.size + table_size + 4


_Blocks = list[tuple[int, int, int]]


def _parse_table(table: memoryview, payload: int) -> tuple[dict[str, Any], _Blocks, dict[str, Entry]]:
    """Metadata, blocks (start, length, checksum) and tensors; everything but the blocks' contents checked."""
    cursor = _Cursor(table)
    metadata = _parse_metadata(cursor.take(cursor.number("I")))
    blocks: _Blocks = []
    start = 0
    for _ in range(cursor.number("I")):
        length, checksum = _BLOCK.unpack(cursor.take(_BLOCK.size))
        blocks.append((start, length, checksum))
        start += length
    if start != payload:
        raise Corrupt("blocks do not fill the file")
    entries: dict[str, Entry] = {}
    for _ in range(cursor.number("I")):
        entry = _parse_entry(cursor, len(blocks))
        if entry.name in entries:
            raise Corrupt(f"tensor {entry.name!r} stands twice in the table")
        entries[entry.name] = entry
    if cursor.at != len(table):
        raise Corrupt("the table is too long")
    if {entry.block for entry in entries.values()} != set(range(len(blocks))):
        raise Corrupt("a block belongs to no tensor")
    return metadata, blocks, entries


def _parse_metadata(text: memoryview) -> dict[str, Any]:
    try:
        metadata = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise Corrupt("the metadata is not JSON") from error
    if not isinstance(metadata, dict):
        raise Corrupt("the metadata is not a JSON object")
    return metadata


def _parse_entry(cursor: _Cursor, blocks: int) -> Entry:
    try:
        name = bytes(cursor.take(cursor.number("H"))).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Corrupt("a tensor's name is not UTF-8") from error
    code, dims = cursor.fields("BB")
    if code >= len(DTYPES) or dims > 64:
        raise Corrupt(f"tensor {name!r} has dtype {code} and {dims} dimensions")
    shape = cursor.fields(f"{dims}Q")
    form, stored, block = cursor.fields("BQI")
    numel = math.prod(shape)
    if math.prod(max(size, 1) for size in shape) > _MOST_ENTRIES:
        raise Corrupt(f"tensor {name!r} is too large")
    fits = stored == numel if form == _DENSE else stored <= numel < _MOST_SPARSE
    if form not in (_DENSE, _SPARSE) or not fits or block >= blocks:
        raise Corrupt(f"the table's row of tensor {name!r} contradicts itself")
    return Entry(
        name=name,
        dtype=DTYPES[code],
        shape=shape,
        numel=numel,
        kept=stored if form == _SPARSE else None,
        block=block,
    )


def unpack(path: str | os.PathLike[str], *, limit: int | None = None) -> dict[str, Tensor]:
    """Read all tensors of a packed file densely, bit for bit as they were packed.

    Args:
        path: the file.
        limit: most bytes to fill, see `PackedFile`.

    Raises:
        UserError: the file is missing, cut off, changed, no packed file, or over the limit.
    """
    return PackedFile(path, limit=limit).dense()


def read_sparse(
    path: str | os.PathLike[str], *, limit: int | None = None
) -> dict[str, SparseTensor | Tensor]:
    """Read all tensors of a packed file as they are written; arguments and errors as for `unpack`."""
    return PackedFile(path, limit=limit).read()
