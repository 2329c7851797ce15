"""Least squares for a kernel without pruned channels: minimise ||X W - Y||^2 / (2 N) + decay/2 ||W||^2.

Both ways read sums of products alone (`channel_prune.choosing.gram`): dropping channels is dropping rows and
columns.

# N rows, D = kernel positions x channels, O outputs
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from channel_prune.choosing.gram import Gram

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
JITTER = 1e-10
"""Added to the diagonal, relative to its mean, where the sums have no inverse; ten times more if need be."""


def adam(gram: Gram, w: Tensor, kept: list[int], *, rate: float, steps: int, decay: float) -> Tensor:
    """The original's steps of Adam, each over all rows; not run to convergence.

    Epsilon is added to the root of the second moment before its correction, as TensorFlow does. A step over
    rows costs 4 N D O operations, one over sums 2 D^2 O; results are equal but for rounding.

    Args:
        gram: sums over the rows.
        w: where it starts, (D, O).
        kept: channels whose patches count; rows of the others are zero at the end.
        rate: length of a step.
        steps: how many.
        decay: weight of ||W||^2 / 2.

    Returns:
        The kernel (D, O) in double precision.
    """
    columns = gram.columns(kept)  # of the others nothing is left at the end
    g, h = gram.g[columns][:, columns] / gram.rows, gram.h[columns] / gram.rows
    moving = w.double()[columns]
    first, second = torch.zeros_like(moving), torch.zeros_like(moving)
    for step in range(1, steps + 1):
        gradient = g @ moving - h + decay * moving
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient.square()
        length = rate * math.sqrt(1 - BETA2**step) / (1 - BETA1**step)
        moving = moving - length * first / (second.sqrt() + EPSILON)
    found = torch.zeros_like(w, dtype=torch.float64)
    found[columns] = moving
    return found


def ridge(gram: Gram, kept: list[int], *, decay: float) -> Tensor:
    """The exact minimiser (D, O) over kernels that read ``kept`` alone, by Cholesky's factors.

    Args:
        gram: sums over the rows.
        kept: channels that are read.
        decay: weight of ||W||^2 / 2.
    """
    columns = gram.columns(kept)
    system = gram.g[columns][:, columns] / gram.rows
    diagonal = system.diagonal()
    diagonal += decay
    factor, failed = torch.linalg.cholesky_ex(system)
    jitter = JITTER * diagonal.mean().clamp(min=JITTER)
    while failed:  # it ends: with as much as the diagonal's own sum no finite system fails
        diagonal += jitter
        jitter *= 10
        factor, failed = torch.linalg.cholesky_ex(system)
    found = gram.h.new_zeros(gram.h.shape)
    found[columns] = torch.cholesky_solve(gram.h[columns] / gram.rows, factor)
    return found
