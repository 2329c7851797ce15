"""Damaged and hostile packed files: always one clear error, never a huge allocation."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunelab.errors import UserError
from prunelab.mask import packed

HEADER = struct.Struct("<8sHHIQI")


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    coded = torch.where(torch.rand(60, 100) < 0.2, torch.randn(60, 100).half().float(), 0.0).half()
    return {"coded": coded, "bias": torch.tensor([1.0, 2.0]), "flag": torch.tensor([True, False, False] * 9)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "model.plp"
    packed.pack(small_state(), path, metadata={"k": "v"})
    data = path.read_bytes()
    assert b"\x02" in data  # has a coded stream
    return data


def seal(header: list[int], table: bytes, payload: bytes) -> bytes:
    """A file whose header and table have right lengths and checksums."""
    head = HEADER.pack(packed.MAGIC, header[0], header[1], len(table), len(payload), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + table + struct.pack("<I", zlib.crc32(table)) + payload


def pieces(data: bytes) -> tuple[bytes, bytes]:
    _, _, _, table_size, _, _ = HEADER.unpack(data[: HEADER.size])
    return data[HEADER.size : HEADER.size + table_size], data[HEADER.size + table_size + 4 :]


def reads(data: bytes, path: Path) -> bool:
    """Whether a file is read (else it was refused with one line that names it)."""
    path.write_bytes(data)
    try:
        packed.unpack(path)
        packed.read_sparse(path)
    except UserError as error:
        message = str(error)
    else:
        return True
    assert str(path) in message
    assert "\n" not in message
    return False


def test_every_flipped_byte_is_noticed(good: bytes, tmp_path: Path) -> None:
    assert reads(good, tmp_path / "f")
    # every byte of header, table and the blocks' heads; every seventh of the rest
    places = [*range(min(len(good), 420)), *range(420, len(good), 7)]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        assert not reads(bytes(damaged), tmp_path / "f"), place


def test_every_truncation_and_every_addition_is_noticed(good: bytes, tmp_path: Path) -> None:
    for length in [*range(0, 420), *range(420, len(good), 11)]:
        assert not reads(good[:length], tmp_path / "f"), length
    assert not reads(good + b"\0", tmp_path / "f")
    assert not reads(b"\0" + good, tmp_path / "f")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_random_damage_is_noticed(good: bytes, tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(good)
    for place, flip in edits:
        damaged[place % len(good)] ^= flip
    assert bytes(damaged) == good or not reads(bytes(damaged), tmp_path / "f")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_forged_table_with_right_checksums_is_refused_or_read(
    good: bytes, tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    table, payload = pieces(good)
    forged = bytearray(table)
    for place, value in edits:
        forged[place % len(table)] = value
    # `reads` asserts that a refusal is one line that names the file; anything else than a refusal raises.
    assert reads(seal([1, 0], bytes(forged), payload), tmp_path / "f") in (True, False)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_forged_block_with_right_checksums_is_refused_or_read(
    good: bytes, tmp_path: Path, edits: list[tuple[int, int]]
) -> None:
    table, payload = pieces(good)
    forged = bytearray(payload)
    for place, value in edits:
        # Heads of blocks and streams are where the structure is.
        at = place % len(payload) if place % 2 else place // 2 % 200
        forged[at] = value
    assert reads(seal([1, 0], reseal_blocks(table, bytes(forged)), bytes(forged)), tmp_path / "f") in (
        True,
        False,
    )


def reseal_blocks(table: bytes, payload: bytes) -> bytes:
    """The table with the checksums of changed blocks (its metadata is of known length)."""
    out = bytearray(table)
    (length,) = struct.unpack_from("<I", out)
    (number,) = struct.unpack_from("<I", out, 4 + length)
    start = 0
    for k in range(number):
        at = 8 + length + 12 * k
        (size,) = struct.unpack_from("<Q", out, at)
        struct.pack_into("<I", out, at + 8, zlib.crc32(payload[start : start + size]))
        start += size
    return bytes(out)


def forged_file(
    *, dims: list[int], form: int, stored: int, block: bytes, dtype: int = 0, tensors: int = 1
) -> bytes:
    """A file of one block that makes whatever claims about its tensors, with right checksums."""
    table = struct.pack("<I", 2) + b"{}" + struct.pack("<IQI", 1, len(block), zlib.crc32(block))
    table += struct.pack("<I", tensors)
    for k in range(tensors):
        name = f"t{k}".encode()
        table += struct.pack("<H", len(name)) + name + struct.pack("<BB", dtype, len(dims))
        table += struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<BQI", form, stored, 0)
    return seal([1, 0], table, block)


def sections(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


CONSTANT = sections(*[b"\x01\x07"] * 4)


@pytest.mark.parametrize(
    "data",
    [
        forged_file(dims=[10**12], form=0, stored=10**12, block=CONSTANT),
        forged_file(dims=[2**61], form=0, stored=2**61, block=CONSTANT),
        forged_file(dims=[2**40, 2**40], form=0, stored=2**80 % 2**64, block=CONSTANT),
        forged_file(dims=[0, 2**63], form=0, stored=0, block=sections(*[b"\0"] * 4)),
        forged_file(dims=[10**9], form=1, stored=10**9, block=sections(b"\x01\0", b"", *[b"\x01\x07"] * 4)),
        forged_file(dims=[2**33], form=1, stored=0, block=sections(*[b"\0"], b"", *[b"\0"] * 4)),
        forged_file(dims=[2**40], form=1, stored=0, block=sections(*[b"\0"], b"", *[b"\0"] * 4)),
        forged_file(dims=[10**8], form=0, stored=10**8, block=CONSTANT, tensors=1000),
        forged_file(dims=[5], form=1, stored=6, block=sections(b"\x01\0", b"", *[b"\x01\x07"] * 4)),
        forged_file(dims=[5], form=2, stored=5, block=CONSTANT),
        forged_file(dims=[5], form=0, stored=4, block=CONSTANT),
        forged_file(dims=[1] * 65, form=0, stored=1, block=CONSTANT),
        forged_file(dims=[5], form=0, stored=5, block=CONSTANT, dtype=99),
        forged_file(dims=[5], form=0, stored=5, block=sections(b"\x01\x02"), dtype=9),  # a bool of 2
        forged_file(dims=[9], form=1, stored=2, block=sections(b"\0\x05\x05", b"", *[b"\x01\x07"] * 4)),
        forged_file(dims=[9], form=1, stored=1, block=sections(b"\0\x09", b"\0\0", *[b"\x01\x07"] * 4)),
        forged_file(dims=[9], form=1, stored=1, block=sections(b"\0\xff", b"\xff" * 4, *[b"\x01\x07"] * 4)),
        forged_file(dims=[5], form=0, stored=5, block=CONSTANT + b"\0"),
        forged_file(dims=[5], form=0, stored=5, block=CONSTANT[:-1]),
        forged_file(dims=[5], form=0, stored=5, block=struct.pack("<Q", 2**63) + b"\x01\x07"),
        forged_file(dims=[5], form=0, stored=5, block=sections(b"", b"", b"", b"")),
        forged_file(dims=[5], form=0, stored=5, block=sections(*[b"\x03abcde"] * 4)),
        forged_file(dims=[5], form=0, stored=5, block=sections(*[b"\0abcd"] * 4)),
        forged_file(dims=[5], form=0, stored=5, block=sections(*[b"\x01ab"] * 4)),
    ],
)
def test_forged_claims_are_refused_without_a_large_allocation(data: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        path = tmp_path / "forged"
        path.write_bytes(data)
        with pytest.raises(UserError, match="forged"):
            packed.unpack(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def rans(symbols: dict[int, int], counts: list[int], words: list[int]) -> bytes:
    table = b"".join(struct.pack("<BH", s, f) for s, f in symbols.items())
    numbers = struct.pack(f"<{len(counts) + len(words)}H", *counts, *words)
    return bytes([2, len(symbols) - 1]) + table + numbers


@pytest.mark.parametrize(
    "stream",
    [
        rans({1: 4096}, [2], [1, 0]),  # one symbol only
        rans({1: 2048, 2: 2047}, [2], [1, 0]),  # sums to 4095
        rans({2: 2048, 1: 2048}, [2], [1, 0]),  # out of order
        rans({1: 4096, 2: 0}, [2], [1, 0]),  # a frequency of 0
        rans({1: 2048, 2: 2048}, [1], [1]),  # a lane without a state
        rans({1: 2048, 2: 2048}, [3], [1, 0]),  # more words than there are
        rans({1: 2048, 2: 2048}, [2, 2], [1, 0, 1, 0]),  # a lane too many
        rans({1: 2048, 2: 2048}, [2], [1, 0]),  # ends in another state
        rans({1: 2048, 2: 2048}, [2], [0, 0]),  # begins below the states
        rans({1: 2048, 2: 2048}, [2], [1, 0]) + b"\0",  # half a word
        b"\x02\xff",
        b"\x02",
    ],
)
def test_forged_streams_are_refused(stream: bytes, tmp_path: Path) -> None:
    block = sections(stream, *[b"\x01\x07"] * 3)
    path = tmp_path / "forged"
    path.write_bytes(forged_file(dims=[5], form=0, stored=5, block=block))
    with pytest.raises(UserError, match="is no whole packed file"):
        packed.unpack(path)


def test_doubled_names_unused_blocks_and_broken_metadata_are_refused(tmp_path: Path) -> None:
    block = sections(*[b"\x01\x07"] * 4)
    row = struct.pack("<H", 1) + b"a" + struct.pack("<BBQBQI", 0, 1, 5, 0, 5, 0)
    entry = struct.pack("<QI", len(block), zlib.crc32(block))
    one = struct.pack("<I", 1)

    def refused(table: bytes, payload: bytes, message: str) -> None:
        path = tmp_path / "f"
        path.write_bytes(seal([1, 0], table, payload))
        with pytest.raises(UserError, match=message):
            packed.unpack(path)

    plain = struct.pack("<I", 2) + b"{}"
    good = plain + one + entry + one + row
    (tmp_path / "f").write_bytes(seal([1, 0], good, block))
    assert packed.unpack(tmp_path / "f")["a"].view(torch.uint8).tolist() == [7] * 20
    refused(plain + one + entry + struct.pack("<I", 2) + row + row, block, "stands twice")
    refused(plain + struct.pack("<I", 2) + entry * 2 + one + row, block * 2, "belongs to no tensor")
    refused(plain + one + entry + one + row + b"\0", block, "table is too long")
    refused(plain + one + entry + one + row[:-1], block, "table is cut off")
    refused(plain + struct.pack("<I", 2**32 - 1) + entry, block, "table is cut off")
    refused(good, block + b"\0", "do not fill the file")
    refused(struct.pack("<I", 2) + b"[]" + good[6:], block, "not a JSON object")
    refused(struct.pack("<I", 2) + b"{]" + good[6:], block, "not JSON")
    deep = b"[" * 100_000
    refused(struct.pack("<I", len(deep)) + deep + good[6:], block, "not JSON")
    refused(good.replace(b"\x01\0a", b"\x01\0\xff"), block, "name is not UTF-8")
    (tmp_path / "f").write_bytes(seal([2, 0], good, block))
    with pytest.raises(UserError, match="format version 2 is unknown"):
        packed.unpack(tmp_path / "f")


def test_a_higher_limit_is_the_callers_decision(tmp_path: Path) -> None:
    path = tmp_path / "zeros.plp"
    packed.pack({"z": torch.zeros(1000, 1000)}, path)
    with pytest.raises(UserError, match=r"fill 4\.00 MB, the file .* expected at most 1\.00 MB"):
        packed.unpack(path, limit=1_000_000)
    assert packed.unpack(path, limit=4_000_000)["z"].shape == (1000, 1000)


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        packed.unpack(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot be read"):
        packed.unpack(tmp_path)


def test_a_file_that_changes_after_it_was_opened_is_noticed(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.plp"
    path.write_bytes(good)
    opened = packed.PackedFile(path)
    path.write_bytes(good[:-5] + bytes(5))
    with pytest.raises(UserError, match="does not have its checksum"):
        opened.dense()
    os.truncate(path, 100)
    with pytest.raises(UserError, match="does not have its checksum"):
        opened.dense()
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        opened.dense()
