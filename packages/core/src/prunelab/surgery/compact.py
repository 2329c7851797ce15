"""An exactly equivalent, dense network with fewer channels, from one whose channels are masked.

What a masked channel leaves behind is a constant (`prunelab.surgery.constants`). Here every tensor of the
network becomes a smaller one: a basis of channels that are computed, and for each channel of the original
either ``scale * basis channel`` or a constant. Masks and batch norms are folded into the layer before them,
in double precision. A layer that reads constants gets what they add up to: a bias, or, where zero padding
cuts it off at the border, a kernel over a plane of ones.

# B batch, C channels of the original, K channels of the basis, O outputs, I inputs, G groups of a layer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.surgery.channels import MAKING, Channels
from prunelab.surgery.constants import find_constants, scale_and_shift
from prunelab.surgery.graph import Graph, MaskOf, Node, channel_mask, unknown
from prunelab.surgery.program import Program, Step
from prunelab.surgery.tracing import trace

FOLDED = ("scale", "norm")
"""Kinds that go into the layer before them."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """How the channels of an original tensor are made of those of a smaller one."""

    width: int
    """K."""
    place: Tensor
    """The basis channel of each original one (C,), -1 for constants."""
    scale: Tensor
    """Its factor (C,), float64."""
    constant: Tensor
    """The number that a constant channel is (C,), float64; 0 for others."""

    @property
    def live(self) -> Tensor:
        """Which channels are no constants (C,)."""
        return self.place >= 0


def compact(
    model: nn.Module, example: Tensor | Sequence[Tensor], *, mask_of: MaskOf = channel_mask
) -> Program:
    """Make the smaller network.

    It computes what the network computes in evaluation mode, for every size of input, up to rounding. Where
    tensors are added, a channel is computed if any of them needs it. Max-unpooling whose indices come from
    masked channels is followed exactly: the index of a constant window is that of its first element.

    Args:
        model: A network whose masks are fixed; it stays as it is. Without masks its batch norms are folded.
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
        self.steps: list[Step] = []
        self.weights: dict[str, Tensor] = {}
        self.bases: dict[str, Basis] = {}
        self.names: dict[str, str] = {}  # the tensor of the program that stands for one of the graph
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
        return {
            "inputs": list(self.graph.inputs),
            "outputs": outputs,
            "single": self.graph.single,
            "steps": self.steps,
        }

    def lower(self, node: Node) -> None:
        """Add the steps of one node."""
        name = node.name
        if node.kind == "input":
            self._set(node, name, self._own_basis(node))
        elif node.kind in MAKING:
            self._layer(self.chains[name])
        elif name in self.inner or name in self.ends:
            pass  # folded into the layer before it
        elif node.kind == "indices":
            self._set(node, name, self.bases[node.inputs[0]])
        elif node.kind == "unpool":
            self._unpool(node)
        elif node.kind == "cat":
            self._cat(node)
        elif node.kind in _SIMPLE:
            self._simple(node)
        else:
            raise unknown(self.graph, node, "no smaller network can be made behind it")

    # ------------------------------------------------------------------------------------------- bases

    def _own_basis(self, node: Node) -> Basis:
        """The basis of a tensor that has all channels that are computed, in order."""
        ids = self.channels.of(node.name)
        live = self.computed[ids]
        return Basis(
            width=int(live.sum()),
            place=torch.where(live, live.cumsum(0) - 1, -1),
            scale=torch.ones(len(ids), dtype=torch.float64),
            constant=torch.where(live, 0.0, self.states[node.name].value),
        )

    def _set(self, node: Node, name: str, basis: Basis) -> None:
        self.names[node.name] = name
        self.bases[node.name] = basis

    def _plain(self, name: str) -> str:
        """A tensor of the program that has all computed channels in order; made if there is none."""
        node = self.graph.nodes[name]
        have, want = self.bases[name], self._own_basis(node)
        if torch.equal(have.place, want.place) and bool((have.scale[have.live] == 1).all()):
            return self.names[name]
        step = f"{name}_spread"
        if step not in {s["name"] for s in self.steps}:
            wanted = want.live.nonzero().flatten()
            places = have.place[wanted]
            live = places >= 0
            self.weights[f"{step}.scale"] = torch.where(live, have.scale[wanted], 0.0)
            self.weights[f"{step}.shift"] = torch.where(live, 0.0, have.constant[wanted])
            self._add(
                step,
                "affine",
                [self.names[name]],
                channels=len(wanted),
                select=places.clamp(min=0).tolist(),
            )
        return step

    def _add(self, name: str, op: str, inputs: list[str], **options: Any) -> None:
        self.steps.append({"name": name, "op": op, "inputs": inputs, **options})

    # ------------------------------------------------------------------------------------------ layers

    def _layer(self, chain: list[Node]) -> None:
        """A layer with the masks and batch norms behind it, as one step under the last one's name."""
        node, end = chain[0], chain[-1]
        module = self.graph.module(node)
        weight, bias = _folded(self.graph, chain)
        basis = self._own_basis(end)
        rows = basis.live.nonzero().flatten()
        groups = getattr(module, "groups", 1)
        source = node.inputs[0]
        if groups > 1 or node.kind == "deconv":
            read = self._own_basis(self.graph.nodes[source])
            name = self._plain(source)
        else:
            read, name = self.bases[source], self.names[source]
        weight, border = _split(weight, read, groups)
        weight, border, bias = weight[rows], border[rows], bias[rows]
        if groups > 1 and groups == len(read.place):
            groups = read.width  # depthwise
        if node.kind == "linear" or (node.kind == "conv" and not any(_padding(self.graph, node))):
            bias = bias + border.flatten(1).sum(1)
            border = torch.zeros_like(border)
        self._emit(node, end, name, weight, border, bias, groups)
        self._set(end, end.name, basis)

    def _emit(
        self, node: Node, end: Node, source: str, weight: Tensor, border: Tensor, bias: Tensor, groups: int
    ) -> None:
        """Add the step of a layer with its weights (O, I / G, h, w), border (O, 1, h, w), bias (O,)."""
        if node.kind == "deconv":
            weight = _transposed(weight, groups)
            border = border.transpose(0, 1)
        options: dict[str, Any] = {"weight": list(weight.shape), "bias": bool(bias.any())}
        if node.kind != "linear":
            options |= {
                "border": bool(border.any()),
                "stride": _pair(node.options["stride"]),
                "padding": _padding(self.graph, node),
                "dilation": _pair(node.options["dilation"]),
                "groups": groups,
            }
            if node.kind == "deconv":
                options["output_padding"] = _pair(node.options["output_padding"])
            if options["border"]:
                self.weights[f"{end.name}.border"] = border
        if options["bias"]:
            self.weights[f"{end.name}.bias"] = bias
        self.weights[f"{end.name}.weight"] = weight
        self._add(end.name, node.kind, [source], **options)

    # ------------------------------------------------------------------------------------------- others

    def _simple(self, node: Node) -> None:
        """A node whose tensors all have the computed channels in order."""
        sources = [self._plain(name) for name in node.inputs]
        basis = self._own_basis(node)
        op = "affine" if node.kind in FOLDED else node.kind
        options = {key: node.options[key] for key in _SIMPLE[node.kind] if key in node.options}
        if op == "affine":
            scale, shift = scale_and_shift(self.graph, node)
            self.weights[f"{node.name}.scale"] = scale[basis.live]
            self.weights[f"{node.name}.shift"] = shift[basis.live]
            options["channels"] = basis.width
        if node.kind in ("adaptive_avg", "adaptive_max"):
            options["size"] = options.pop("output_size")
        if node.kind == "resize" and options["size"] is None:
            del options["size"]
        if node.name in self.paired:
            options["indices"] = self.paired[node.name]
        self._add(node.name, op, sources, **options)
        self._set(node, node.name, basis)

    def _cat(self, node: Node) -> None:
        """Bases are lined up as the tensors are."""
        parts = [self.bases[name] for name in node.inputs]
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
        values, places = self._own_basis(self.graph.nodes[source]), self.bases[indices]
        name = self._plain(source)
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
            kernel_size=_pair(options["kernel_size"]),
            stride=_pair(options["stride"] or options["kernel_size"]),
            padding=_pair(options["padding"]),
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
}
"""Options that become those of the step."""


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value, value]


