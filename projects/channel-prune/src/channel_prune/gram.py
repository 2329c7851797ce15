"""What LASSO and least squares need of N rows: sums of products, in double precision; no row is kept.

With X the patches (N, D), D = K C, and Y the outputs (N, O)::

    G = X'X    H = X'Y    and the sums of X, of Y and of Y's squares

# N rows, K kernel positions, C input channels, D = K C with channels innermost, O outputs
"""

from __future__ import annotations

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


def square(x: Tensor) -> Tensor:
    """X'X of (N, D) double: NumPy computes one triangle only, where torch computes both."""
    if x.device.type == "cpu":
        rows = x.numpy()
        return torch.from_numpy(rows.T @ rows)
    return x.T @ x


def add_up(part: Tensor) -> None:
    """Replace a tensor by its sum over all processes; collective."""
    if dist.world_size() == 1:
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
    """

    kernel: int
    channels: int
    outputs: int

    def __post_init__(self) -> None:
        size = self.kernel * self.channels
        self.rows = 0
        self.g = torch.zeros(size, size, dtype=torch.float64)
        self.h = torch.zeros(size, self.outputs, dtype=torch.float64)
        self.sum_x = torch.zeros(size, dtype=torch.float64)
        self.sum_y = torch.zeros(self.outputs, dtype=torch.float64)
        self.squares_y = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in rows.

        Args:
            x: (n, D) or (n, K, C).
            y: (n, O).
        """
        x = x.reshape(len(x), -1).double()
        y = y.double()
        self.rows += len(x)
        self.g += square(x).cpu()
        self.h += (x.T @ y).cpu()
        self.sum_x += x.sum(0).cpu()
        self.sum_y += y.sum(0).cpu()
        self.squares_y += y.square().sum().cpu()

    def reduce(self) -> None:
        """Add up what all processes have; collective."""
        rows = torch.tensor(self.rows, dtype=torch.float64)
        for part in (rows, self.g, self.h, self.sum_x, self.sum_y, self.squares_y):
            add_up(part)
        self.rows = int(rows)

    def columns(self, kept: list[int]) -> Tensor:
        """Places in D of these channels."""
        offsets = torch.arange(self.kernel)[:, None] * self.channels
        return (offsets + torch.tensor(kept, dtype=torch.long)).flatten()

    def centred(self) -> Gram:
        """The same sums with the means of X and of Y taken off: least squares with a free constant."""
        found = Gram(self.kernel, self.channels, self.outputs)
        found.rows = self.rows
        found.g = self.g - torch.outer(self.sum_x, self.sum_x) / self.rows
        found.h = self.h - torch.outer(self.sum_x, self.sum_y) / self.rows
        found.squares_y = self.squares_y - self.sum_y.square().sum() / self.rows
        return found

    def loss(self, w: Tensor) -> float:
        """||X W - Y||^2 / (2 N) for a kernel (D, O)."""
        total = self.squares_y - 2 * (w * self.h).sum() + (w * (self.g @ w)).sum()
        return max(0.0, float(total) / (2 * self.rows))

    def problem(self, w: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """A = Z'Z (C, C) and b = Z'y (C,) of the selection, where z_i is what channel i alone puts out.

        A_ij is the sum over kernel positions and outputs of W_i G_ij W_j', so it needs no row.
        """
        products = (w @ w.T * self.g).view(self.kernel, self.channels, self.kernel, self.channels)
        linear = (w * self.h).sum(1).view(self.kernel, self.channels)
        return products.sum((0, 2)).numpy(), linear.sum(0).numpy()
