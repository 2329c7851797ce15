"""The bytes of a feature store's index files; `docs/feature-store.md` describes them for other programs.

A shard is two files: ``shard-<rank>-<number>.bin`` holds the items' values, ``.idx`` tells where each item
lies. An index file is one header of 64 bytes, one record of 32 bytes an item, and one end record when the
shard is finished; all numbers are little-endian.

====== ====== ===========================================================================
header bytes  meaning
====== ====== ===========================================================================
0      8      ``PLFEATS1``
8      4      bytes a value: 2 (float16) or 4 (float32)
12     4      width F: values a row
16     4      rank of the writer
20     4      number of the shard
24     36     zero
60     4      CRC-32 of the 60 bytes before
====== ====== ===========================================================================

====== ====== ===========================================================================
record bytes  meaning
====== ====== ===========================================================================
0      8      image id, signed; in the end record -1
8      8      where the item begins in the ``.bin`` file; in the end record the file's size
16     4      rows n of the item; in the end record 0
20     4      CRC-32 of the item's bytes, filling included; in the end record 0
24     4      number of the record, from 0
28     4      CRC-32 of the header's checksum and the 28 bytes before
====== ====== ===========================================================================

An item is ``n * F`` values, row by row, filled up with zeros to a multiple of 64 bytes, where the next one
begins. A record is written after its item, so whatever moment a writer is killed at, the whole records
describe whole items.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunelab.errors import UserError

ALIGNMENT = 64
END = -1
MAGIC = b"PLFEATS1"
DTYPES = {2: np.dtype("<f2"), 4: np.dtype("<f4")}

_HEADER = struct.Struct("<8sIIII36x")
_RECORD = struct.Struct("<qQIII")
_CRC = struct.Struct("<I")
HEADER_SIZE = _HEADER.size + _CRC.size
RECORD_SIZE = _RECORD.size + _CRC.size
_NAME = re.compile(r"shard-(\d+)-(\d+)\.idx")


def padded(size: int) -> int:
    """A number of bytes, filled up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a shard holds."""

    dtype: np.dtype
    """float16 or float32, little-endian."""
    width: int
    """Values a row F."""
    rank: int
    """Who wrote it."""
    number: int
    """Which of the writer's shards this is."""

    def pack(self) -> bytes:
        """The header's 64 bytes."""
        head = _HEADER.pack(MAGIC, self.dtype.itemsize, self.width, self.rank, self.number)
        return head + _CRC.pack(zlib.crc32(head))

    @property
    def checksum(self) -> int:
        """The header's own checksum, from which those of its records start."""
        return _CRC.unpack(self.pack()[-_CRC.size :])[0]

    def item_bytes(self, rows: int) -> int:
        """Size of an item, without its filling."""
        return rows * self.width * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where one item lies."""

    image_id: int
    """Name of the item."""
    offset: int
    """Its first byte in the ``.bin`` file."""
    rows: int
    """Its rows n."""
    crc: int
    """CRC-32 of its bytes."""

    def pack(self, header: Header, place: int) -> bytes:
        """The record's 32 bytes as the index's record number ``place``."""
        body = _RECORD.pack(self.image_id, self.offset, self.rows, self.crc, place)
        return body + _CRC.pack(zlib.crc32(body, header.checksum))


@dataclass(frozen=True, kw_only=True)
class Index:
    """A shard's index file, read and checked."""

    path: Path
    """The ``.idx`` file."""
    header: Header
    """What the shard holds."""
    records: list[Record]
    """Its whole items, in the order of the file."""
    sealed: bool
    """Whether the writer finished it."""

    @property
    def data(self) -> Path:
        """The ``.bin`` file."""
        return self.path.with_suffix(".bin")

    @property
    def size(self) -> int:
        """Bytes of the ``.bin`` file that the records describe."""
        if not self.records:
            return 0
        last = self.records[-1]
        return last.offset + padded(self.header.item_bytes(last.rows))


def shard_name(rank: int, number: int) -> str:
    """Name of a shard's index file; names sort by rank and number."""
    return f"shard-{rank:04d}-{number:06d}.idx"


def index_files(folder: Path) -> list[Path]:
    """The index files of a store, by rank and number."""
    found = [(int(m[1]), int(m[2]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, _, path in sorted(found)]


def _read_header(path: Path, raw: bytes) -> Header:
    head, (crc,) = raw[: _HEADER.size], _CRC.unpack(raw[_HEADER.size : HEADER_SIZE])
    magic, size, width, rank, number = _HEADER.unpack(head)
    if magic != MAGIC:
        raise UserError(f"{path}: begins with {magic!r}; expected the index of a feature shard ({MAGIC!r})")
    if crc != zlib.crc32(head) or size not in DTYPES or width == 0 or any(head[24:]):
        raise UserError(f"{path}: the header is damaged (its checksum does not match); write the shard again")
    if path.name != shard_name(rank, number):
        raise UserError(
            f"{path}: holds shard {number} of rank {rank}; expected the name {shard_name(rank, number)}"
        )
    return Header(dtype=DTYPES[size], width=width, rank=rank, number=number)


def read_index(path: Path) -> Index | None:
    """Read a shard's index and check every record.

    A killed writer may leave a cut-off last record, or zeros after a power failure: they are left out. Any
    other fault is an error, so that no damage passes for a kill.

    Returns:
        The index, or None where the writer was killed before the header was whole.

    Raises:
        UserError: the file cannot be read, or is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) < HEADER_SIZE:
        return None
    header = _read_header(path, raw)
    checksum = header.checksum
    count = (len(raw) - HEADER_SIZE) // RECORD_SIZE
    records: list[Record] = []
    expected = 0
    for place in range(count):
        start = HEADER_SIZE + place * RECORD_SIZE
        body = raw[start : start + _RECORD.size]
        (crc,) = _CRC.unpack_from(raw, start + _RECORD.size)
        image_id, offset, rows, item_crc, number = _RECORD.unpack(body)
        if crc != zlib.crc32(body, checksum) or number != place or offset != expected:
            if not any(raw[start:]):  # space that a power failure left unwritten
                break
            raise UserError(f"{path}: record {place} is damaged (wrong checksum); write the shard again")
        if image_id == END:
            if start + RECORD_SIZE != len(raw):
                raise UserError(f"{path}: goes on after its end record; write the shard again")
            return Index(path=path, header=header, records=records, sealed=True)
        records.append(Record(image_id=image_id, offset=offset, rows=rows, crc=item_crc))
        expected = offset + padded(header.item_bytes(rows))
    return Index(path=path, header=header, records=records, sealed=False)
