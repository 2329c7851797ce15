"""Which channels of which tensors are worth computing: those that are no constants and that something reads.

A convolution reads the channels for which it has weights that are not zero. So in a network with pruned
inputs each tensor needs the channels that its readers keep, and a tensor that is made of another one value by
value needs no more of that.

# C channels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunelab.surgery.channels import MAKING, PASSING
from prunelab.surgery.folding import folded
from prunelab.surgery.graph import Graph, Node

SPLIT_UP_TO = 1.6
"""Copies for readers of different channels may have so many times the channels of one for all of them."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is computed of every tensor, and for whom."""

    live: dict[str, Tensor] = field(default_factory=dict)
    """By tensor, which channels are computed (C,)."""
    demands: dict[str, list[Tensor]] = field(default_factory=dict)
    """By tensor, what each of its readers reads of it (C,)."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """By layer, the channels of its input for which it has weights (C,)."""
    split: set[str] = field(default_factory=set)
    """Tensors of which each reader better gets its own, with its own channels alone."""


def find_needs(
    graph: Graph, chains: Mapping[str, Sequence[Node]], computed: Callable[[Node], Tensor], lazy: set[str]
) -> Needs:
    """Go through a graph from its end.

    Args:
        graph: The graph.
        chains: By layer, itself and what is folded into it.
        computed: Which channels of a tensor (C,) may be computed at all: those that are no constants.
        lazy: Tensors that are cheaply made of another one, value by value.
    """
    needs = Needs(demands={name: [] for name in graph.nodes})
    for name in graph.outputs:
        needs.demands[name].append(torch.ones(graph.nodes[name].channels, dtype=torch.bool))
    whole = _whole(graph, chains)
    for node in reversed(list(graph.nodes.values())):
        wanted = needs.demands[node.name]
        allowed = computed(node)
        live = allowed.clone() if node.name in whole else allowed & _any(wanted, node.channels)
        if node.kind == "flatten":
            channels = graph.nodes[node.inputs[0]].channels
            live = live.view(channels, -1).any(1).repeat_interleave(node.channels // channels)
        if not live.any() and len(live):
            live[int(allowed.int().argmax())] = True  # one channel keeps the sizes
        needs.live[node.name] = live
        if node.name in lazy and _splits([mask & live for mask in wanted], live):
            needs.split.add(node.name)
        _Reader(graph, chains, needs).read(node, live)
    return needs


def _any(masks: Sequence[Tensor], channels: int) -> Tensor:
    found = torch.zeros(channels, dtype=torch.bool)
    for mask in masks:
        found |= mask
    return found


def _splits(wanted: Sequence[Tensor], live: Tensor) -> bool:
    """Whether copies for all readers cost less than one copy from which each picks its channels."""
    counts = [int(mask.sum()) for mask in wanted]
    most = int(live.sum())
    return len(counts) > 1 and max(counts) < most and sum(counts) <= SPLIT_UP_TO * most


def _whole(graph: Graph, chains: Mapping[str, Sequence[Node]]) -> set[str]:
    """Tensors of which all that may be computed is: what convolutions in groups make."""
    found: set[str] = set()
    for name, chain in chains.items():
        module = graph.module(graph.nodes[name])
        if getattr(module, "groups", 1) > 1 and not is_depthwise(graph, graph.nodes[name]):
            found |= {node.name for node in chain}
    return found


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a layer is a convolution with one filter for each channel."""
    groups = getattr(graph.module(node), "groups", 1)
    return groups > 1 and groups == graph.nodes[node.inputs[0]].channels == node.channels


class _Reader:
    """Tells tensors what a node reads of them."""

    def __init__(self, graph: Graph, chains: Mapping[str, Sequence[Node]], needs: Needs) -> None:
        self.graph, self.chains, self.needs = graph, chains, needs

    def _demand(self, name: str, mask: Tensor) -> None:
        self.needs.demands[name].append(mask)

    def _all(self, name: str) -> None:
        self._demand(name, torch.ones(self.graph.nodes[name].channels, dtype=torch.bool))

    def read(self, node: Node, live: Tensor) -> None:
        """Let a node of which these channels are computed demand what it needs."""
        if node.kind in MAKING:
            self._layer(node)
        elif node.name in self.needs.split:
            for mask in self.needs.demands[node.name]:
                self._demand(node.inputs[0], mask & live)
        elif node.kind in ("add", "mul", "expand"):
            for name in node.inputs:
                same = self.graph.nodes[name].channels == len(live)
                self._demand(name, live) if same else self._all(name)
        elif node.kind == "cat":
            parts = live.split([self.graph.nodes[name].channels for name in node.inputs])
            for name, mask in zip(node.inputs, parts, strict=True):
                self._demand(name, mask)
        elif node.kind in (*PASSING, "pad", "select", "flatten"):
            self._demand(node.inputs[0], self._before(node, live))
        else:
            for name in node.inputs:
                self._all(name)

    def _before(self, node: Node, live: Tensor) -> Tensor:
        """The channels of its one input that become these ones."""
        channels = self.graph.nodes[node.inputs[0]].channels
        if node.kind == "pad":
            before = node.options["channels"][0]
            return live[before : before + channels]
        if node.kind == "flatten":
            return live.view(channels, -1).any(1)
        if node.kind == "select":
            mask = torch.zeros(channels, dtype=torch.bool)
            mask[torch.tensor(node.options["places"])[live]] = True
            return mask
        return live

    def _layer(self, node: Node) -> None:
        """A layer with what is folded into it: of its last tensor's live channels."""
        chain = self.chains[node.name]
        rows = self.needs.live[chain[-1].name]
        source = node.inputs[0]
        if is_depthwise(self.graph, node):
            self._demand(source, rows)
        elif getattr(self.graph.module(node), "groups", 1) > 1:
            self._all(source)
        else:
            weight, _ = folded(self.graph, chain)
            columns = (weight[rows] != 0).transpose(0, 1).flatten(1).any(1)
            self.needs.columns[node.name] = columns
            self._demand(source, columns)
