"""Which convolutions lose input channels, in which order, and how many of them each.

All of them but depthwise ones, in the order in which the network runs them (or says itself by
``prune_order()``). A ratio of 0 does not leave a layer out: it keeps its channels, and is refitted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune.config import PruneConfig
from prunelab.errors import UserError
from prunelab.modes import evaluating


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution whose input channels can be pruned."""

    name: str
    """Its path in the network."""
    conv: nn.Conv2d
    """The module itself."""
    original: str | None = None
    """What the original calls its kernel; None for networks that it does not have."""


def prunable(model: nn.Module, example: Tensor, order: Sequence[str] | None = None) -> list[Layer]:
    """The convolutions that can be pruned, in order.

    Args:
        model: the network; it runs once, in evaluation mode.
        example: an input (B, 3, H, W).
        order: paths in the order in which they are to be treated; None: what the network's own
            ``prune_order()`` says, else the order in which it runs them.

    Raises:
        UserError: a convolution in groups that is not depthwise, a path that is no convolution that runs, or
            nothing to prune.
    """
    runs = _runs(model, example)
    own: Any = getattr(model, "prune_order", None)
    given = order if order is not None else own() if own is not None else None
    names = list(runs) if given is None else list(given)
    modules = dict(model.named_modules())
    for name in names:
        if name not in runs:
            raise UserError(
                f"{name!r} is no convolution of {type(model).__name__}; it runs {', '.join(runs)}"
            )
    originals: Any = getattr(model, "original_names", dict)()
    layers = []
    for name in names:
        conv = modules[name]
        assert isinstance(conv, nn.Conv2d)
        if conv.groups == conv.in_channels > 1:
            continue  # depthwise: its channels are those of the convolution before it
        if conv.groups != 1:
            raise UserError(
                f"{name}: a convolution of {conv.groups} groups and {conv.in_channels} channels; "
                "expected one group, or a depthwise one"
            )
        if runs[name] > 1:
            raise UserError(f"{name} runs {runs[name]} times in one pass; expected once")
        layers.append(Layer(name=name, conv=conv, original=originals.get(f"{name}.weight")))
    if not layers:
        raise UserError(f"{type(model).__name__} has no convolution that can be pruned")
    return layers


def _runs(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each convolution runs, in the order in which they first do."""
    counts: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> Any:
        def run(*_: Any) -> None:
            counts[name] = counts.get(name, 0) + 1

        return module.register_forward_pre_hook(run)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(watch(name, module))
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def ratios(layers: Sequence[Layer], cfg: PruneConfig, scope: str = "pruned_model") -> list[float]:
    """How much of each layer's input channels goes.

    Args:
        layers: in order.
        cfg: the ratio and its exceptions, or a list with one for each layer.
        scope: what the original's names begin with.

    Raises:
        UserError: a list of another length, or a name to skip that no layer has.
    """
    if cfg.ratio_list is not None:
        if len(cfg.ratio_list) != len(layers):
            raise UserError(
                f"ratio_list has {len(cfg.ratio_list)} ratios, expected {len(layers)}, one for each of "
                f"{', '.join(layer.name for layer in layers)}"
            )
        return list(cfg.ratio_list)
    found = [cfg.prune_ratio] * len(layers)
    if cfg.skip_frst_layer:
        found[0] = 0.0
    if cfg.skip_last_layer:
        found[-1] = 0.0
    if cfg.skip_op_names is not None:
        for text in cfg.skip_op_names.split(","):
            hits = [i for i, layer in enumerate(layers) if _is_named(layer, text, cfg.skip_match, scope)]
            if not hits:
                known = ", ".join(
                    f"{one.name} ({one.original})" if one.original else one.name for one in layers
                )
                raise UserError(f"skip_op_names: {text!r} is in the name of no layer; they are {known}")
            for place in hits:
                found[place] = 0.0
    return found


def _is_named(layer: Layer, text: str, match: str, scope: str) -> bool:
    """Whether one of a layer's names has this in it."""
    names = [layer.name]
    if layer.original is not None:
        names.append(f"{scope}/{layer.original}/read:0")
    if match == "substring":
        return any(text in name for name in names)
    wanted = re.split("[./]", text)
    for name in names:
        parts = re.split("[./]", name)
        if any(parts[i : i + len(wanted)] == wanted for i in range(len(parts))):
            return True
    return False
