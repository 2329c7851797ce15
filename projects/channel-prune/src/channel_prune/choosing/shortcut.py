"""Where residual branches end: which convolution can make up for the error of the branch beside it.

A branch ends in ``convolution [-> batch norm] -> addition``. What the addition's other side has become in the
pruned network is known when that convolution is refitted, if it is computed without convolutions that are
pruned later; then the target of the convolution grows by what is missing there,
``(full - pruned) * sqrt(var + eps) / gamma``, and by the plain difference where no batch norm stands between.

# O channels of both sides
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.surgery import Graph, Node


@dataclass(frozen=True, kw_only=True)
class Branch:
    """The end of a residual branch."""

    conv: str
    """Path of its last convolution."""
    norm: str | None
    """Path of the batch norm behind that."""
    other: str
    """Name, in the graph, of the tensor that is added."""


def branches(graph: Graph) -> dict[str, Branch]:
    """The ends of residual branches, by the path of their last convolution."""
    users = graph.users()
    found: dict[str, Branch] = {}
    for node in graph.nodes.values():
        if node.kind != "conv" or node.module is None:
            continue
        norm, end = None, node
        after = _only_user(users, end)
        if after is not None and after.kind == "norm" and after.module is not None:
            norm, end = after.module, after
            after = _only_user(users, end)
        if after is None or after.kind != "add" or len(after.inputs) != 2:
            continue
        other = after.inputs[1 - after.inputs.index(end.name)]
        if other != end.name and graph.nodes[other].shape == end.shape:
            found[node.module] = Branch(conv=node.module, norm=norm, other=other)
    return found


def _only_user(users: dict[str, list[Node]], node: Node) -> Node | None:
    readers = users[node.name]
    return readers[0] if len(readers) == 1 else None


def factor(model: nn.Module, branch: Branch) -> Tensor | float:
    """What a difference behind the batch norm is before it (O,); 0 for channels that it switches off."""
    if branch.norm is None:
        return 1.0
    norm: Any = model.get_submodule(branch.norm)
    deviation = (norm.running_var.detach() + norm.eps).sqrt()
    if norm.weight is None:
        return deviation
    gamma = norm.weight.detach()
    small = gamma.abs() <= 1e-3 * gamma.abs().max()
    return torch.where(small, 0.0, deviation / torch.where(small, 1.0, gamma))
