"""Rows of the packed sparse file: its size and reading time, beside the original system's sparse file.

The original saves each pruned weight as a COO tensor: two int64 indices and a float16 value, 18 bytes a
weight.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from prunelab.bench.compare import Figure, Result, Row, compare
from prunelab.mask import packed
from prunelab.mask.packed_codec import SparseTensor, same_bits, to_sparse

SPARSITY = 0.991
MOST_BYTES = 1_550_000


def _shapes() -> dict[str, tuple[int, ...]]:
    """An Up-Down captioner of 53.5 million weights."""
    words, hidden, regions, attention = 10_175, 1000, 2048, 512
    matrices = {
        "embed.0": (words, hidden),
        "fc_embed.0": (hidden, regions),
        "att_embed.0": (hidden, regions),
        "logit": (words, hidden),
        "ctx2att": (attention, hidden),
        "core.attention.h2att": (attention, hidden),
        "core.attention.alpha_net": (1, attention),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in matrices.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if name != "embed.0":
            shapes[f"{name}.bias"] = (rows,)
    for name, inputs in (("core.att_lstm", 3 * hidden), ("core.lang_lstm", 2 * hidden)):
        shapes[f"{name}.weight_ih"] = (4 * hidden, inputs)
        shapes[f"{name}.weight_hh"] = (4 * hidden, hidden)
        shapes[f"{name}.bias_ih"] = shapes[f"{name}.bias_hh"] = (4 * hidden,)
    return shapes


@cache
def _state(tails: bool) -> dict[str, Tensor]:
    """Float16 weights of which 0.9 % are kept at random places: all of a Gaussian, or only its tails."""
    generator = torch.Generator().manual_seed(8888)
    state = {}
    for name, shape in _shapes().items():
        weight = torch.randn(shape, generator=generator) * 0.05
        if weight.dim() > 1:
            if tails:  # survivors of pruning by size: no values near 0
                weight = weight + 0.1 * weight.sign()
            weight *= torch.rand(shape, generator=generator) > SPARSITY
        state[name] = weight.half() + 0.0  # no -0.0, as in a sparse file
    return state


@contextmanager
def _files(tails: bool) -> Iterator[tuple[Path, Path]]:
    """The packed file and the original's way of one state, in a folder that goes away."""
    state = _state(tails)
    with tempfile.TemporaryDirectory() as folder:
        ours, reference = Path(folder) / "model.plp", Path(folder) / "model.pth"
        packed.pack(state, ours)
        torch.save({name: t.to_sparse() if t.dim() > 1 else t for name, t in state.items()}, reference)
        yield ours, reference


def _load(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it checks sparse tensors
        return torch.load(path, weights_only=True)


def _equal(ours: dict[str, Tensor | SparseTensor], reference: dict[str, Tensor]) -> bool:
    def sparse(name: str, tensor: Tensor | SparseTensor) -> SparseTensor:
        return tensor if isinstance(tensor, SparseTensor) else to_sparse(name, tensor)

    return ours.keys() == reference.keys() and all(
        same_bits(sparse(name, ours[name]), sparse(name, tensor)) for name, tensor in reference.items()
    )


def _note(tails: bool) -> str:
    state = _state(tails)
    weights = [t for t in state.values() if t.dim() > 1]
    entries = sum(t.numel() for t in weights)
    kept = sum(int(torch.count_nonzero(t)) for t in weights)
    p = kept / entries
    floor = -entries * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    shape = "tails of a Gaussian" if tails else "Gaussian"
    return (
        f"{sum(t.numel() for t in state.values()) / 1e6:.1f} M fp16, {kept:,} of the matrices' weights kept, "
        f"{shape}; entropy of the positions alone {floor / 1e6:.2f} MB"
    )


def _size(tails: bool) -> Figure:
    with _files(tails) as (ours, reference):
        return Figure(
            name=f"packed size, {'tails' if tails else 'gaussian'}",
            ours=ours.stat().st_size,
            reference=reference.stat().st_size,
            at_most=MOST_BYTES,
            note=_note(tails),
        )


def sizes() -> list[Result]:
    """Bytes of the file, for two distributions of the values."""
    return [_size(tails=False), _size(tails=True)]


def read_sparse() -> Row:
    """From file to positions and values."""
    with _files(tails=False) as (ours, reference):
        return compare(
            "packed to sparse",
            lambda: packed.read_sparse(ours),
            lambda: _load(reference),
            _equal,
            goal_seconds=0.15,
            note=_note(tails=False) + "; reference: torch.load of COO tensors",
        )


def read_dense() -> Row:
    """From file to dense tensors."""
    with _files(tails=False) as (ours, reference):
        return compare(
            "packed to dense",
            lambda: packed.unpack(ours),
            lambda: {name: t.to_dense() for name, t in _load(reference).items()},
            _equal,
            goal_seconds=0.5,
            note=_note(tails=False) + "; reference: torch.load of COO tensors, to_dense",
        )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "packed-size": sizes,
    "packed-sparse": read_sparse,
    "packed-dense": read_dense,
}
