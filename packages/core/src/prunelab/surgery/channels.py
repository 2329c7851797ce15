"""Which channels of which tensors are one and the same thing.

Every channel that a layer makes begins as a channel of its own. Where tensors are added or multiplied their
channels become one; where channels pass through (batch norm, pooling, depthwise convolution) they stay what
they are; concatenation lines them up. What is one is kept or removed as one.

# C channels
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from prunelab.surgery.graph import Graph, Node

PASSING = frozenset(
    {
        "norm",
        "scale",
        "pointwise",
        "max_pool",
        "avg_pool",
        "adaptive_avg",
        "adaptive_max",
        "mean",
        "resize",
        "slice",
        "unflatten",
        "indices",
    }
)
"""Kinds of one input whose output has the same channels."""

MAKING = frozenset({"conv", "deconv", "linear"})
"""Kinds whose output has channels of their own."""


class Channels:
    """The channels of a graph.

    Args:
        graph: The graph.
        couple_indices: An unpooled tensor has the channels of its values and of its indices, so that all
            shrink alike; False: it has channels of its own.
    """

    def __init__(self, graph: Graph, *, couple_indices: bool = True) -> None:
        self.graph = graph
        self._couple_indices = couple_indices
        self._parents: list[int] = []
        self._raw: dict[str, list[int]] = {}
        self._made: dict[str, tuple[list[int], list[int]]] = {}  # by module: channels read and made
        self.fixed: set[int] = set()
        """Channels that must all stay: inputs, outputs, and what a node reads in an unknown way."""
        for node in graph.nodes.values():
            self._raw[node.name] = self._visit(node)
        for name in graph.outputs:
            self._fix(self._raw[name])
        self._fix_shared()
        self.fixed = {self._root(channel) for channel in self.fixed}
        self._ids = {
            name: torch.tensor([self._root(c) for c in raw], dtype=torch.long)
            for name, raw in self._raw.items()
        }

    @property
    def count(self) -> int:
        """Numbers of channels go up to this one."""
        return len(self._parents)

    def of(self, name: str) -> Tensor:
        """The channels of a tensor, in order (C,); the same number is the same channel."""
        return self._ids[name]

    def groups(self) -> list[list[str]]:
        """Names of the layers that make channels, those together that share some."""
        by_root: dict[int, int] = {}
        groups: list[list[str]] = []
        for node in self.graph.nodes.values():
            if node.kind not in MAKING or node.module is None:
                continue
            ids = self.of(node.name).tolist()
            found = sorted({by_root[c] for c in ids if c in by_root})
            target = found[0] if found else len(groups)
            if not found:
                groups.append([])
            for other in found[1:]:
                groups[target] += groups[other]
                groups[other] = []
                by_root = {c: target if g == other else g for c, g in by_root.items()}
            if node.module not in groups[target]:
                groups[target].append(node.module)
            by_root.update(dict.fromkeys(ids, target))
        return [group for group in groups if group]

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def _new(self, count: int) -> list[int]:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return list(range(first, first + count))

    def _join(self, first: Iterable[int], second: Iterable[int]) -> None:
        for a, b in zip(first, second, strict=True):
            a, b = self._root(a), self._root(b)
            self._parents[max(a, b)] = min(a, b)

    def _fix(self, channels: Iterable[int]) -> None:
        self.fixed.update(channels)

    def _fix_shared(self) -> None:
        """A layer whose weight is used in another way as well, which is not understood, stays whole."""
        for node in self.graph.nodes.values():
            owner = (node.module or "").rpartition(".")[0]
            if node.kind == "opaque" and not node.inputs and owner in self._made:
                for channels in self._made[owner]:
                    self._fix(channels)

    def _visit(self, node: Node) -> list[int]:
        sources = [self._raw[name] for name in node.inputs]
        if node.kind in MAKING:
            return self._once(node, sources[0], self._layer(node, sources[0]))
        if node.kind in PASSING:
            return self._once(node, sources[0], sources[0])
        match node.kind:
            case "flatten":
                source = self.graph.nodes[node.inputs[0]]
                each = node.channels // source.channels  # features a channel
                return [channel for channel in sources[0] for _ in range(each)]
            case "add" | "mul" | "expand":
                return self._meet(sources)
            case "pad":
                before, behind = (self._new(count) for count in node.options["channels"])
                self._fix(before + behind)
                return before + sources[0] + behind
            case "select":  # the code says by number which ones
                self._fix(sources[0])
                return [sources[0][place] for place in node.options["places"]]
            case "cat":
                return [channel for source in sources for channel in source]
            case "unpool":
                if not self._couple_indices:
                    return self._new(node.channels)
                self._join(sources[0], sources[1])
                return sources[0]
        for source in sources:
            self._fix(source)
        new = self._new(node.channels)
        self._fix(new)
        return new

    def _meet(self, sources: list[list[int]]) -> list[int]:
        """A tensor with one channel is spread over the other's; all else meets channel by channel."""
        wide = max(sources, key=len)
        for source in sources:
            if len(source) == len(wide):
                self._join(wide, source)
            else:
                self._fix(source)
        return wide

    def _once(self, node: Node, source: list[int], made: list[int]) -> list[int]:
        """What a module reads and makes is the same, however often it is called; functions hold nothing."""
        if node.kind in MAKING | {"norm", "scale"}:
            assert node.module is not None
            read_before, made_before = self._made.setdefault(node.module, (source, made))
            self._join(source, read_before)
            self._join(made, made_before)
        return made

    def _layer(self, node: Node, source: list[int]) -> list[int]:
        """Groups of a convolution shrink alike: equal places in all of them are one channel."""
        groups = getattr(self.graph.module(node), "groups", 1)
        if groups == 1:
            return self._new(node.channels)
        if groups == len(source) and node.channels % groups == 0:  # depthwise
            return [channel for channel in source for _ in range(node.channels // groups)]
        width = len(source) // groups
        for start in range(width, len(source), width):
            self._join(source[:width], source[start : start + width])
        return self._new(node.channels // groups) * groups
