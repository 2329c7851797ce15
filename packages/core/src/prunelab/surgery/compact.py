"""An exactly equivalent, dense network with fewer channels, from one whose channels are masked or not read.

What a masked channel leaves behind is a constant (`prunelab.surgery.constants`); a channel that all readers
have zero weights for is needed by nobody (`prunelab.surgery.live`). Here every tensor of the network becomes
a smaller one: a basis of channels that are computed, and for each channel of the original either
``scale * basis channel`` or a constant. Masks and batch norms are folded into the layer before them, in
double precision. A layer that reads constants gets what they add up to: a bias, or, where zero padding cuts
it off at the border, a kernel over a plane of ones. One that reads much less than there is picks channels.

# B batch, C channels of the original, K channels of the basis, O outputs, I inputs, G groups of a layer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.surgery.channels import MAKING, Channels
from prunelab.surgery.constants import find_constants, scale_and_shift
from prunelab.surgery.folding import (
    FOLDED,
    Basis,
    chains,
    folded,
    padding_of,
    pair,
    pooled_pads,
    split,
    transposed,
)
from prunelab.surgery.graph import Graph, MaskOf, Node, channel_mask, unknown
from prunelab.surgery.live import find_needs, is_depthwise
from prunelab.surgery.program import Program, Step
from prunelab.surgery.tracing import trace

GATHERED = 40
"""Picking one number of a tensor costs as much as so many multiply-adds (measured on a CPU)."""
LAZY = ("pointwise", "norm", "scale")
"""Kinds that may be made once for each of their readers, with the channels of that reader alone."""


@torch.inference_mode(False)  # the new network is one like any other
def compact(
    model: nn.Module, example: Tensor | Sequence[Tensor], *, mask_of: MaskOf = channel_mask
) -> Program:
    """Make the smaller network.

    It computes what the network computes in evaluation mode, up to rounding, and for every size of input
    unless the network's code decides something by it. Where tensors are added, a channel is computed if any
    of them needs it. Max-unpooling whose indices come from masked channels is followed exactly: the index of
    a constant window is that of its first element.

    Args:
        model: A network whose masks, or zeros for weights, are fixed; it stays as it is. One without any only
            gets its batch norms folded.
        example: Its input, or inputs, of any size and the dtype of its weights.
        mask_of: How masks are recognised.

    Returns:
        The network as a program: its ``structure`` is plain data, and
        ``Program(structure).load_state_dict(state)`` builds it again.

    Raises:
        UserError: The network does something that cannot be followed; the line names it.
    """
    graph = trace(model, example, mask_of=mask_of)
    lowering = _Lowering(graph)
    for node in graph.nodes.values():
        lowering.lower(node)
    program = Program(lowering.structure())
    first = next(model.parameters(), torch.zeros(()))
    program.to(first.device, first.dtype)
    with torch.no_grad():
        for name, value in lowering.weights.items():
            program.get_parameter(f"steps.{name}").copy_(value)
    return program.eval()


class _Lowering:
    """Turns nodes into steps, in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.channels = Channels(graph, couple_indices=False)
        self.states = find_constants(graph)
        self.chains = chains(graph)
        self.inner = {node.name for chain in self.chains.values() for node in chain[:-1]}
        self.ends = {chain[-1].name for chain in self.chains.values()}
        self.computed = self._computed()
        self.lazy = {
            node.name
            for node in graph.nodes.values()
            if node.kind in LAZY and node.name not in self.inner | self.ends
        }
        self.pooled = pooled_pads(graph)
        self.needs = find_needs(
            graph, self.chains, lambda node: self.computed[self.channels.of(node.name)], self.lazy
        )
        self.steps: list[Step] = []
        self.weights: dict[str, Tensor] = {}
        self.bases: dict[str, Basis] = {}
        self.names: dict[str, str] = {}  # the tensor of the program that stands for one of the graph
        self.variants: dict[str, list[Tensor]] = {}  # channels of the copies of a tensor
        self.made: set[str] = set()
        self.paired = {node.inputs[0]: node.name for node in graph.nodes.values() if node.kind == "indices"}

    def _computed(self) -> Tensor:
        """Which channels are computed: those that are no constants in one of the tensors that have them."""
        computed = torch.zeros(self.channels.count, dtype=torch.bool)
        computed[list(self.channels.fixed)] = True
        for node in self.graph.nodes.values():
            if node.name in self.inner or node.kind in ("indices", "unpool"):
                continue
            ids = self.channels.of(node.name)
            computed[ids[~self.states[node.name].constant]] = True
        for node in self.graph.nodes.values():
            ids = self.channels.of(node.name)
            if node.kind in MAKING and not computed[ids].any():
                computed[ids[0]] = True  # a layer of constants alone: one of them keeps the sizes
        return computed

    def structure(self) -> dict[str, Any]:
        """The program."""
        outputs = [self._plain(name) for name in self.graph.outputs]
        found: dict[str, Any] = {
            "inputs": list(self.graph.inputs),
            "outputs": outputs,
            "single": self.graph.single,
            "steps": self.steps,
        }
        if self.graph.fixed_size:
            found["shapes"] = {name: list(self.graph.nodes[name].shape) for name in self.graph.inputs}
        return found

    def lower(self, node: Node) -> None:
        """Add the steps of one node; what is `LAZY` gets them when it is read."""
        name = node.name
        if node.kind == "input":
            self._set(node, name, self._basis(torch.ones(node.channels, dtype=torch.bool), node))
        elif node.kind in MAKING:
            self._layer(self.chains[name])
        elif name in self.inner | self.ends | self.lazy | self.pooled:
            pass  # part of the layer before it or of the pooling behind it, or lazy
        elif node.kind == "indices":
            self._set(node, name, self.bases[node.inputs[0]])
        elif node.kind in _OWN_WAYS:
            _OWN_WAYS[node.kind](self, node)
        elif node.kind in _SIMPLE:
            self._simple(node, node.name, self._live(node))
        else:
            raise unknown(self.graph, node, "no smaller network can be made behind it")

    # ------------------------------------------------------------------------------------------- bases

    def _live(self, node: Node) -> Tensor:
        return self.needs.live[node.name]

    def _basis(self, live: Tensor, node: Node) -> Basis:
        """The basis of a tensor that has these channels of a node, in order."""
        return Basis(
            width=int(live.sum()),
            place=torch.where(live, live.cumsum(0) - 1, -1),
            scale=torch.ones(len(live), dtype=torch.float64),
            constant=torch.where(live, 0.0, self.states[node.name].value),
        )

    def _set(self, node: Node, name: str, basis: Basis) -> None:
        self.names[node.name] = name
        self.bases[node.name] = basis

    def _found(self, name: str) -> Basis:
        """The basis of a tensor, which is made now if it was too lazy until now."""
        if name not in self.bases:
            self._simple(self.graph.nodes[name], name, self.needs.live[name])
        return self.bases[name]

    def _plain(self, name: str) -> str:
        """A tensor of the program that has all computed channels in order; made if there is none."""
        return self._bring(name, self.needs.live[name])

    def _bring(self, name: str, live: Tensor) -> str:
        """A tensor of the program that has these channels in order; made if there is none."""
        node = self.graph.nodes[name]
        if name in self.needs.split:
            step = self._named(name, live)
            if step not in self.made:
                self.made.add(step)
                self._simple(node, step, live)
            return step
        have = self._found(name)
        if have.gives(live):
            return self.names[name]
        step = self._named(name, live)
        if step not in self.made:
            self.made.add(step)
            places = have.place[live]
            known = places >= 0
            scale = torch.where(known, have.scale[live], 0.0)
            shift = torch.where(known, 0.0, have.constant[live])
            self._affine(step, self.names[name], places, scale, shift)
        return step

    def _named(self, name: str, live: Tensor) -> str:
        """A name for a tensor with these channels of another one, the same for the same channels."""
        masks = self.variants.setdefault(name, [])
        place = next((i for i, mask in enumerate(masks) if torch.equal(mask, live)), len(masks))
        if place == len(masks):
            masks.append(live)
        return f"{name}_part{place}"

    def _affine(self, step: str, source: str, places: Tensor, scale: Tensor, shift: Tensor) -> None:
        """Pick channels (-1 for none), and multiply and add where that does something."""
        chosen = places.clamp(min=0).tolist()
        if bool((scale == 1).all()) and not bool(shift.any()):
            self._add(step, "select", [source], channels=chosen)
            return
        self.weights[f"{step}.scale"], self.weights[f"{step}.shift"] = scale, shift
        self._add(step, "affine", [source], channels=len(chosen), select=chosen)

    def _add(self, name: str, op: str, inputs: list[str], **options: Any) -> None:
        if "size" in options:
            options["size"] = self._measured(options["size"])
        self.steps.append({"name": name, "op": op, "inputs": inputs, **options})

    def _measured(self, expression: Any) -> Any:
        """An expression of sizes with tensors of the program in place of the graph's."""
        if not isinstance(expression, list | tuple):
            return expression
        if len(expression) == 3 and expression[0] == "size":
            return ["size", self._as_large(expression[1]), expression[2]]
        return [self._measured(part) for part in expression]

    def _as_large(self, name: str) -> str:
        """A tensor of the program with as many rows and columns."""
        for chain in self.chains.values():
            if any(node.name == name for node in chain[:-1]):
                name = chain[-1].name
        while name not in self.names:  # it may be there only in parts, or not at all
            name = self.graph.nodes[name].inputs[0]
        return self.names[name]

    # ------------------------------------------------------------------------------------------ layers

    def _layer(self, chain: list[Node]) -> None:
        """A layer with the masks and batch norms behind it, as one step under the last one's name."""
        node, end = chain[0], chain[-1]
        groups = getattr(self.graph.module(node), "groups", 1)
        live = self._live(end)
        weight, bias = folded(self.graph, chain)
        name, read = self._reading(node, live)
        weight, border = split(weight, read, groups)
        weight, border, bias = weight[live], border[live], bias[live]
        if groups > 1 and groups == len(read.place):
            groups = read.width  # depthwise
        if node.kind == "linear" or (node.kind == "conv" and not any(padding_of(self.graph, node))):
            bias = bias + border.flatten(1).sum(1)
            border = torch.zeros_like(border)
        self._emit(node, end, name, weight, border, bias, groups)
        self._set(end, end.name, self._basis(live, end))

    def _reading(self, node: Node, rows: Tensor) -> tuple[str, Basis]:
        """The tensor of the program that a layer reads, and what it is made of."""
        source = self.graph.nodes[node.inputs[0]]
        if is_depthwise(self.graph, node):
            return self._bring(source.name, rows), self._basis(rows, source)
        columns = self.needs.columns.get(node.name)
        if columns is None or node.kind == "deconv":
            return self._plain(source.name), self._basis(self._live(source), source)
        if source.name in self.needs.split:
            wanted = columns & self._live(source)
            return self._bring(source.name, wanted), self._basis(wanted, source)
        have = self._found(source.name)
        wanted = columns & have.live
        if wanted.any() and self._picks(node, have, wanted):
            return self._bring(source.name, wanted), self._basis(wanted, source)
        return self.names[source.name], have

    def _picks(self, node: Node, have: Basis, wanted: Tensor) -> bool:
        """Whether picking the channels that a layer reads costs less than computing with zeros."""
        spare = have.width - int(have.place[wanted].unique().numel())
        source = self.graph.nodes[node.inputs[0]]
        weight = self.graph.module(node).weight
        multiplied = spare * (weight.numel() // weight.shape[1]) * math.prod(node.shape[2:])
        return multiplied > GATHERED * int(wanted.sum()) * math.prod(source.shape[2:])

    def _emit(
        self, node: Node, end: Node, source: str, weight: Tensor, border: Tensor, bias: Tensor, groups: int
    ) -> None:
        """Add the step of a layer with its weights (O, I / G, h, w), border (O, 1, h, w), bias (O,)."""
        if node.kind == "deconv":
            weight = transposed(weight, groups)
            border = border.transpose(0, 1)
        options: dict[str, Any] = {"weight": list(weight.shape), "bias": bool(bias.any())}
        if node.kind != "linear":
            options |= {
                "border": bool(border.any()),
                "stride": pair(node.options["stride"]),
                "padding": padding_of(self.graph, node),
                "dilation": pair(node.options["dilation"]),
                "groups": groups,
            }
            if node.kind == "deconv":
                options["output_padding"] = pair(node.options["output_padding"])
            if options["border"]:
                self.weights[f"{end.name}.border"] = border
        if options["bias"]:
            self.weights[f"{end.name}.bias"] = bias
        self.weights[f"{end.name}.weight"] = weight
        self._add(end.name, node.kind, [source], **options)

    # ------------------------------------------------------------------------------------------- others

    def _simple(self, node: Node, step: str, live: Tensor) -> None:
        """A node that makes of each tensor's channels its own, as a step that has these ones."""
        sources = [
            self._bring(name, self._of_source(node, name, live))
            for name in node.inputs
            if node.kind not in FOLDED and name not in self.pooled
        ]
        options = {key: node.options[key] for key in _SIMPLE[node.kind] if key in node.options}
        if node.kind in ("adaptive_avg", "adaptive_max"):
            options["size"] = options.pop("output_size")
        if node.kind == "resize" and options["size"] is None:
            del options["size"]
        if node.name in self.paired:
            options["indices"] = self.paired[node.name]
        if node.inputs[0] in self.pooled:
            pad = self.graph.nodes[node.inputs[0]]
            sources, options["size"] = [self._bring(pad.inputs[0], live)], pad.options["pad"]
        if node.kind in FOLDED:
            self._norm(node, step, live)
        else:
            self._add(step, node.kind, sources, **options)
        if step == node.name:
            self._set(node, step, self._basis(live, node))

    def _of_source(self, node: Node, name: str, live: Tensor) -> Tensor:
        """Which channels of a source make these ones."""
        channels = self.graph.nodes[name].channels
        if node.kind == "flatten":
            return live.view(channels, -1).any(1)
        return live if channels == len(live) else self.needs.live[name]

    def _norm(self, node: Node, step: str, live: Tensor) -> None:
        """A batch norm or a mask that no layer takes up; it picks its channels on the way."""
        source = node.inputs[0]
        if source in self.needs.split:
            name, have = self._bring(source, live), self._basis(live, self.graph.nodes[source])
        else:
            have, name = self._found(source), self.names[source]
        scale, shift = (each[live] for each in scale_and_shift(self.graph, node))
        places = have.place[live]
        shift = shift + scale * torch.where(places >= 0, 0.0, have.constant[live])
        scale = scale * torch.where(places >= 0, have.scale[live], 0.0)
        whole = torch.equal(places, torch.arange(have.width))
        self.weights[f"{step}.scale"], self.weights[f"{step}.shift"] = scale, shift
        picked = {} if whole else {"select": places.clamp(min=0).tolist()}
        self._add(step, "affine", [name], channels=len(places), **picked)

    def _pad(self, node: Node) -> None:
        """Rows and columns around; channels that are put beside are constants that nobody computes."""
        source, (before, behind) = node.inputs[0], node.options["channels"]
        have = self._found(source)
        live = self._live(node)[before : len(self._live(node)) - behind]
        name = self._bring(source, live)
        if any(node.options["pad"]):
            self._add(node.name, "pad", [name], size=node.options["pad"], value=str(node.options["value"]))
            name = node.name
        inner = have if name == self.names[source] else self._basis(live, self.graph.nodes[source])
        sides = [torch.full((count,), -1) for count in (before, behind)]
        place = torch.cat([sides[0], inner.place, sides[1]])
        basis = Basis(
            width=inner.width,
            place=place,
            scale=torch.where(place >= 0, 1.0, 1.0).double(),
            constant=torch.where(place >= 0, 0.0, self.states[node.name].value),
        )
        self._set(node, name, basis)

    def _slice(self, node: Node) -> None:
        """Some rows and columns."""
        index = node.options["index"][2:]
        plain = all(
            isinstance(part, list) and all(end is None or isinstance(end, int) for end in part)
            for part in index
        )
        if not plain or node.options["index"][0] != [None, None, None]:
            raise unknown(self.graph, node, "expected rows and columns given by numbers")
        self._add(node.name, "slice", [self._bring(node.inputs[0], self._live(node))], index=index)
        self._set(node, node.name, self._basis(self._live(node), node))

    def _select(self, node: Node) -> None:
        """Channels by number: the same tensor, seen otherwise."""
        source = node.inputs[0]
        have, places = self._found(source), torch.tensor(node.options["places"])
        basis = Basis(
            width=have.width,
            place=have.place[places],
            scale=have.scale[places],
            constant=have.constant[places],
        )
        self._set(node, self.names[source], basis)

    def _cat(self, node: Node) -> None:
        """Bases are lined up as the tensors are."""
        parts = [self._found(name) for name in node.inputs]
        starts = [sum(part.width for part in parts[:place]) for place in range(len(parts))]
        places = [
            torch.where(part.live, part.place + start, -1) for part, start in zip(parts, starts, strict=True)
        ]
        basis = Basis(
            width=sum(part.width for part in parts),
            place=torch.cat(places),
            scale=torch.cat([part.scale for part in parts]),
            constant=torch.cat([part.constant for part in parts]),
        )
        self._add(node.name, "cat", [self.names[name] for name in node.inputs])
        self._set(node, node.name, basis)

    def _unpool(self, node: Node) -> None:
        """Values and indices, each computed or constant, channel by channel."""
        source, indices = node.inputs
        name = self._plain(source)
        values, places = self._basis(self.needs.live[source], self.graph.nodes[source]), self.bases[indices]
        both = values.live & places.live
        first = values.live & ~places.live
        ones = ~values.live & places.live & (values.constant != 0)
        pattern = ~values.live & ~places.live & (values.constant != 0)
        counts = [int(group.sum()) for group in (both, first, ones)]
        place = torch.full((node.channels,), -1)
        start = 0
        for group, count in zip((both, first, ones), counts, strict=True):
            place[group] = torch.arange(start, start + count)
            start += count
        place[pattern] = start
        constant = ones | pattern
        basis = Basis(
            width=start + bool(pattern.any()),
            place=place,
            scale=torch.where(constant, values.constant, 1.0),
            constant=torch.zeros(node.channels, dtype=torch.float64),
        )
        options = node.options
        size = options["output_size"]
        if not isinstance(size, list):
            raise unknown(self.graph, node, "it is called without output_size")
        self._add(
            node.name,
            "unpool",
            [name, self.names[indices]],
            values=values.place[both].tolist(),
            first=values.place[first].tolist(),
            places=places.place[both].tolist(),
            ones=places.place[ones].tolist(),
            pattern=bool(pattern.any()),
            kernel_size=pair(options["kernel_size"]),
            stride=pair(options["stride"] or options["kernel_size"]),
            padding=pair(options["padding"]),
            size=size,
        )
        self._set(node, node.name, basis)


_SIMPLE: dict[str, tuple[str, ...]] = {
    "scale": (),
    "norm": (),
    "pointwise": ("function", "arguments", "keywords"),
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg": ("output_size",),
    "adaptive_max": ("output_size",),
    "mean": ("keepdim",),
    "resize": ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    "flatten": (),
    "add": (),
    "mul": (),
    "expand": (),
    "unflatten": (),
}
"""Options that become those of the step."""

_OWN_WAYS: dict[str, Callable[[_Lowering, Node], None]] = {
    "unpool": _Lowering._unpool,
    "cat": _Lowering._cat,
    "pad": _Lowering._pad,
    "slice": _Lowering._slice,
    "select": _Lowering._select,
}
