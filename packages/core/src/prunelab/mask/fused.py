"""Masks of large weights on processors: the kernels of `prunelab.mask.kernels` behind tensors.

What they do is defined by `prunelab.mask.supermask`, whose operations of torch stay in use on other devices,
for other dtypes, for small weights (which are not worth the call), within a compiler or an export, and where
numba is missing. Every draw takes its key from torch's default generator, so that seeds and saved generator
states mean the same as ever; which elements are kept does not depend on the number of threads.
"""

# N elements of a weight

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.util import in_parts

LEAST = 2**14
"""Elements of a weight from which on the kernels are used."""
_LARGE = 2**18
"""Elements of a tensor from which on its memory is kept for the next one."""
_SHARE = 128
"""Fewer blocks than this are not worth another thread."""


@cache
def _available() -> bool:
    return find_spec("numba") is not None


def usable(*tensors: Tensor) -> bool:
    """Whether these tensors, of equal shape, are ones that the kernels handle."""
    return (
        tensors[0].numel() >= LEAST
        and all(
            type(x) in (Tensor, nn.Parameter)
            and x.dtype in (torch.float32, torch.bool)
            and x.device.type == "cpu"
            and x.layout == torch.strided
            for x in tensors
        )
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch.onnx.is_in_onnx_export()
        and _available()
    )


class _Memory:
    """Large pieces of memory that are used again, so that the system need not give out new pages every step.

    A training step needs the same pieces as the one before, and fresh pages cost more than what is computed
    in them. A piece comes back when the last tensor on it is gone.
    """

    def __init__(self, limit: int = 2**31) -> None:
        self.limit = limit
        self.idle: dict[int, list[Any]] = {}
        self.bytes = 0

    def tensor(self, shape: torch.Size, dtype: type) -> Tensor:
        """A tensor with unknown content."""
        size = shape.numel() * np.dtype(dtype).itemsize
        try:
            base = self.idle.get(size, []).pop()
            self.bytes -= size
        except IndexError:
            base = np.empty(size, np.uint8)
        # This very array is what the tensor holds on to; an array between would be gone at once.
        piece = base.view(dtype).reshape(tuple(shape))
        weakref.finalize(piece, self._back, base).atexit = False
        return torch.from_numpy(piece)

    def _back(self, base: Any) -> None:
        if self.bytes + base.nbytes > self.limit:
            self.idle.clear()
            self.bytes = 0
        self.idle.setdefault(base.nbytes, []).append(base)
        self.bytes += base.nbytes


_memory = _Memory()


def fresh(shape: torch.Size, dtype: type = np.float32) -> Tensor:
    """An uninitialised tensor, a large one from memory that was used before."""
    if shape.numel() < _LARGE:
        return torch.from_numpy(np.empty(tuple(shape), dtype))
    return _memory.tensor(shape, dtype)


def flat(x: Tensor) -> Any:
    """A tensor's elements in order as an array (N,), shared if they lie so."""
    return x.detach().contiguous().view(-1).numpy()


def new_key() -> np.uint64:
    """The key of the next draw, from torch's default generator."""
    return np.uint64(int(torch.empty((), dtype=torch.int64).random_()))


def _in_blocks(work: Callable[[int, int], object], elements: int) -> None:
    """Call ``work(low, high)`` on shares that begin at blocks, on as many threads as torch has."""
    from prunelab.mask.kernels import BLOCK

    def share(low: int, high: int) -> None:
        work(low * BLOCK, min(high * BLOCK, elements))

    in_parts(share, -(-elements // BLOCK), torch.get_num_threads(), least=_SHARE)


def draw(logits: Tensor) -> Tensor:
    """`prunelab.mask.sample_mask`: bool of the shape of ``logits``."""
    from prunelab.mask import kernels

    keep, key = fresh(logits.shape, np.bool_), new_key()
    m, b = flat(logits), flat(keep)
    _in_blocks(lambda low, high: kernels.draw(m[low:high], key, low, b[low:high]), len(m))
    return keep


def product(weight: Tensor, keep: Tensor) -> Tensor:
    """``weight * keep``, without gradients."""
    from prunelab.mask import kernels

    out = fresh(weight.shape)
    w, b, e = flat(weight), flat(keep), flat(out)
    _in_blocks(lambda low, high: kernels.product(w[low:high], b[low:high], e[low:high]), len(w))
    return out


def product_gradients(grad: Tensor, weight: Tensor, logits: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``weight * keep`` for the weight and for the logits, in one pass."""
    from prunelab.mask import kernels

    outs = fresh(weight.shape), fresh(weight.shape)
    arrays = [flat(x) for x in (grad, weight, logits, keep, *outs)]
    _in_blocks(lambda low, high: kernels.product_gradients(*(x[low:high] for x in arrays)), len(arrays[0]))
    return outs


def slopes(each: float, logits: Tensor) -> Tensor:
    """``each * s * (1 - s)`` for s = sigmoid(logits)."""
    from prunelab.mask import kernels

    out, factor = fresh(logits.shape), np.float32(each)
    m, d = flat(logits), flat(out)
    _in_blocks(lambda low, high: kernels.slopes(factor, m[low:high], d[low:high]), len(m))
    return out


# --- tiles: rows of a contiguous matrix, from row ``low`` on; results go to memory that is given ---


def limits(logits: Tensor) -> Tensor:
    """How many of 2**32 numbers prune each element, as the bits of int32, for `draw_product`."""
    from prunelab.mask import kernels

    out = fresh(logits.shape, np.int32)
    m, q = flat(logits), flat(out).view(np.uint32)
    _in_blocks(lambda low, high: kernels.limits(m[low:high], q[low:high]), len(m))
    return out


def draw_product(weight: Tensor, limit: Tensor, key: np.uint64, row: int, out: Tensor) -> None:
    """Fill ``out`` with the weight times a draw of its mask."""
    from prunelab.mask import kernels

    w, q, e, first = flat(weight), flat(limit).view(np.uint32), flat(out), row * weight.shape[1]
    _in_blocks(
        lambda low, high: kernels.draw_product(w[low:high], q[low:high], key, first + low, e[low:high]),
        len(w),
    )


def draw_gradient(grad: Tensor, limit: Tensor, key: np.uint64, row: int, kept: Tensor, total: Tensor) -> None:
    """Add ``grad`` to ``total``, and to ``kept`` where the draw of `draw_product` keeps the weight."""
    from prunelab.mask import kernels

    g, q, k, t = flat(grad), flat(limit).view(np.uint32), flat(kept), flat(total)
    first = row * grad.shape[1]

    def work(low: int, high: int) -> None:
        kernels.draw_gradient(g[low:high], q[low:high], key, first + low, k[low:high], t[low:high])

    _in_blocks(work, len(g))


def times_slope(factor: Tensor, logits: Tensor, out: Tensor) -> None:
    """Multiply ``out`` in place by ``factor * s * (1 - s)`` for s = sigmoid(logits)."""
    from prunelab.mask import kernels

    f, m, o = flat(factor), flat(logits), flat(out)
    _in_blocks(lambda low, high: kernels.times_slope(f[low:high], m[low:high], o[low:high]), len(m))
