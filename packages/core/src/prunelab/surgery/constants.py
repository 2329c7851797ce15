"""Which channels of which tensors are the same number everywhere, whatever the input is.

A masked channel is zero behind its mask, a constant behind the batch norm, another behind the activation;
sums and poolings of constants are constants. Convolutions end them: what they make of constants is not one at
the border, where zero padding cuts it off.

# C channels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunelab.surgery.graph import Graph, Node, unknown
from prunelab.surgery.pointwise import apply_pointwise


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known about the channels of a tensor."""

    constant: Tensor
    """Which are the same number everywhere (C,), bool."""
    value: Tensor
    """That number (C,), float64; without meaning elsewhere."""


def scale_and_shift(graph: Graph, node: Node) -> tuple[Tensor, Tensor]:
    """What a mask or a batch norm in evaluation mode does to each channel: (C,), (C,), float64.

    Raises:
        UserError: A batch norm without running statistics.
    """
    module = graph.module(node)
    if node.kind == "scale":
        mask = graph.mask_of(module)
        assert mask is not None
        scale = mask.detach().double().cpu()
        return scale, torch.zeros_like(scale)
    if module.running_mean is None or module.running_var is None:
        raise unknown(graph, node, "it has no running statistics")
    mean, variance = module.running_mean.double().cpu(), module.running_var.double().cpu()
    scale = (variance + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.detach().double().cpu()
    shift = -scale * mean
    if module.bias is not None:
        shift = shift + module.bias.detach().double().cpu()
    return scale, shift


def _known(constant: Tensor, value: Tensor) -> State:
    return State(constant=constant, value=torch.where(constant, value, 0.0))


def _nothing(channels: int) -> State:
    return State(
        constant=torch.zeros(channels, dtype=torch.bool), value=torch.zeros(channels, dtype=torch.float64)
    )


def find_constants(graph: Graph) -> dict[str, State]:
    """The state of every tensor of a graph, by name."""
    states: dict[str, State] = {}
    for node in graph.nodes.values():
        states[node.name] = _state(graph, node, [states[name] for name in node.inputs])
    return states


def _state(graph: Graph, node: Node, sources: list[State]) -> State:
    match node.kind:
        case "scale" | "norm":
            scale, shift = scale_and_shift(graph, node)
            first = sources[0]
            stopped = scale == 0
            value = torch.where(first.constant, first.value, 0.0) * scale + shift
            return _known(first.constant | stopped, value)
        case "pointwise":
            return _known(sources[0].constant, _applied(node, sources[0].value))
        case (
            "max_pool"
            | "adaptive_max"
            | "adaptive_avg"
            | "mean"
            | "resize"
            | "slice"
            | "expand"
            | "unflatten"
        ):
            return sources[0]
        case "pad":
            return _padded(node, sources[0])
        case "select":
            places = torch.tensor(node.options["places"])
            return _known(sources[0].constant[places], sources[0].value[places])
        case "avg_pool":
            return _averaged(node, sources[0])
        case "flatten":
            each = node.channels // len(sources[0].value)
            first = sources[0]
            return _known(first.constant.repeat_interleave(each), first.value.repeat_interleave(each))
        case "cat":
            return _known(torch.cat([s.constant for s in sources]), torch.cat([s.value for s in sources]))
        case "add" | "mul":
            return _met(node, sources)
        case "conv" | "deconv" | "linear":
            return _made(graph, node)
        case "unpool":
            first = sources[0]
            return _known(first.constant & (first.value == 0), first.value)
    return _nothing(node.channels)


def _applied(node: Node, value: Tensor) -> Tensor:
    options = node.options
    return apply_pointwise(value, options["function"], options["arguments"], options["keywords"])


def _padded(node: Node, source: State) -> State:
    """Rows and columns of the same number change nothing; channels that are put beside are that number."""
    number = node.options["value"]
    constant = source.constant & (source.value == number) if any(node.options["pad"]) else source.constant
    sides = [torch.full((count,), number, dtype=torch.float64) for count in node.options["channels"]]
    beside = [torch.ones(len(side), dtype=torch.bool) for side in sides]
    return _known(torch.cat([beside[0], constant, beside[1]]), torch.cat([sides[0], source.value, sides[1]]))


def _averaged(node: Node, source: State) -> State:
    """Zero padding that counts, or a divisor of one's own, spares only zeros."""
    padding = node.options["padding"]
    padded = any(padding) if isinstance(padding, list | tuple) else padding > 0
    if (padded and node.options["count_include_pad"]) or node.options["divisor_override"]:
        return _known(source.constant & (source.value == 0), source.value)
    return source


def _met(node: Node, sources: list[State]) -> State:
    if any(len(source.value) != node.channels for source in sources):
        return _nothing(node.channels)
    first, second = sources[0], sources[-1]
    both = first.constant & second.constant
    if node.kind == "add":
        return _known(both, first.value + second.value)
    zero = (first.constant & (first.value == 0)) | (second.constant & (second.value == 0))
    return _known(both | zero, first.value * second.value)


def _made(graph: Graph, node: Node) -> State:
    """A filter of zeros gives its bias everywhere, as in a network whose masks went into the weights."""
    module = graph.module(node)
    weight = module.weight.detach().cpu()
    if node.kind == "deconv":
        if module.groups > 1:
            return _nothing(node.channels)
        weight = weight.transpose(0, 1)
    empty = ~weight.flatten(1).any(1)
    bias = torch.zeros(node.channels) if module.bias is None else module.bias.detach().cpu()
    return _known(empty, bias.double())
