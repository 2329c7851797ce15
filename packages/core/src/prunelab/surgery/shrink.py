"""Remove channels from any network: producers make fewer, consumers read fewer, results stay the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.surgery.channels import MAKING, Channels
from prunelab.surgery.graph import Graph, MaskOf, Node, channel_mask
from prunelab.surgery.keep import Kept, Structure, resize
from prunelab.surgery.tracing import trace

Keep = Mapping[str, Mapping[str, Sequence[int]]]
"""By a layer's path: ``{"in": [...]}``, the channels it reads (its other weight columns count as zero), or
``{"out": [...]}``, the channels it makes (no layer behind it reads the others)."""


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A smaller network."""

    model: nn.Module
    """A copy of the network with fewer channels; its code and the names of its weights are the same."""
    structure: Structure
    """What is left of each module that changed, as plain data (`prunelab.surgery.resize`)."""


@torch.inference_mode(False)  # the new network is one like any other
def shrink(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    keep: Keep,
    *,
    round_to: int = 1,
    mask_of: MaskOf = channel_mask,
) -> Shrunk:
    """Make a network smaller by keep-lists.

    A channel goes where nothing reads it any more; what is added together is kept or removed together. Where
    consumers of one tensor disagree, what any of them reads is made, and those that read less of it pick
    their channels. Results equal those of the network whose unread weight columns are zero.

    Args:
        model: The network; it stays as it is.
        example: Its input, or inputs.
        keep: Keep-lists. Layers whose channels are coupled (added together, say) may each have an ``out``
            list: a channel stays if one of them keeps it.
        round_to: Raise the number of channels that a layer makes to a multiple of this, with channels whose
            weight columns are zero in all consumers.
        mask_of: How masks are recognised.

    Raises:
        UserError: A list names a layer or channel that is not there, a channel that cannot go because the
            network returns it or an operation of unknown kind reads it, or leaves a layer nothing.
    """
    graph = trace(model, example, mask_of=mask_of)
    plan = _Plan(graph, Channels(graph), keep, round_to)
    structure = plan.structure()
    return Shrunk(model=resize(copy.deepcopy(model), structure), structure=structure)


class _Plan:
    """What stays, channel by channel."""

    def __init__(self, graph: Graph, channels: Channels, keep: Keep, round_to: int) -> None:
        self.graph, self.channels, self.keep = graph, channels, keep
        self.layers = [node for node in graph.nodes.values() if node.kind in MAKING]
        self._check_names()
        gone = self._gone()
        self.reads = {node.name: self._reads(node, gone) for node in self.layers}
        self.needed = torch.zeros(channels.count, dtype=torch.bool)
        self.needed[list(channels.fixed)] = True
        for node in self.layers:
            if not self._depthwise(node):
                self.needed[channels.of(node.inputs[0])[self.reads[node.name]]] = True
        self.made = self._rounded(round_to)

    def _check_names(self) -> None:
        paths = {node.module for node in self.layers}
        for path in self.keep:
            if path not in paths:
                raise UserError(
                    f"keep-list of {path!r}: {type(self.graph.model).__name__} calls no such layer"
                )

    def _depthwise(self, node: Node) -> bool:
        groups = getattr(self.graph.module(node), "groups", 1)
        return groups > 1 and groups == self.graph.nodes[node.inputs[0]].channels

    def _listed(self, node: Node, side: str, size: int) -> Tensor | None:
        """A keep-list as a mask."""
        assert node.module is not None
        listed = self.keep.get(node.module, {}).get(side)
        if listed is None:
            return None
        wrong = [channel for channel in listed if not 0 <= channel < size]
        if wrong or not listed:
            what = f"channel {wrong[0]}" if wrong else "nothing"
            raise UserError(f"keep-list of {node.module!r}: it keeps {what}, its {side}puts are {size}")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[list(listed)] = True
        return mask

    def _gone(self) -> Tensor:
        """Channels that no ``out`` list of those which speak of them keeps."""
        kept = torch.zeros(self.channels.count, dtype=torch.bool)
        spoken = torch.zeros(self.channels.count, dtype=torch.bool)
        for node in self.layers:
            mask = self._listed(node, "out", node.channels)
            if mask is not None:
                ids = self.channels.of(node.name)
                spoken[ids] = True
                kept[ids[mask]] = True
                stuck = self.channels.fixed & set(ids[~mask].tolist())
                if stuck:
                    raise UserError(
                        f"keep-list of {node.module!r}: its other channels cannot go, "
                        "they are a result of the network or are read in a way that is not understood"
                    )
        return spoken & ~kept

    def _reads(self, node: Node, gone: Tensor) -> Tensor:
        """Which of the channels that arrive a layer reads (I,)."""
        source = self.graph.nodes[node.inputs[0]]
        mask = self._listed(node, "in", source.channels)
        ids = self.channels.of(source.name)
        alive = ~gone[ids]
        if mask is None:
            return alive
        if self._depthwise(node):
            raise UserError(
                f"keep-list of {node.module!r}: a depthwise convolution reads what it makes, "
                "expected an out list"
            )
        groups = getattr(self.graph.module(node), "groups", 1)
        if groups > 1 and not (mask.view(groups, -1) == mask[: len(mask) // groups]).all():
            raise UserError(
                f"keep-list of {node.module!r}: its inputs are in {groups} groups, "
                "expected the same places in each of them"
            )
        return alive & mask

    def _rounded(self, round_to: int) -> Tensor:
        """What is made: what is needed, and what rounding adds."""
        made = self.needed.clone()
        for node in self.layers:
            ids = self.channels.of(node.name).unique()
            have = int(made[ids].sum())
            if have == 0:
                raise UserError(f"{node.module}: the keep-lists leave nothing of it that anything reads")
            wanted = min(-(-have // round_to) * round_to, len(ids))
            made[ids[~made[ids]][: wanted - have]] = True
        return made

    def structure(self) -> Structure:
        """The modules that change."""
        found: Structure = {}
        for node in self.graph.nodes.values():
            if node.module is None or node.kind not in MAKING | {"norm", "scale"}:
                continue
            kept = self._kept(node)
            if kept:
                found[node.module] = kept
        return found

    def _kept(self, node: Node) -> Kept:
        kept: Kept = {}
        made = self.made[self.channels.of(node.name)]
        if not made.all():
            kept["out"] = _places(made)
        if node.kind not in MAKING:
            return kept
        ids = self.channels.of(node.inputs[0])
        arriving, reads = self.made[ids], self.reads[node.name]
        if self._depthwise(node):
            return {**kept, "in": _places(arriving)} if kept else kept
        unread = arriving & ~reads
        if (unread & self.needed[ids]).any():  # another consumer needs what this one does not
            kept["in"] = _places(arriving & reads)
            kept["select"] = _places(reads[arriving])
        else:
            if not arriving.all():
                kept["in"] = _places(arriving)
            if unread.any():
                groups = getattr(self.graph.module(node), "groups", 1)
                zero = unread[arriving]
                kept["zero"] = _places(zero[: len(zero) // groups])
        return kept


def _places(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()
