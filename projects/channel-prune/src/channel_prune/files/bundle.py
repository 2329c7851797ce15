"""TensorFlow's checkpoint files, read and written without TensorFlow.

A checkpoint ``model.ckpt-100`` is two files: ``model.ckpt-100.data-00000-of-00001`` has the bytes of all
variables, one after the other; ``model.ckpt-100.index`` says for each name its type, its shape and its place
there. A folder's text file ``checkpoint`` names the newest one.

The index is a table as LevelDB writes it: blocks of sorted entries, whose keys leave out what they share with
the key before; behind each block its compression (here always none) and a check sum; a block that says where
the others are; and at the end of the file, where that one is. Values are protocol buffers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write

MAGIC = 0xDB4775248B80FB57
"""The last eight bytes of a table."""
FOOTER = 48
TRAILER = 5
"""Bytes behind a block: one for its compression, four of a check sum."""
BLOCK = 4096
"""Size from which a new block is begun."""
RESTART = 16
"""Entries after which a key is written whole."""
TYPES: dict[int, type[np.generic]] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    19: np.float16,
}
"""By TensorFlow's number; variables of other types are left out."""
LATEST = "checkpoint"
"""File that names the newest checkpoint of a folder."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMED = re.compile(r'model_checkpoint_path:\s*"(.+)"')


def find_bundle(path: StrPath) -> Path | None:
    """The checkpoint that a path means, without ``.index``; None if it means none.

    Args:
        path: a checkpoint's name, with or without its step, one of its files, or a folder with checkpoints;
            of several the newest counts.
    """
    path = Path(path)
    if path.is_dir():
        latest = path / LATEST
        named = _NAMED.search(latest.read_text(encoding="utf-8")) if latest.is_file() else None
        if named:
            return find_bundle(path / Path(named[1]).name)
        found = sorted(path.glob("*.index"), key=lambda file: file.stat().st_mtime)
        return found[-1].with_suffix("") if found else None
    stem = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    prefix = path.with_name(stem)
    if _index_of(prefix).is_file():
        return prefix
    steps = {int(step[1]): file for file in path.parent.glob("*.index") if (step := _step(stem, file.stem))}
    return steps[max(steps)].with_suffix("") if steps else None


def _step(stem: str, name: str) -> re.Match[str] | None:
    """The step in the name of a checkpoint that was written under ``stem``."""
    return re.fullmatch(re.escape(stem) + r"-(\d+)", name)


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _data_of(prefix: Path, shard: int, shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


# -------------------------------------------------------------------------------------------------- reading


def read_bundle(prefix: StrPath) -> dict[str, np.ndarray]:
    """All variables of a checkpoint, by name.

    Args:
        prefix: the checkpoint's name, as `find_bundle` gives it.

    Raises:
        UserError: a file is missing, cut off or damaged, or is of the kind that TensorFlow wrote before 0.12.
    """
    prefix = Path(prefix)
    index = _index_of(prefix)
    try:
        table = dict(_read_table(index.read_bytes(), index))
        if b"" not in table:
            raise UserError(f"{index}: holds no variables of TensorFlow, expected the index of a checkpoint")
        header = _Message(table.pop(b""))
        if header.number(2):
            raise UserError(f"{index}: numbers are big-endian, expected little-endian ones")
        entries = {key.decode(): _Entry.of(_Message(value)) for key, value in table.items()}
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{index}: damaged, expected the index of a TensorFlow checkpoint") from error
    shards = {shard: _data_of(prefix, shard, header.number(1, 1)) for shard in range(header.number(1, 1))}
    return dict(_read_variables(entries, shards))


def _read_variables(
    entries: Mapping[str, _Entry], shards: Mapping[int, Path]
) -> Iterator[tuple[str, np.ndarray]]:
    from channel_prune.files.crc import masked_crc32c

    for shard, file in shards.items():
        if not file.is_file():
            raise UserError(f"{file}: no such file, but the checkpoint's index asks for it")
        content = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
        for name, entry in entries.items():
            if entry.shard != shard or entry.type not in TYPES:
                continue
            found = content[entry.offset : entry.offset + entry.size].tobytes()
            dtype = np.dtype(TYPES[entry.type]).newbyteorder("<")
            count = int(np.prod(entry.shape, dtype=np.int64))
            if len(found) != entry.size or entry.size != count * dtype.itemsize:
                raise UserError(f"{file}: cut off, or of another checkpoint: {name} is not whole")
            if masked_crc32c(found) != entry.crc:
                raise UserError(f"{file}: damaged: the check sum of {name} is wrong")
            yield name, np.frombuffer(found, dtype).reshape(entry.shape).astype(TYPES[entry.type])


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What an index says of a variable."""

    type: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int

    @classmethod
    def of(cls, message: _Message) -> _Entry:
        shape = _Message(message.bytes(2))
        return cls(
            type=message.number(1),
            shape=tuple(_Message(dim).number(1) for dim in shape.all_bytes(2)),
            shard=message.number(3),
            offset=message.number(4),
            size=message.number(5),
            crc=message.number(6),
        )


@dataclass(kw_only=True)
class _Reader:
    """Takes numbers off the front of some bytes."""

    data: bytes
    place: int = 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def take(self, count: int) -> bytes:
        found = self.data[self.place : self.place + count]
        if len(found) != count:
            raise IndexError("cut off")
        self.place += count
        return found


