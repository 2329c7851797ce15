"""Between networks with hard masks and slim ones, which train on with only the kept channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from acosp.inject import masked_convs, replace
from acosp.masking import MaskingSequential
from acosp.structure import apply_structure, phase
from acosp_seg.model import Network, build
from prunelab.errors import UserError
from prunelab.optim import carry_state
from prunelab.surgery.slim import cut_of, slim, slim_layers, slim_structure, whole_state


def is_slim(model: torch.nn.Module) -> bool:
    """Whether a network is a slim one."""
    return bool(slim_layers(model))


def slim_for_training(model: Network) -> Network:
    """Make a network with hard masks slim, in place: the same mathematics, on the kept channels alone.

    Masks leave, and with them one level of names: ``X.0.weight`` becomes ``X.weight``, with fewer rows.

    Raises:
        UserError: the masks are soft, or there are none.
    """
    if phase(model) != "hard":
        raise UserError(f"slim_after_pruning: the network is {phase(model)}, expected hard masks")
    kept = {name: module.mask.nonzero().flatten().tolist() for name, module in masked_convs(model)}
    replace(model, lambda module: isinstance(module, MaskingSequential), lambda _, module: module[0])  # pyright: ignore[reportIndexIssue]
    slim(model, kept)
    return model


def structure_of(model: Network) -> dict[str, Any]:
    """Plain data by which `apply_slim` gives a freshly built network the same shapes."""
    return {"kept": slim_structure(model)}


def apply_slim(model: Network, data: Mapping[str, Any]) -> Network:
    """Give a freshly built, dense network the shapes of a slim one, in place; its weights load strictly.

    Batch norms that are to be synchronised must be so before.
    """
    slim(model, data["kept"])
    return model


def carry_optimizer(
    old: Optimizer, new: Optimizer, before: Mapping[str, Tensor], model: Network
) -> list[str]:
    """Give an optimiser of the slim network the momentum that its parameters had before.

    Args:
        old: of the network with masks.
        new: of the slim network.
        before: parameters by name before `slim_for_training` (``dict(model.named_parameters())``).
        model: the slim network.

    Returns:
        Names of the parameters whose state was carried.
    """
    layers = slim_layers(model)
    renamed = {}
    for name, parameter in before.items():
        owner, _, last = name.rpartition(".")
        inner = owner.removesuffix(".0")
        renamed[f"{inner}.{last}" if inner != owner and inner in layers else name] = parameter
    return carry_state(old, new, renamed, dict(model.named_parameters()), cut_of(model))


def masked_again(model: Network) -> Network:
    """A new network with hard masks that computes what a slim one does; pruned filters are zeros.

    It is what files of the original hold, and what becomes compact.
    """
    layers = slim_layers(model)
    parameter = next(model.parameters())
    masked = build(model.cfg, criterion_ignore=model.criterion.ignore_index)
    facts = {name: {"kind": "hard", "channels": layer.width} for name, layer in layers.items()}
    apply_structure(masked, {"layers": facts, "frozen": []})
    masked = masked.to(parameter.device, parameter.dtype).train(model.training)
    state = whole_state(model)
    renamed = {}
    for name, value in state.items():
        owner, _, last = name.rpartition(".")
        renamed[f"{owner}.0.{last}" if owner in layers else name] = value
    for name, layer in layers.items():
        mask = torch.zeros(layer.width)
        mask[list(layer.kept)] = 1
        renamed[f"{name}.1.mask"] = mask
    masked.load_state_dict(renamed)
    return masked
