"""A network as a graph of what makes channels, what passes them on, and what reads them.

The network is traced once (torch.fx, evaluation mode) and every call is brought into one of a few kinds,
whether it was written as a module, a function or a method:

| kind | meaning |
|---|---|
| input | an argument of the network |
| conv, deconv, linear | make channels of their own (`Conv2d`, `ConvTranspose2d`, `Linear`) |
| norm, scale | batch norm; multiplication of each channel by a mask |
| pointwise | any function of one value |
| max_pool, indices, unpool | pooling, its second result, and the way back |
| avg_pool, adaptive_avg, adaptive_max, mean, resize | other pooling and interpolation |
| pad | rows, columns or channels put around |
| slice | some rows and columns, of all channels |
| select | some channels, or all in another order |
| flatten, unflatten | (B, C, H, W) to (B, C H W); (B, C) to (B, C, 1, 1) |
| add, mul, cat | two or more tensors meet |
| opaque | anything else; who cannot go on says so with `unknown` |

A layer counts as what its class says if its code does that; a layer with code of its own is looked into, and
``F.conv2d`` with a layer's own weight is found there too.

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from prunelab.errors import UserError

MaskOf = Callable[[nn.Module], "Tensor | None"]
"""Gives the mask (C,) of a module that multiplies its input's channels by one, and None for all others."""

CHANNEL_AXIS = 1


def channel_mask(module: nn.Module) -> Tensor | None:
    """The mask of a module without children that has a buffer ``mask`` with one number a channel."""
    mask = module._buffers.get("mask")
    return mask if mask is not None and mask.dim() == 1 and not module._modules else None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One tensor of the network."""

    name: str
    """Unique, made by the tracer."""
    kind: str
    """See the table above."""
    inputs: tuple[str, ...] = ()
    """The tensors it is made of."""
    module: str | None = None
    """Path of the module that makes it, where one does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Plain arguments; sizes may be expressions (`prunelab.surgery.sizes`)."""
    shape: tuple[int, ...] = ()
    """Its shape with the example; empty where it is no tensor."""

    @property
    def channels(self) -> int:
        """C; 0 for what has no channel axis."""
        return self.shape[CHANNEL_AXIS] if len(self.shape) > CHANNEL_AXIS else 0

    def __str__(self) -> str:
        """For people: the module's path, or the kind and the tracer's name."""
        return self.module or f"{self.options.get('what', self.kind)} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What `trace` found."""

    model: nn.Module
    """The traced network."""
    nodes: Mapping[str, Node]
    """All tensors in the order in which they are made."""
    inputs: tuple[str, ...]
    """Arguments."""
    outputs: tuple[str, ...]
    """Results."""
    single: bool
    """The result is a tensor, not a tuple of them."""
    mask_of: MaskOf
    """How masks are recognised."""
    fixed_size: bool = False
    """The network's code decided something by the sizes of its input: the graph is that of the example's."""

    def module(self, node: Node) -> Any:
        """The module behind a node."""
        assert node.module is not None, node
        return self.model.get_submodule(node.module)

    def users(self) -> dict[str, list[Node]]:
        """For each tensor the nodes that read it."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                found[name].append(node)
        return found


def unknown(graph: Graph, node: Node, why: str = "") -> UserError:
    """The error for a node that cannot be handled."""
    what = type(graph.model).__name__
    return UserError(f"{what}: {node} cannot be handled{': ' + why if why else ''}")
