"""What becomes part of its neighbour: masks and batch norms, in double precision, and padding before a pool.

# O outputs, I inputs, G groups of a layer, C channels of a tensor, K channels of the basis it is made of
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunelab.surgery.channels import MAKING
from prunelab.surgery.constants import scale_and_shift
from prunelab.surgery.graph import Graph, Node, unknown

FOLDED = ("scale", "norm")
"""Kinds that go into the layer before them."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """How the channels of an original tensor are made of those of a smaller one."""

    width: int
    """K."""
    place: Tensor
    """The basis channel of each original one (C,), -1 for constants and for what nothing reads."""
    scale: Tensor
    """Its factor (C,), float64."""
    constant: Tensor
    """The number that a constant channel is (C,), float64; 0 for others."""

    @property
    def live(self) -> Tensor:
        """Which channels are there (C,)."""
        return self.place >= 0

    def gives(self, live: Tensor) -> bool:
        """Whether it has just these channels, in order."""
        places = torch.where(live, live.cumsum(0) - 1, -1)
        return torch.equal(self.place, places) and bool((self.scale[self.live] == 1).all())


def chains(graph: Graph) -> dict[str, list[Node]]:
    """For each layer that makes channels: itself and the masks and batch norms that can be folded into it."""
    users = graph.users()
    found: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.kind not in MAKING:
            continue
        chain = [node]
        while len(users[chain[-1].name]) == 1 and chain[-1].name not in graph.outputs:
            after = users[chain[-1].name][0]
            if after.kind not in FOLDED:
                break
            chain.append(after)
        found[node.name] = chain
    return found


def pooled_pads(graph: Graph) -> set[str]:
    """Padding with minus infinity that only max pooling reads, which can do it by itself."""
    users, found = graph.users(), set()
    for node in graph.nodes.values():
        infinite = (
            node.kind == "pad" and node.options["value"] == -math.inf and not any(node.options["channels"])
        )
        if infinite and node.name not in graph.outputs and all(_pools(user) for user in users[node.name]):
            found.add(node.name)
    return found


def _pools(node: Node) -> bool:
    options = node.options
    plain = node.kind == "max_pool" and not options["ceil_mode"]
    return plain and pair(options["padding"]) == [0, 0] and pair(options["dilation"]) == [1, 1]


def pair(value: Any) -> list[int]:
    """Rows and columns of an option, which may be one number for both."""
    return list(value) if isinstance(value, list | tuple) else [value, value]


def padding_of(graph: Graph, node: Node) -> list[int]:
    """Rows and columns of zeros that a convolution puts around its input."""
    options = node.options
    if options["padding_mode"] != "zeros":
        raise unknown(graph, node, f"its padding_mode is {options['padding_mode']!r}, expected 'zeros'")
    if options["padding"] == "valid":
        return [0, 0]
    if options["padding"] == "same":
        kernel = graph.module(node).kernel_size
        reach = [d * (k - 1) for d, k in zip(pair(options["dilation"]), kernel, strict=True)]
        if any(each % 2 for each in reach):
            raise unknown(graph, node, "its padding is 'same' with a kernel that has no middle")
        return [each // 2 for each in reach]
    return pair(options["padding"])


def folded(graph: Graph, chain: Sequence[Node]) -> tuple[Tensor, Tensor]:
    """Weight (O, I / G, h, w) or (O, I) and bias (O,) of a layer with what follows it, float64."""
    module = graph.module(chain[0])
    weight = module.weight.detach().double().cpu()
    if chain[0].kind == "deconv":
        weight = transposed(weight, module.groups)
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if module.bias is not None:
        bias = module.bias.detach().double().cpu()
    for node in chain[1:]:
        scale, shift = scale_and_shift(graph, node)
        weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        bias = bias * scale + shift
    return weight, bias


def transposed(weight: Tensor, groups: int) -> Tensor:
    """(I, O / G, h, w) to (O, I / G, h, w), or back."""
    grouped = weight.view(groups, -1, *weight.shape[1:])  # (G, I / G, O / G, h, w)
    return grouped.transpose(1, 2).flatten(0, 1)


def split(weight: Tensor, read: Basis, groups: int) -> tuple[Tensor, Tensor]:
    """Weights over the basis, and the kernel of the constants (O, 1, ...).

    Args:
        weight: (O, I / G, ...).
        read: The basis of the input.
        groups: G; with more than one, the basis has equal places of all groups, or all that are computed.
    """
    if groups == 1:
        live = read.live
        kept = weight[:, live] * read.scale[live].view(1, -1, *(1,) * (weight.dim() - 2))
        over = weight.new_zeros(weight.shape[0], read.width, *weight.shape[2:])
        over = over.index_add(1, read.place[live], kept)
        constant = read.constant.view(1, -1, *(1,) * (weight.dim() - 2))
        return over, (weight * constant).sum(1, keepdim=True)
    width = weight.shape[1]
    rows = weight.shape[0] // groups
    constant = read.constant.view(groups, width).repeat_interleave(rows, 0)  # (O, I / G)
    border = (weight * constant.view(*constant.shape, 1, 1)).sum(1, keepdim=True)
    live = read.live.view(groups, width)
    return weight if width == 1 else weight[:, live[0]], border