class _Message:
    """The fields of a protocol buffer, by number."""

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        reader = _Reader(data=data)
        while reader.place < len(data):
            key = reader.varint()
            self._fields.setdefault(key >> 3, []).append(self._value(reader, key & 7))

    @staticmethod
    def _value(reader: _Reader, kind: int) -> int | bytes:
        match kind:
            case 0:
                return reader.varint()
            case 1:
                return struct.unpack("<Q", reader.take(8))[0]
            case 2:
                return reader.take(reader.varint())
            case 5:
                return struct.unpack("<I", reader.take(4))[0]
        raise ValueError(f"fields of kind {kind} are not known")

    def number(self, name: int, default: int = 0) -> int:
        value = self._fields.get(name, [default])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {name} is no number")
        return value

    def all_bytes(self, name: int) -> list[bytes]:
        return [value for value in self._fields.get(name, []) if isinstance(value, bytes)]

    def bytes(self, name: int) -> bytes:
        return (self.all_bytes(name) or [b""])[-1]


def _read_table(data: bytes, where: Path) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise UserError(f"{where}: cut off, or no index of a TensorFlow checkpoint")
    footer = _Reader(data=data[-FOOTER:])
    _ = footer.varint(), footer.varint()  # place of a block that says nothing
    for _, place in _read_block(data, footer.varint(), footer.varint(), where):
        handle = _Reader(data=place)
        yield from _read_block(data, handle.varint(), handle.varint(), where)


def _read_block(data: bytes, start: int, size: int, where: Path) -> Iterator[tuple[bytes, bytes]]:
    from channel_prune.files.crc import masked_crc32c

    whole = data[start : start + size + TRAILER]
    if len(whole) != size + TRAILER:
        raise UserError(f"{where}: cut off")
    if struct.unpack("<I", whole[-4:])[0] != masked_crc32c(whole[:-4]):
        raise UserError(f"{where}: damaged: a check sum is wrong")
    if whole[size]:
        raise UserError(f"{where}: a compressed table, expected none: TensorFlow 1.2 and later write such")
    block = whole[:size]
    (restarts,) = struct.unpack("<I", block[-4:])
    reader = _Reader(data=block[: len(block) - 4 - 4 * restarts])
    key = b""
    while reader.place < len(reader.data):
        shared, fresh, length = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(fresh)
        yield key, reader.take(length)


# -------------------------------------------------------------------------------------------------- writing


def write_bundle(prefix: StrPath, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a checkpoint, and name it as the newest one of its folder.

    Args:
        prefix: its name, such as ``models/model.ckpt-0``.
        arrays: variables by name.

    Returns:
        The name.

    Raises:
        UserError: a file cannot be written.
        ValueError: an array of a type that is not known.
    """
    from channel_prune.files.crc import masked_crc32c

    prefix = Path(prefix)
    numbers = {np.dtype(dtype): number for number, dtype in TYPES.items()}
    entries = [(b"", _field(1, 1) + _field(3, _field(1, 1)))]  # one data file; written by a version 1
    offset = 0
    with atomic_write(_data_of(prefix, 0, 1)) as file:
        for name in sorted(arrays, key=str.encode):
            array = np.asarray(arrays[name])
            if array.dtype not in numbers:
                raise ValueError(f"{name}: {array.dtype} has no number in TensorFlow's files")
            content = array.astype(array.dtype.newbyteorder("<"), order="C").tobytes()
            file.write(content)
            shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
            crc = bytes([6 << 3 | _FIXED32]) + struct.pack("<I", masked_crc32c(content))
            entry = _field(1, numbers[array.dtype]) + _field(2, shape) + _field(4, offset)
            entries.append((name.encode(), entry + _field(5, len(content)) + crc))
            offset += len(content)
    with atomic_write(_index_of(prefix)) as file:
        file.write(_table(entries))
    with atomic_write(prefix.with_name(LATEST), "w") as file:
        text = f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
        file.write(text)
    return prefix


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(name: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return _varint(name << 3 | _VARINT) + _varint(value)
    return _varint(name << 3 | _BYTES) + _varint(len(value)) + value


@dataclass(kw_only=True)
class _Blocks:
    """A table that is being written."""

    data: bytearray = field(default_factory=bytearray)

    def add(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Write a block; returns where it is."""
        from channel_prune.files.crc import masked_crc32c

        block, restarts, before = bytearray(), [0], b""
        for number, (key, value) in enumerate(entries):
            if number % RESTART:
                shared = next(
                    (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b),
                    min(len(before), len(key)),
                )
            else:
                shared = 0
                restarts[number // RESTART :] = [len(block)]
            block += _varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value
            before = key
        block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
        handle = _varint(len(self.data)) + _varint(len(block))
        block.append(0)  # not compressed
        self.data += block + struct.pack("<I", masked_crc32c(bytes(block)))
        return handle


def _table(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    blocks, handles = _Blocks(), []
    pending: list[tuple[bytes, bytes]] = []
    size = 0
    for number, (key, value) in enumerate(entries):
        pending.append((key, value))
        size += len(key) + len(value)
        if size >= BLOCK or number == len(entries) - 1:
            handles.append((key, blocks.add(pending)))
            pending, size = [], 0
    footer = blocks.add([]) + blocks.add(handles)
    return bytes(blocks.data) + footer.ljust(FOOTER - 8, b"\0") + struct.pack("<Q", MAGIC)
