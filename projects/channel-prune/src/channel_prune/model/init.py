"""First values of weights as TensorFlow draws them."""

from __future__ import annotations

import math

from torch import Tensor, nn

CUT = 0.87962566103423978
"""Deviation of a normal distribution of deviation 1 whose values beyond 2 are drawn again."""


def truncated_normal_(weight: Tensor, deviation: float) -> None:
    """Normal values; those beyond two deviations are drawn again."""
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def fan_in_(weight: Tensor) -> None:
    """Truncated normal values whose variance is one over the inputs of an output."""
    truncated_normal_(weight, math.sqrt(1 / weight[0].numel()) / CUT)


def glorot_(layer: nn.Linear | nn.Conv2d) -> None:
    """Uniform values by inputs and outputs; the bias is zero."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
