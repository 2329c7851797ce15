"""Convolutions that compute only the channels that stay.

# B images, C channels out, K of them kept, I channels in, H x W pixels, G groups
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Conv = nn.Conv2d | nn.ConvTranspose2d


class ChannelSparseConv(nn.Module):
    """Computes K channels and puts them into a tensor of the original width, zero elsewhere.

    ``conv`` is changed: its weight and bias become new parameters with the kept channels alone. So the state
    dict's keys are ``conv.weight`` [K, I / G, h, w] (transposed: [I, K, h, w]) and ``conv.bias`` [K].

    Args:
        indices: The kept channels, ascending, without doubles (K,), K >= 1.
        conv: A 2-D convolution, plain or transposed; a transposed one has one group.

    Raises:
        ValueError: the indices do not fit, or a transposed convolution with groups.
    """

    indices: Tensor

    def __init__(self, indices: Tensor, conv: Conv) -> None:
        super().__init__()
        indices = indices.detach().to(conv.weight.device, torch.long)
        width = conv.out_channels
        _check(indices, width)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        if self.transposed and conv.groups > 1:
            raise ValueError(
                f"a transposed convolution with {conv.groups} groups cannot keep single channels"
            )
        self.width = width
        self._runs = _groups_to_run(indices.tolist(), conv)
        axis = 1 if self.transposed else 0
        with torch.no_grad():
            conv.weight = nn.Parameter(conv.weight.index_select(axis, indices), conv.weight.requires_grad)
            if conv.bias is not None:
                conv.bias = nn.Parameter(conv.bias[indices].clone(), conv.bias.requires_grad)
        conv.out_channels = len(indices)
        self.conv = conv
        self.register_buffer("indices", indices, persistent=False)

    @classmethod
    def from_mask(cls, conv: Conv, mask: Tensor) -> ChannelSparseConv:
        """Keep the channels whose mask (C,) is 1."""
        return cls((mask == 1).nonzero().flatten(), conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, C, H', W')."""
        y = self._kept(x)  # (B, K, H', W')
        shape = list(y.shape)
        shape[-3] = self.width
        return y.new_zeros(shape).index_copy(y.dim() - 3, self.indices, y)

    def _kept(self, x: Tensor) -> Tensor:
        """The kept channels."""
        conv = self.conv
        if self.transposed or conv.groups == 1:
            return conv(x)
        inputs = conv.in_channels // conv.groups
        parts = []
        for groups, rows in self._runs:  # one call for neighbours that keep equally many
            columns = [group * inputs + place for group in groups for place in range(inputs)]
            bias = None if conv.bias is None else conv.bias[rows]
            part = x if len(columns) == conv.in_channels else x[..., columns, :, :]
            parts.append(
                F.conv2d(part, conv.weight[rows], bias, conv.stride, conv.padding, conv.dilation, len(groups))
            )
        return torch.cat(parts, dim=-3)

    def extra_repr(self) -> str:
        """How many channels of how many."""
        return f"{len(self.indices)} of {self.width} channels"


def _check(indices: Tensor, width: int) -> None:
    found = indices.tolist()
    if indices.dim() != 1 or not found:
        raise ValueError(
            f"indices has shape {tuple(indices.shape)}, expected one axis with 1 to {width} of them"
        )
    if found != sorted(set(found)) or found[0] < 0 or found[-1] >= width:
        raise ValueError(
            f"indices must be ascending, without doubles, from 0 to {width - 1}, not {found[:8]}"
        )


def _groups_to_run(kept: list[int], conv: Conv) -> list[tuple[list[int], slice]]:
    """Runs of groups that keep equally many channels: their numbers, and their rows of the kept weight."""
    size = conv.out_channels // conv.groups
    counts = [0] * conv.groups
    for channel in kept:
        counts[channel // size] += 1
    runs: list[tuple[list[int], slice]] = []
    start, last = 0, 0
    for number, count in enumerate(counts):
        if not count:
            continue
        if runs and last == count:
            runs[-1] = ([*runs[-1][0], number], slice(runs[-1][1].start, start + count))
        else:
            runs.append(([number], slice(start, start + count)))
        start, last = start + count, count
    return runs
