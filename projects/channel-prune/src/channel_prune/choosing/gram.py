"""What LASSO and least squares need of N rows: sums of products, in double precision; no row is kept.

With X the patches (N, D), D = K C, and Y the outputs (N, O)::

    G = X'X    H = X'Y    Y'Y    and the sums of X and of Y

# N rows, K kernel positions, C input channels, D = K C with channels innermost, O outputs
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from prunelab import dist


def kernel_rows(weight: Tensor) -> Tensor:
    """A convolution's weight (O, C, h, w) as (D, O), in double precision."""
    return weight.detach().double().permute(2, 3, 1, 0).reshape(-1, weight.shape[0])  # (h, w, C, O) to (D, O)


def kernel_weight(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse: (D, O) to (O, C, h, w), with the type and the place of ``like``."""
    outs, channels, height, width = like.shape
    weight = rows.reshape(height, width, channels, outs).permute(3, 2, 0, 1)
    return weight.to(like.device, like.dtype).contiguous()


STRIPS, NARROW = 5, 64
"""Most strips of a triangle, and the least width of one: more would save less than it costs."""


def square(x: Tensor) -> Tensor:
    """X'X of (N, D), of which one triangle is computed, a strip at a time, and the other one copied."""
    size = x.shape[1]
    strip = max(-(-size // STRIPS), NARROW)
    found = x.new_empty(size, size)
    for begin in range(0, size, strip):
        end = begin + strip
        found[begin:end, begin:] = x[:, begin:end].T @ x[:, begin:]
        found[end:, begin:end] = found[begin:end, end:].T
    return found


_on_one: ContextVar[bool] = ContextVar("on_one", default=False)


@contextmanager
def on_one() -> Iterator[None]:
    """What one process does for all, while the others wait: inside, sums are over its own pictures."""
    token = _on_one.set(True)
    try:
        yield
    finally:
        _on_one.reset(token)


def processes() -> int:
    """Over how many processes sums are taken."""
    return 1 if _on_one.get() else dist.world_size()


def add_up(part: Tensor) -> None:
    """Replace a tensor by its sum over all processes; collective, but for `on_one`."""
    if processes() == 1:
        return
    place = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = part.to(place)
    distributed.all_reduce(total)
    part.copy_(total)


@dataclass(eq=False)
class Gram:
    """The sums.

    Args:
        kernel: K.
        channels: C.
        outputs: O.
        double: products of single precision are made in double precision too, at twice the price. Without,
            rounding reaches what single precision keeps of a sum, some 1e-7 of it; the sums over mini-batches
            are in double precision in any case.
    """

    kernel: int
    channels: int
    outputs: int
    double: bool = True

    def __post_init__(self) -> None:
        size = self.kernel * self.channels + self.outputs + 1
        self._all = torch.zeros(size, size, dtype=torch.float64)  # of the columns X, Y and 1

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows.

        Args:
            x: (n, D) or (n, K, C).
            y: (n, O).
        """
        columns = torch.cat([x.reshape(len(x), -1), y, y.new_ones(len(y), 1)], 1)
        self._all += square(columns.double() if self.double else columns).cpu()

    def merge(self, other: Gram) -> None:
        """Take in the rows that another one holds."""
        self._all += other._all

    def reduce(self) -> None:
        """Add up what all processes have; collective."""
        add_up(self._all)

    @property
    def rows(self) -> int:
        """N."""
        return int(self._all[-1, -1])

    @property
    def finite(self) -> bool:
        """No sum is infinite or not a number."""
        return bool(torch.isfinite(self._all).all())

    @property
    def g(self) -> Tensor:
        """X'X (D, D)."""
        return self._all[: self._size, : self._size]

    @property
    def h(self) -> Tensor:
        """X'Y (D, O)."""
        return self._all[: self._size, self._size : -1]

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """The means of X (D,) and of Y (O,)."""
        sums = self._all[-1, :-1] / self._all[-1, -1]
        return sums[: self._size], sums[self._size :]

    @property
    def _size(self) -> int:
        return self.kernel * self.channels

    def columns(self, kept: list[int]) -> Tensor:
        """Places in D of these channels."""
        offsets = torch.arange(self.kernel)[:, None] * self.channels
        return (offsets + torch.tensor(kept, dtype=torch.long)).flatten()

    def centred(self) -> Gram:
        """The same sums with the means of X and of Y taken off: least squares with a free constant."""
        found = Gram(self.kernel, self.channels, self.outputs)
        sums = self._all[-1].clone()
        found._all = self._all - torch.outer(sums, sums) / sums[-1]
        found._all[-1, -1] = sums[-1]
        return found

    def loss(self, w: Tensor, kept: list[int] | None = None) -> float:
        """||X W - Y||^2 / (2 N) for a kernel (D, O), of which rows of channels that are not kept are zero."""
        squares = self._all.diagonal()[self._size : -1].sum()
        places = slice(None) if kept is None else self.columns(kept)
        w, h, g = w[places], self.h[places], self.g[places][:, places]
        total = squares - 2 * (w * h).sum() + (w * (g @ w)).sum()
        return max(0.0, float(total) / (2 * self.rows))

    def problem(self, w: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """A = Z'Z (C, C) and b = Z'y (C,) of the selection, where z_i is what channel i alone puts out.

        A_ij is the sum over kernel positions and outputs of W_i G_ij W_j', so it needs no row.
        """
        products = (w @ w.T * self.g).view(self.kernel, self.channels, self.kernel, self.channels)
        linear = (w * self.h).sum(1).view(self.kernel, self.channels)
        return products.sum((0, 2)).numpy(), linear.sum(0).numpy()
