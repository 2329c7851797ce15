"""Packed files: bit for bit there and back, the documented bytes, and no way to break the reader."""

from __future__ import annotations

import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed
from prunelab.mask.packed import PackedFile, SparseTensor
from prunelab.mask.packed_codec import DTYPES

DOCUMENT = Path(__file__).parents[4] / "docs" / "packed-format.md"


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert bits(found) == bits(expected)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, density: float, seed: int) -> Tensor:
    """Any bits at all (NaNs, -0.0, denormals) in a fraction of the entries."""
    draw = np.random.default_rng(seed)
    entries = math.prod(shape)
    raw = draw.integers(0, 2 if dtype == torch.bool else 256, (entries, dtype.itemsize), dtype=np.uint8)
    raw[draw.random(entries) >= density] = 0
    if not entries:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(raw).view(-1).view(dtype).view(shape)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.plp"


# ---- there and back ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(dtype: torch.dtype, file: Path) -> None:
    shapes = [(), (1,), (0,), (3, 0, 2), (70, 30), (5, 1, 9)]
    state = {
        f"{shape} {density}": random_tensor(shape, dtype, density, seed)
        for seed, (shape, density) in enumerate((s, d) for s in shapes for d in (0.0, 0.02, 0.5, 1.0))
    }
    size = packed.pack(state, file)
    assert size == file.stat().st_size
    back = packed.unpack(file)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert_same(back[name], tensor)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    density=st.sampled_from([0.0, 0.01, 0.3, 0.89, 0.95, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_tensor_comes_back(
    file: Path, shape: tuple[int, ...], dtype: torch.dtype, density: float, seed: int
) -> None:
    tensor = random_tensor(shape, dtype, density, seed)
    packed.pack({"x": tensor}, file)
    assert_same(packed.unpack(file)["x"], tensor)


def test_special_numbers_are_kept_and_only_plain_zeros_are_left_out(file: Path) -> None:
    words = torch.tensor([0, 0x8000, 0x7C01, 0xFE00, 0x0001, 0x7C00] + [0] * 30, dtype=torch.int32)
    tensor = words.to(torch.uint16).view(torch.float16)  # 0, -0.0, two NaNs, a denormal, infinity
    packed.pack({"x": tensor}, file)
    sparse = packed.read_sparse(file)["x"]
    assert isinstance(sparse, SparseTensor)
    assert sparse.indices.tolist() == [1, 2, 3, 4, 5]
    assert_same(sparse.dense(), tensor)
    packed.pack({"x": tensor}, file, merge_zeros=True)
    sparse = packed.read_sparse(file)["x"]
    assert isinstance(sparse, SparseTensor)
    assert sparse.indices.tolist() == [2, 3, 4, 5]


def coo(places: list[list[int]], values: list[float], shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor(places), torch.tensor(values), shape, check_invariants=True)


def test_sparse_layouts_are_packed_without_being_made_dense(file: Path) -> None:
    dense = random_tensor((40, 25), torch.float32, 0.05, 1).nan_to_num(1.0)
    shuffled = coo([[3, 0, 3], [1, 2, 0]], [1.0, 2.0, 3.0], (4, 3))
    doubled = coo([[1, 0, 1], [1, 0, 1]], [1.0, 2.0, 3.0], (2, 2))
    stored_zero = coo([[0, 5]], [0.0, 2.0], (9,))
    huge = coo([[0, 2**32 - 1]], [1.0, 2.0], (2**32,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once in a process that CSR is in beta
        rows = dense.to_sparse_csr()
    state = {
        "coo": dense.to_sparse(),
        "csr": rows,
        "hybrid": dense.to_sparse(1),
        "shuffled": shuffled,
        "doubled": doubled,
        "stored zero": stored_zero,
        "huge": huge,
    }
    packed.pack(state, file)
    opened = PackedFile(file)
    back = opened.dense(["coo", "csr", "hybrid", "shuffled", "doubled", "stored zero"])
    for name in ("coo", "csr", "hybrid"):
        assert torch.equal(back[name], dense)
    assert back["shuffled"].tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0], [3, 1, 0]]
    assert back["doubled"].tolist() == [[2, 0], [0, 4]]
    assert opened.entries["stored zero"].kept == 1
    large = opened.read(["huge"])["huge"]
    assert isinstance(large, SparseTensor)
    assert large.indices.tolist() == [0, 2**32 - 1]
    with pytest.raises(UserError, match=r"fill 17\.2 GB, the file .* expected at most 1\.07 GB"):
        opened.dense(["huge"])


@pytest.mark.parametrize("shape", [(), (6,), (4, 5), (2, 3, 4)])
def test_a_sparse_tensor_becomes_coo(shape: tuple[int, ...], file: Path) -> None:
    tensor = torch.zeros(shape)
    if shape:
        tensor.view(-1)[1::3] = 2.5
    packed.pack({"x": tensor}, file)
    sparse = packed.read_sparse(file)["x"]
    assert isinstance(sparse, SparseTensor)
    assert torch.equal(sparse.coo().to_dense(), tensor)


def test_long_gaps_and_long_streams_come_back(file: Path) -> None:
    spread = torch.zeros(3_000_000)
    places = torch.tensor([0, 7, 15, 16, 24, 1000, 2_097_152, 2_999_999])
    spread[places] = torch.arange(1.0, 9.0)
    many = random_tensor((300_000,), torch.float16, 0.3, 5)
    packed.pack({"spread": spread, "many": many, "ones": torch.ones(100_000)}, file)
    back = packed.unpack(file)
    assert torch.equal(back["spread"], spread)
    assert_same(back["many"], many)
    assert torch.equal(back["ones"], torch.ones(100_000))
    assert PackedFile(file).block_bytes("ones") < 64
    sparse = packed.read_sparse(file)["spread"]
    assert isinstance(sparse, SparseTensor)
    assert torch.equal(sparse.indices, places)


def test_views_and_parameters_are_packed_by_what_they_show(file: Path) -> None:
    base = random_tensor((30, 20), torch.float32, 0.1, 0).nan_to_num(0.0)
    weight = torch.nn.Parameter(base)
    packed.pack(
        {"t": base.t(), "step": base[::2, 1::3], "p": weight, "conj": torch.tensor([1 + 2j]).conj()}, file
    )
    back = packed.unpack(file)
    assert torch.equal(back["t"], base.t())
    assert torch.equal(back["step"], base[::2, 1::3])
    assert torch.equal(back["p"], base)
    assert back["conj"].tolist() == [1 - 2j]


def test_tied_weights_are_written_once(file: Path) -> None:
    tensor = random_tensor((200, 30), torch.float32, 0.1, 0)
    one = packed.pack({"a": tensor}, file)
    two = packed.pack({"a": tensor, "b": tensor, "c": tensor.view(-1)}, file)
    assert two < one + 100
    assert PackedFile(file).entries["c"].shape == (6000,)
    assert_same(packed.unpack(file)["b"], tensor)


def test_single_tensors_and_metadata_are_read_alone(file: Path) -> None:
    state = {"a": torch.ones(3), "b": torch.zeros(4, 4), "é\n": torch.tensor([True])}
    packed.pack(state, file, metadata={"structure": {"kept": [1, 2]}, "note": "ü"})
    opened = PackedFile(file)
    assert opened.metadata == {"structure": {"kept": [1, 2]}, "note": "ü"}
    assert list(opened.entries) == list(state)
    assert list(opened.dense(["é\n"])) == ["é\n"]
    with pytest.raises(UserError, match="has no tensor 'c': expected one of a, b"):
        opened.read(["c"])


def test_an_empty_state_is_a_file_too(file: Path) -> None:
    packed.pack({}, file)
    assert packed.unpack(file) == {}


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    state = {"a": random_tensor((50, 50), torch.float16, 0.1, 3)}
    packed.pack(state, tmp_path / "one")
    packed.pack({"a": state["a"].clone()}, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_random_positions_and_gaussian_values_come_close_to_their_entropy(file: Path) -> None:
    torch.manual_seed(0)
    entries, density = 4_000_000, 0.009
    keep = torch.rand(entries) < density
    weight = torch.where(keep, torch.randn(entries) * 0.05, 0.0).half()
    size = packed.pack({"w": weight}, file)
    kept = int(torch.count_nonzero(weight))
    p = kept / entries
    positions = -entries * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    # A float16 value of this Gaussian has 13.46 bits: log2(0.05 sqrt(2 pi e)) less the mean log2 of its step.
    assert size < 1.02 * (positions + kept * 13.46 / 8)
    assert size < kept * 18 / 6  # the original's 18 bytes a weight


# ---- the document ----


def documented_streams(stream: bytes, n: int) -> bytes:
    """A stream decoded one symbol at a time, as docs/packed-format.md says."""
    mode, body = stream[0], stream[1:]
    if mode == 0:
        assert len(body) == n
        return body
    if mode == 1:
        return body * n
    distinct = body[0] + 1
    table = [struct.unpack_from("<BH", body, 1 + 3 * k) for k in range(distinct)]
    slots = [(s, f, low) for s, f in table for low in range(f)]
    assert len(slots) == 4096
    rest = body[1 + 3 * distinct :]
    numbers = struct.unpack(f"<{len(rest) // 2}H", rest)
    lanes = -(-n // 1024)
    out, words = bytearray(), list(numbers[lanes:])
    for lane in range(lanes):
        mine, words = words[: numbers[lane]], words[numbers[lane] :]
        x, following = mine[0] * 65536 + mine[1], 2
        for _ in range(min(1024, n - 1024 * lane)):
            symbol, frequency, offset = slots[x % 4096]
            out.append(symbol)
            x = frequency * (x // 4096) + offset
            if x < 65536:
                x = x * 65536 + mine[following]
                following += 1
        assert x == 65536
        assert following == len(mine)
    assert not words
    return bytes(out)


def documented_tensors(data: bytes) -> Iterator[tuple[str, int, tuple[int, ...], list[bytes]]]:
    """Name, dtype code, shape and the bytes of all entries, read as docs/packed-format.md says."""
    at = 0

    def take(layout: str) -> tuple[int, ...]:
        nonlocal at
        at += struct.calcsize("<" + layout)
        return struct.unpack_from("<" + layout, data, at - struct.calcsize("<" + layout))

    assert data[:8] == b"\x89PLPACK\n"
    at = 8
    assert take("HH") == (1, 0)
    (table_size,), (payload,) = take("I"), take("Q")
    assert take("I") == (zlib.crc32(data[:24]),)
    assert len(data) == 28 + table_size + 4 + payload
    assert struct.unpack_from("<I", data, 28 + table_size) == (zlib.crc32(data[28 : 28 + table_size]),)
    (length,) = take("I")
    at += length  # metadata
    blocks, start = [], 28 + table_size + 4
    for _ in range(take("I")[0]):
        length, checksum = take("QI")
        blocks.append(data[start : start + length])
        assert zlib.crc32(blocks[-1]) == checksum
        start += length
    for _ in range(take("I")[0]):
        (length,) = take("H")
        name, at = data[at : at + length].decode(), at + length
        code, dims = take("BB")
        shape = take(f"{dims}Q")
        form, n, number = take("BQI")
        yield (
            name,
            code,
            shape,
            documented_entries(blocks[number], form, n, math.prod(shape), DTYPES[code].itemsize),
        )


def documented_entries(block: bytes, form: int, n: int, numel: int, size: int) -> list[bytes]:
    sections = []
    while block:
        (length,) = struct.unpack_from("<Q", block)
        sections.append(block[8 : 8 + length])
        block = block[8 + length :]
    planes = [documented_streams(section, n) for section in sections[-size:]]
    values = [bytes(plane[k] for plane in planes) for k in range(n)]
    if form == 0:
        return values
    low = "".join(format(byte, "08b")[::-1] for byte in sections[1])  # first bit first
    entries, position = [bytes(size)] * numel, -1
    for token, value in zip(documented_streams(sections[0], n), values, strict=True):
        gap = token
        if token >= 8:
            width = token // 8 - 1
            number, low = low[:width], low[width:]
            gap = (8 + token % 8) * 2**width + int(number[::-1] or "0", 2)
        position += gap + 1
        entries[position] = value
    assert len(low) < 8
    assert "1" not in low
    return entries


def test_a_reader_written_from_the_document_reads_what_pack_writes(file: Path) -> None:
    state = {
        "many": random_tensor((3000,), torch.float16, 0.6, 1),
        "gaussian": torch.randn(60, 50, generator=torch.Generator().manual_seed(0)),
        "few": random_tensor((90, 101), torch.bfloat16, 0.02, 2),
        "none": torch.zeros(5, 5, dtype=torch.int64),
        "all": torch.ones(1500, dtype=torch.float64),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
    }
    state["low"] = torch.where(torch.arange(9000) % 5 == 0, 1.0, 0.0).half()
    packed.pack(state, file, metadata={"a": 1})
    found = list(documented_tensors(file.read_bytes()))
    assert [name for name, *_ in found] == list(state)
    for name, code, shape, entries in found:
        assert DTYPES[code] == state[name].dtype
        assert shape == tuple(state[name].shape)
        assert b"".join(entries) == bits(state[name])


@pytest.mark.skipif(not DOCUMENT.exists(), reason="needs the repository's docs folder")
def test_the_documents_example_is_what_pack_writes(file: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", text, flags=re.MULTILINE)
    weight = torch.zeros(3, 40, dtype=torch.float16)
    weight[0, 2], weight[1, 0], weight[2, 39] = 1.5, -2, 0.1
    packed.pack({"w": weight, "bias": torch.tensor([1.0, -1.0])}, file, metadata={"made": "by hand"})
    assert bytes.fromhex(" ".join(lines)) == file.read_bytes()


@pytest.mark.skipif(not DOCUMENT.exists(), reason="needs the repository's docs folder")
def test_the_documents_dtype_codes_are_the_programs() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for code, dtype in enumerate(DTYPES):
        assert re.search(rf"\| {code} \| {str(dtype).removeprefix('torch.')}\b", text)


# ---- what cannot be packed ----


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": [1, 2]}, "entry 'x' holds a list"),
        ({3: torch.ones(1)}, "entry 3 holds a Tensor: expected a tensor under a text name"),
        ({"x": torch.ones(2, device="meta")}, "on the meta device"),
        ({"x": coo([[0]], [1.0], (2**34,))}, r"expected fewer than 2\*\*34 entries"),
        ({"x" * 70_000: torch.ones(1)}, "70000 bytes: expected at most 65535"),
        (
            {"x": torch.zeros(2, dtype=torch.float8_e4m3fnuz)},
            r"dtype torch\.float8_e4m3fnuz: expected one of",
        ),
    ],
)
def test_what_has_no_place_in_the_format_is_said(state: dict[str, Tensor], message: str, file: Path) -> None:
    with pytest.raises(UserError, match=message):
        packed.pack(state, file)
    assert not file.exists()


def test_metadata_must_be_plain_and_an_old_file_survives_a_failure(file: Path) -> None:
    packed.pack({"x": torch.ones(1)}, file)
    before = file.read_bytes()
    with pytest.raises(UserError, match="metadata cannot be written as JSON"):
        packed.pack({"x": torch.ones(2)}, file, metadata={"a": object()})
    assert file.read_bytes() == before
