"""Tensors to blocks of bytes and back: which entries are kept, how positions and values are written.

An entry counts as zero, and is left out of a sparse block, only if all its bits are 0: ``-0.0``, ``nan`` and
denormal numbers are values like any other, so that every tensor comes back bit for bit.

Positions are coded as gaps. A gap below 8 is its own token; a larger one is written as a token for its
leading four bits and their place, one byte in all, and the bits below as they are: for positions without
pattern this stays within 1.5 % of the entropy. Tokens and each byte of the values (one stream a byte of
the element, least significant first) go through `packed_rans` where that makes them shorter.

The byte layout is in docs/packed-format.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed_rans as rans
from prunelab.mask.packed_rans import Bytes, Corrupt, Job

# n entries kept, B bytes of an element

DTYPES: tuple[torch.dtype, ...] = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
"""A dtype's place here is its code in the file; new ones go to the end."""

RAW, CONSTANT, RANS = 0, 1, 2
_LARGEST_GAP = 1 << 34  # tokens are bytes
_SECTION = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseTensor:
    """A tensor as positions and values of the entries that are kept."""

    shape: tuple[int, ...]
    """Shape of the dense tensor."""
    indices: Tensor
    """(n,) int64, ascending places in the flattened tensor."""
    values: Tensor
    """(n,) in the tensor's dtype."""

    @property
    def numel(self) -> int:
        """Entries of the dense tensor."""
        return math.prod(self.shape)

    def dense(self) -> Tensor:
        """The whole tensor, +0.0 where nothing is kept."""
        flat = torch.zeros(self.numel, dtype=self.values.dtype)
        _bits(flat)[self.indices] = _bits(self.values)
        return flat.view(self.shape)

    def coo(self) -> Tensor:
        """A coalesced `torch.sparse_coo_tensor` of the same entries."""
        places = self.indices.new_zeros(0, self.indices.numel())  # (dimensions, n)
        if self.shape:
            places = torch.stack(torch.unravel_index(self.indices, self.shape))
        return torch.sparse_coo_tensor(
            places, self.values, self.shape, is_coalesced=True, check_invariants=False
        )


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(flat: Tensor) -> Tensor:
    """The memory of a flat tensor (n,) as integers: (n,), or (n, 2) for complex128.

    Moving bits and not numbers suits dtypes without arithmetic and leaves every bit as it is.
    """
    if flat.element_size() == 16:
        return torch.view_as_real(flat).view(torch.int64)
    return flat.view(_INTEGERS[flat.element_size()])


def _at(flat: Tensor, places: Tensor) -> Tensor:
    """Entries (n,) of a flat tensor, bit for bit."""
    taken = _bits(flat)[places]
    if flat.element_size() == 16:
        return torch.view_as_complex(taken.view(torch.float64))
    return taken.view(flat.dtype)


def to_sparse(name: str, tensor: Tensor) -> SparseTensor:
    """Find the entries to keep.

    Args:
        name: for errors.
        tensor: dense or sparse, any shape and dtype of `DTYPES`, on any device.

    Raises:
        UserError: a dtype or layout that the format does not have.
    """
    tensor = tensor.detach()
    if tensor.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise UserError(f"tensor {name!r} has dtype {tensor.dtype}: expected one of {known}")
    if tensor.device.type == "meta":
        raise UserError(f"tensor {name!r} is on the meta device: expected a tensor with values")
    if tensor.layout != torch.strided:
        return _from_sparse_layout(name, tensor)
    flat = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)  # (numel,)
    kept = _nonzero(flat)
    return SparseTensor(shape=tuple(tensor.shape), indices=kept, values=_at(flat, kept))


def _nonzero(flat: Tensor) -> Tensor:
    """Places whose bits are not all 0."""
    words = _bits(flat).numpy()
    return torch.from_numpy(np.flatnonzero(words.any(axis=1) if words.ndim == 2 else words))


def negative_zeros(tensor: SparseTensor) -> Tensor:
    """Which of the kept entries are ``-0.0``: (n,) bool."""
    if not tensor.values.dtype.is_floating_point:
        return torch.zeros(tensor.values.shape, dtype=torch.bool)
    values = tensor.values.float() if tensor.values.element_size() == 1 else tensor.values
    return values == 0  # +0.0 is not among them


