"""Multiply-adds of pruned networks, by each of three ways to count them.

| convention | a convolution counts with |
|---|---|
| realisable | the inputs it keeps; the outputs that its reader keeps, if one convolution alone reads them |
| published | the same, of Conv2D operators as TensorFlow 1 ran them: see below |
| input_only | the inputs it keeps, and all outputs: what a network of masks or of picked inputs computes |

Only convolutions count: no dense layer, batch norm, bias or pooling. Where a residual sum, a concatenation or
several convolutions read an output, all of it counts; a network made slim leaves away what all readers agree
on, so it may need less than ``realisable`` says (`prunelab.flops.count` counts it).

``published`` gives the figures of the original's tables. It takes dilated convolutions for one phase of them,
as the operator inside of TensorFlow's space-to-batch was, leaves out depthwise ones, which were another
operator, and counts the first residual sum of the last stage of ImageNet's ResNets as if it could be pruned.

# H, W height and width of an output, k kernel, C channels in, O channels out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from channel_prune.model.resnet_v2 import ResNetV2
from prunelab.errors import UserError
from prunelab.report import Table, result_table
from prunelab.surgery import Graph, Node, trace
from prunelab.util import human_count

CONVENTIONS = ("realisable", "published", "input_only")
_PASSED = ("norm", "pointwise", "scale", "max_pool", "avg_pool", "adaptive_avg", "resize", "pad", "slice")
"""Kinds of nodes that an output goes through on its way to the convolution that reads it."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """What must be known of one to count it."""

    name: str
    """Its path."""
    inputs: int
    """C."""
    outputs: int
    """O."""
    taps: int
    """k k."""
    positions: int
    """H W."""
    phase: int
    """H W of the operator that TensorFlow 1 ran; another number only where it is dilated."""
    reader: str | None = None
    """The one convolution that reads its outputs; None: several do, or something else does."""
    depthwise: bool = False
    """One filter a channel."""
    counted_reader: str | None = None
    """The convolution by which its outputs are counted in ``published`` though others read them too."""


def convolutions(model: nn.Module, example: Tensor) -> list[Convolution]:
    """The convolutions of a network, in the order in which they run.

    Args:
        model: the network; its weights do not matter.
        example: an input (1, 3, H, W).

    Raises:
        UserError: it cannot be followed.
    """
    graph = trace(model, example)
    users = graph.users()
    counted = _counted_readers(model)
    return [_convolution(graph, node, users, counted) for node in graph.nodes.values() if node.kind == "conv"]


def _convolution(
    graph: Graph, node: Node, users: Mapping[str, Sequence[Node]], counted: Mapping[str, str]
) -> Convolution:
    module = graph.module(node)
    assert node.module is not None
    height, width = node.shape[2:]
    before = graph.nodes[node.inputs[0]].shape[2:]
    phases = [
        _phase(size, k, d) for size, k, d in zip(before, module.kernel_size, module.dilation, strict=True)
    ]
    dilated = any(each > 1 for each in module.dilation)
    return Convolution(
        name=node.module,
        inputs=module.in_channels,
        outputs=module.out_channels,
        taps=module.kernel_size[0] * module.kernel_size[1],
        positions=height * width,
        phase=phases[0] * phases[1] if dilated else height * width,
        reader=_reader(graph, node, users),
        depthwise=module.groups > 1,
        counted_reader=counted.get(node.module),
    )


def _phase(size: int, kernel: int, dilation: int) -> int:
    """Rows of a phase's output: the padded input is cut into every ``dilation``-th row."""
    padded = size + (kernel - 1) * dilation
    return -(-padded // dilation) - kernel + 1


def _reader(graph: Graph, node: Node, users: Mapping[str, Sequence[Node]]) -> str | None:
    """The one convolution that reads an output, also through depthwise ones."""
    while len(users[node.name]) == 1 and node.name not in graph.outputs:
        node = users[node.name][0]
        if node.kind == "conv":
            if graph.module(node).groups == 1:
                return node.module
        elif node.kind not in _PASSED:
            return None
    return None


def _counted_readers(model: nn.Module) -> dict[str, str]:
    """Of ImageNet's ResNets: the first sum of the last stage, as if one convolution alone read it."""
    if not isinstance(model, ResNetV2) or model.pool is None:
        return {}
    stage = len(model.stages) - 1
    block: Any = model.stages[stage]
    if len(block) < 2:
        return {}
    last = "conv2" if block[0].conv3 is None else "conv3"
    return {f"stages.{stage}.0.{name}": f"stages.{stage}.1.conv1" for name in ("shortcut", last)}


def macs(layers: Sequence[Convolution], kept: Mapping[str, int], convention: str = "realisable") -> int:
    """Multiply-adds of one picture.

    Args:
        layers: the network's convolutions.
        kept: numbers of input channels that are kept, by path; others keep all.
        convention: one of `CONVENTIONS`.

    Raises:
        UserError: another convention, or a path that is none of the layers'.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"convention is {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    names = {layer.name for layer in layers}
    if unknown := set(kept) - names:
        raise UserError(f"{min(unknown)!r} is no convolution that runs; these do: {', '.join(sorted(names))}")
    return sum(_of_layer(layer, kept, convention) for layer in layers)


def _of_layer(layer: Convolution, kept: Mapping[str, int], convention: str) -> int:
    reader = layer.reader
    if convention == "published":
        if layer.depthwise:
            return 0
        reader = layer.counted_reader or reader
    outputs = layer.outputs
    if convention != "input_only" and reader is not None:
        outputs = kept.get(reader, outputs)
    positions = layer.phase if convention == "published" else layer.positions
    if layer.depthwise:
        return positions * layer.taps * outputs
    return positions * layer.taps * kept.get(layer.name, layer.inputs) * outputs


def numbers_kept(layers: Sequence[Convolution], ratios: Mapping[str, float]) -> dict[str, int]:
    """How many inputs are kept where each convolution loses a share of them, as the original rounds."""
    channels = {layer.name: layer.inputs for layer in layers}
    return {name: max(1, int(channels[name] * (1.0 - ratio))) for name, ratio in ratios.items()}


def macs_table(
    model: nn.Module, example: Tensor, kept: Mapping[str, Sequence[int]], *, first: str = "realisable"
) -> Table:
    """Multiply-adds of a full and a pruned network, a line for each convention.

    Args:
        model: the network, full or masked.
        example: an input (1, 3, H, W).
        kept: input channels that are kept, by path.
        first: the convention whose line comes first.

    Raises:
        UserError: see `convolutions` and `macs`.
    """
    layers = convolutions(model, example)
    numbers = {name: len(channels) for name, channels in kept.items()}
    order = [first, *(name for name in CONVENTIONS if name != first)]
    rows = []
    for convention in order:
        dense, pruned = macs(layers, {}, convention), macs(layers, numbers, convention)
        rows.append([convention, dense, pruned, pruned / dense])
    return result_table(
        "multiply-adds of the convolutions",
        ["convention", "full", "pruned", "left"],
        rows,
        formats={"full": human_count, "pruned": human_count, "left": ".2%"},
    )
