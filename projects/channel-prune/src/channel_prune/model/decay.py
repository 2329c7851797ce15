"""Which weights decay, and how much."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from channel_prune.config import OptimConfig

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def decay_factors(model: nn.Module, cfg: OptimConfig) -> dict[str, float]:
    """The factor of each parameter in the loss's sum of squares, by name.

    A network may have ``decay_factors`` itself, for weights that decay less than others (by name; the rest
    have 1). Scales and shifts of normalisation decay where the configuration says so, and so do biases.
    """
    special: dict[str, float] = getattr(model, "decay_factors", dict)()
    norms = {path for path, module in model.named_modules() if isinstance(module, NORMS)}
    factors = {}
    for name, _ in model.named_parameters():
        owner, _, last = name.rpartition(".")
        decays = cfg.decay_norms if owner in norms else cfg.decay_biases or last != "bias"
        factors[name] = special.get(name, 1.0) if decays else 0.0
    return factors


def decay_groups(model: nn.Module, cfg: OptimConfig) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer, each with its ``weight_decay``.

    Within a group, and from group to group, parameters are in the order of the network.
    """
    groups: dict[float, dict[str, Any]] = {}
    factors = decay_factors(model, cfg)
    for name, parameter in model.named_parameters():
        decay = cfg.loss_w_dcy * factors[name]
        groups.setdefault(decay, {"params": [], "weight_decay": decay})["params"].append(parameter)
    return list(groups.values())