def drop(tensor: SparseTensor, unwanted: Tensor) -> SparseTensor:
    """The same tensor without some of its entries, chosen by an (n,) bool."""
    kept = torch.nonzero(~unwanted).squeeze(1)
    return SparseTensor(
        shape=tensor.shape, indices=tensor.indices[kept], values=_at(tensor.values.contiguous(), kept)
    )


def same_bits(one: SparseTensor, other: SparseTensor) -> bool:
    """Whether two tensors agree in shape, dtype, places and every bit of their values."""
    return (
        one.shape == other.shape
        and one.values.dtype == other.values.dtype
        and torch.equal(one.indices, other.indices)
        and torch.equal(_bits(one.values.contiguous()), _bits(other.values.contiguous()))
    )


def _from_sparse_layout(name: str, tensor: Tensor) -> SparseTensor:
    if tensor.layout != torch.sparse_coo:
        if tensor.layout not in (torch.sparse_csr, torch.sparse_csc):
            raise UserError(f"tensor {name!r} has layout {tensor.layout}: expected strided, COO, CSR or CSC")
        tensor = tensor.to_sparse_coo()
    tensor = tensor.cpu()
    if tensor.dense_dim():
        return to_sparse(name, tensor.to_dense())
    shape = tuple(tensor.shape)
    if math.prod(shape) >= _LARGEST_GAP:
        raise UserError(f"tensor {name!r} has the shape {shape}: expected fewer than 2**34 entries")
    indices = tensor._indices()  # (dims, n), also where not coalesced
    if indices.numel() and not bool(((indices >= 0) & (indices < torch.tensor(shape).unsqueeze(1))).all()):
        raise UserError(f"tensor {name!r} has indices outside its shape {shape}")
    flat = torch.zeros(indices.shape[1], dtype=torch.int64)
    for axis, size in enumerate(shape):
        flat = flat * size + indices[axis]
    values = tensor._values()
    if flat.numel() > 1 and not bool((flat[1:] > flat[:-1]).all()):
        # Not coalesced: sort, and add up what stands twice at one place.
        if flat.unique().numel() < flat.numel():
            line = (math.prod(shape),)
            tensor = torch.sparse_coo_tensor(
                flat.unsqueeze(0), values, line, check_invariants=False
            ).coalesce()
            flat, values = tensor._indices()[0], tensor._values()
        else:
            flat, order = flat.sort()
            values = _at(values.contiguous(), order)
    values = values.contiguous()
    kept = _nonzero(values)
    return SparseTensor(shape=shape, indices=flat[kept], values=_at(values, kept))


# ---- streams: n bytes each ----


def _encode_stream(data: Bytes) -> bytes:
    counts = np.bincount(data, minlength=256)
    present = np.flatnonzero(counts)
    raw = bytes([RAW]) + data.tobytes()
    if present.size == 1:
        return bytes([CONSTANT, int(present[0])])
    if not data.size or _rans_estimate(counts) >= len(raw):
        return raw
    frequencies = rans.normalise(counts)
    word_counts, words = rans.encode(data, frequencies)
    table = b"".join(struct.pack("<BH", s, frequencies[s]) for s in present)
    head = bytes([RANS, present.size - 1]) + table
    coded = head + word_counts.astype("<u2").tobytes() + words.astype("<u2").tobytes()
    return min(coded, raw, key=len)


def _rans_estimate(counts: NDArray[np.int64]) -> float:
    """Bytes that coding would take at best, table and lanes included."""
    there, total = counts[counts > 0], counts.sum()
    return float(-(there * np.log2(there / total)).sum() / 8 + 3 * there.size + 4 * (total / rans.LANE))


