"""What masks a model has, as plain data, and a dense model given the same masks again.

A model is ``dense`` (no masks), ``soft``, ``hard``, or ``sparse`` (`ChannelSparseConv`). Shapes and names of
its state dict follow from that, so a saved model is rebuilt, given its structure, and then loaded strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from acosp.conv import PRUNABLE
from acosp.inject import replace
from acosp.masking import MaskingSequential
from acosp.soft_topk import ChannelMaskLayer, SigmoidSoftTopK, SoftTopK, group, mask_dtype
from acosp.sparse_conv import ChannelSparseConv

_SCHEDULE = ("initial_temperature", "final_temperature", "min_step", "max_step")


def phase(model: nn.Module) -> str:
    """``soft`` if any mask is soft, else ``hard`` if there are masks, else ``sparse`` or ``dense``."""
    found = {_kind(module) for module in model.modules()}
    return next((kind for kind in ("soft", "hard", "sparse") if kind in found), "dense")


def _kind(module: nn.Module) -> str:
    if isinstance(module, SoftTopK):
        return "soft"
    if isinstance(module, ChannelMaskLayer):
        return "hard"
    return "sparse" if isinstance(module, ChannelSparseConv) else ""


def structure(model: nn.Module) -> dict[str, Any]:
    """Everything about a model's masks that its state dict does not hold.

    Returns:
        ``phase``; ``layers``, by name of the convolution, each with its ``kind`` and ``channels``, soft ones
        with ``k``, ``temperature``, schedule and ``learnable``, sparse ones with ``indices``; ``frozen``, the
        names of parameters that are not trained. Numbers, strings, lists and mappings only.
    """
    layers: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, MaskingSequential):
            layers[name] = _describe(module[1])
        elif isinstance(module, ChannelSparseConv):
            layers[name] = {
                "kind": "sparse",
                "channels": module.width,
                "indices": module.indices.tolist(),
            }
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return {"phase": phase(model), "layers": layers, "frozen": frozen}


def _describe(layer: nn.Module) -> dict[str, Any]:
    assert isinstance(layer, ChannelMaskLayer)
    if not isinstance(layer, SoftTopK):
        return {"kind": "hard", "channels": layer.channels}
    if not isinstance(layer, SigmoidSoftTopK):
        raise ValueError(f"the structure of a model with masks of {type(layer).__name__} cannot be written")
    return {
        "kind": "soft",
        "channels": layer.channels,
        "k": layer.k,
        "temperature": layer.current_temperature,
        "learnable": layer.learnable,
        **{key: getattr(layer, key) for key in _SCHEDULE},
    }


def apply_structure(model: nn.Module, data: Mapping[str, Any]) -> None:
    """Give a freshly built dense model the masks of ``data``, so that a saved state dict loads strictly.

    No random numbers are drawn: masks are ones and logits zeros until they are loaded.

    Args:
        model: Changed in place.
        data: What `structure` gave for a model built in the same way.

    Raises:
        ValueError: the model has masks already, or has no such convolution.
    """
    if phase(model) != "dense":
        raise ValueError(f"the model has masks already ({phase(model)}); a freshly built one was expected")
    wanted = {id(_conv_at(model, name, facts["channels"])): facts for name, facts in data["layers"].items()}

    def build(name: str, conv: nn.Module) -> nn.Module:
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        return _build(conv, wanted[id(conv)]).train(conv.training)

    replace(model, lambda module: id(module) in wanted, build)
    group(model)
    frozen = set(data["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _conv_at(model: nn.Module, name: str, channels: int) -> nn.Conv2d | nn.ConvTranspose2d:
    try:
        conv = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the model has no convolution {name!r}, which the structure names") from None
    if not isinstance(conv, PRUNABLE):
        raise ValueError(f"{name!r} is a {type(conv).__name__}, where the structure has a masked convolution")
    if conv.out_channels != channels:
        raise ValueError(f"{name!r} has {conv.out_channels} channels, where the structure has {channels}")
    return conv


def _build(conv: nn.Conv2d | nn.ConvTranspose2d, facts: Mapping[str, Any]) -> nn.Module:
    if facts["kind"] == "sparse":
        return ChannelSparseConv(torch.tensor(facts["indices"]), conv)
    if facts["kind"] == "hard":
        layer = ChannelMaskLayer(torch.ones(facts["channels"]))
    elif facts["kind"] == "soft":
        layer = SigmoidSoftTopK(
            facts["channels"],
            facts["k"],
            learnable_weights=facts["learnable"],
            drawn=False,
            **{key: facts[key] for key in _SCHEDULE},
        )
        layer.current_temperature = facts["temperature"]
    else:
        raise ValueError(f"kind is {facts['kind']!r}, expected soft, hard or sparse")
    return MaskingSequential(conv, layer.to(conv.weight.device, mask_dtype(conv)))