def _padding(graph: Graph, node: Node) -> list[int]:
    """Rows and columns of zeros that a convolution puts around its input."""
    options = node.options
    if options["padding_mode"] != "zeros":
        raise unknown(graph, node, f"its padding_mode is {options['padding_mode']!r}, expected 'zeros'")
    if options["padding"] == "valid":
        return [0, 0]
    if options["padding"] == "same":
        kernel = graph.module(node).kernel_size
        reach = [d * (k - 1) for d, k in zip(_pair(options["dilation"]), kernel, strict=True)]
        if any(each % 2 for each in reach):
            raise unknown(graph, node, "its padding is 'same' with a kernel that has no middle")
        return [each // 2 for each in reach]
    return _pair(options["padding"])


def _folded(graph: Graph, chain: list[Node]) -> tuple[Tensor, Tensor]:
    """Weight (O, I / G, h, w) or (O, I) and bias (O,) of a layer with what follows it, float64."""
    module = graph.module(chain[0])
    weight = module.weight.detach().double().cpu()
    if chain[0].kind == "deconv":
        weight = _transposed(weight, module.groups)
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if module.bias is not None:
        bias = module.bias.detach().double().cpu()
    for node in chain[1:]:
        scale, shift = scale_and_shift(graph, node)
        weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        bias = bias * scale + shift
    return weight, bias


def _transposed(weight: Tensor, groups: int) -> Tensor:
    """(I, O / G, h, w) to (O, I / G, h, w), or back."""
    grouped = weight.view(groups, -1, *weight.shape[1:])  # (G, I / G, O / G, h, w)
    return grouped.transpose(1, 2).flatten(0, 1)


def _split(weight: Tensor, read: Basis, groups: int) -> tuple[Tensor, Tensor]:
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