def _parse_stream(data: memoryview, size: int) -> Bytes | Job:
    """Read a stream's head: its bytes where they stand plainly, else the job that decodes them.

    Every size is checked against the bytes that are there before anything is made of it, except for a
    constant stream, whose caller has checked ``size``.
    """
    if not len(data):
        raise Corrupt("a stream is empty")
    mode, body = data[0], data[1:]
    if mode == RAW:
        if len(body) != size:
            raise Corrupt(f"a raw stream has {len(body)} bytes: expected {size}")
        return np.frombuffer(body, np.uint8)
    if mode == CONSTANT:
        if len(body) != 1 or not size:
            raise Corrupt("a constant stream is not one byte long")
        return np.full(size, body[0], np.uint8)
    if mode != RANS:
        raise Corrupt(f"stream mode {mode} is unknown")
    return _parse_job(body, size)


def _parse_job(body: memoryview, size: int) -> Job:
    if len(body) < 1 or len(body) < 1 + 3 * (body[0] + 1):
        raise Corrupt("a frequency table is cut off")
    distinct = body[0] + 1
    table = np.frombuffer(body[1 : 1 + 3 * distinct], np.dtype([("symbol", "u1"), ("frequency", "<u2")]))
    symbols, given = table["symbol"].astype(np.int64), table["frequency"].astype(np.int64)
    if distinct < 2 or (np.diff(symbols) <= 0).any() or (given < 1).any():
        raise Corrupt("a frequency table is not in order")
    if given.sum() != 1 << rans.PRECISION:
        raise Corrupt("frequencies do not sum to 4096")
    frequencies = np.zeros(256, np.int64)
    frequencies[symbols] = given
    rest = body[1 + 3 * distinct :]
    lanes = -(-size // rans.LANE)
    if not size or len(rest) % 2 or len(rest) < 2 * lanes:
        raise Corrupt("the table of lanes is cut off")
    numbers = np.frombuffer(rest, "<u2")
    word_counts, words = numbers[:lanes].astype(np.int64), numbers[lanes:]
    if (word_counts < 2).any() or word_counts.sum() != words.size:
        raise Corrupt("lanes do not fill their stream")
    return Job(size, frequencies, word_counts, words)


# ---- gaps ----


def _tokens(gaps: NDArray[np.int64]) -> tuple[Bytes, bytes]:
    """Gaps (n,) to tokens (n,) and the packed bits below them."""
    large = gaps >= 8
    # float64 is exact here: gaps stay below 2**34.
    octave = np.where(large, np.frexp(gaps.astype(np.float64))[1] - 1, 3).astype(np.int64)
    width = np.where(large, octave - 3, 0)
    token = np.where(large, (octave - 2) * 8 + ((gaps >> width) & 7), gaps).astype(np.uint8)
    offset = np.cumsum(width) - width
    bits = np.zeros(int(width.sum()), np.uint8)
    for bit in range(int(width.max(initial=0))):
        has = width > bit
        bits[offset[has] + bit] = (gaps[has] >> bit) & 1
    return token, np.packbits(bits, bitorder="little").tobytes()


def _gaps(tokens: Bytes, packed: memoryview) -> NDArray[np.int64]:
    """The reverse of `_tokens`."""
    every = np.arange(256)
    widths = np.where(every < 8, 0, (every >> 3) - 1)
    leads = np.where(every < 8, every, (every & 7 | 8) << np.maximum(widths, 0))
    width = widths[tokens]
    end = np.cumsum(width)
    total = int(end[-1]) if end.size else 0
    if len(packed) != -(-total // 8):
        raise Corrupt(f"{len(packed)} bytes of low bits: expected {-(-total // 8)}")
    if not total:
        return leads[tokens]
    # A window of 40 bits begins at every byte, enough for 31 bits from any bit of its first byte.
    padded = np.concatenate([np.frombuffer(packed, np.uint8), np.zeros(4, np.uint8)]).astype(np.int64)
    windows = padded[:-4].copy()
    for place in range(1, 5):
        windows |= padded[place : padded.size - 4 + place] << (8 * place)
    offset = np.minimum(end - width, total - 1)
    low = (windows[offset >> 3] >> (offset & 7)) & ((np.int64(1) << width) - 1)
    return leads[tokens] + low


# ---- blocks ----


def _join(sections: list[bytes]) -> bytes:
    return b"".join(_SECTION.pack(len(section)) + section for section in sections)


def _split(block: memoryview, number: int) -> list[memoryview]:
    sections = []
    for _ in range(number):
        if len(block) < _SECTION.size:
            raise Corrupt("a block is cut off")
        (length,) = _SECTION.unpack(block[: _SECTION.size])
        block = block[_SECTION.size :]
        if length > len(block):
            raise Corrupt("a section is longer than its block")
        sections.append(block[:length])
        block = block[length:]
    if len(block):
        raise Corrupt("a block is longer than its sections")
    return sections


def _planes(values: Tensor) -> list[bytes]:
    """One stream for each byte of an element, least significant byte first."""
    size = values.element_size()
    plane = values.contiguous().view(torch.uint8).view(-1, size).numpy() if values.numel() else None
    return [
        _encode_stream(np.zeros(0, np.uint8) if plane is None else np.ascontiguousarray(plane[:, place]))
        for place in range(size)
    ]


def encode_sparse(tensor: SparseTensor) -> bytes:
    """The block of a sparse tensor: gap tokens, low bits, value planes."""
    indices = tensor.indices.numpy()
    gaps = np.diff(indices, prepend=-1) - 1
    tokens, low_bits = _tokens(gaps)
    return _join([_encode_stream(tokens), low_bits, *_planes(tensor.values)])


def encode_dense(flat: Tensor) -> bytes:
    """The block of all entries (numel,): value planes."""
    return _join(_planes(flat))


def sparse_fits(tensor: SparseTensor) -> bool:
    """Whether a tensor can and should be written by positions.

    It should where nine tenths of its entries or less are kept, and can where no gap is too large for a
    token.
    """
    return 10 * tensor.indices.numel() <= 9 * tensor.numel and tensor.numel < _LARGEST_GAP


@dataclass(frozen=True)
class Pending:
    """A parsed block whose coded streams still have to be decoded."""

    jobs: list[Job]
    finish: Callable[[list[Bytes]], SparseTensor | Tensor]
    """Takes the decoded streams of the jobs, in order."""


def parse_block(
    block: memoryview, shape: tuple[int, ...], numel: int, dtype: torch.dtype, kept: int | None
) -> Pending:
    """Take a block apart.

    Args:
        block: its bytes.
        shape: of the tensor, with ``numel`` entries.
        numel: the product of the shape.
        dtype: of the tensor.
        kept: number of entries of a sparse block, or None for a dense one.

    Returns:
        The jobs to decode (together with those of other blocks) and what makes a tensor of them.

    Raises:
        Corrupt: anything that an encoder does not write.
    """
    size = dtype.itemsize
    number = numel if kept is None else kept
    sections = _split(block, size + (0 if kept is None else 2))
    low_bits = memoryview(b"")
    streams = sections
    if kept is not None:
        low_bits = sections[1]
        streams = [sections[0], *sections[2:]]
    parsed = [_parse_stream(stream, number) for stream in streams]
    jobs = [part for part in parsed if isinstance(part, Job)]

    def finish(decoded: list[Bytes]) -> SparseTensor | Tensor:
        rest = iter(decoded)
        plain = [next(rest) if isinstance(part, Job) else part for part in parsed]
        values = _values(plain[-size:], dtype)
        if kept is None:
            return values.view(shape)
        steps = _gaps(plain[0], low_bits) + 1
        # A sum of floats cannot wrap round, so that it shows whether the sum of integers did.
        if kept and not 0 < float(steps.sum(dtype=np.float64)) <= numel + 0.5:
            raise Corrupt("positions lie outside the tensor")
        return SparseTensor(shape=shape, indices=torch.from_numpy(np.cumsum(steps) - 1), values=values)

    return Pending(jobs, finish)


def _values(planes: list[Bytes], dtype: torch.dtype) -> Tensor:
    """Byte planes (B x (n,)) to values (n,)."""
    if dtype == torch.bool and planes[0].size and int(planes[0].max()) > 1:
        raise Corrupt("a bool is neither 0 nor 1")
    if not planes[0].size:
        return torch.zeros(0, dtype=dtype)
    together = np.stack(planes, axis=1)  # (n, B)
    return torch.from_numpy(together).view(-1).view(dtype)
