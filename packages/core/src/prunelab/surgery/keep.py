"""Keep-lists as plain data, and layers with fewer channels.

A structure says for each module what is left of it::

    {"conv1": {"out": [0, 2, 5]}, "bn1": {"out": [0, 2, 5]}, "conv2": {"in": [0, 2, 5]}}

`resize` brings a freshly built, dense network to the shapes of a structure, so that weights load strictly.

# O outputs, I inputs of a layer, G groups
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError

Kept: TypeAlias = dict[str, list[int]]
"""Of one module: ``out`` and ``in``, the channels that are left; ``select``, the places of what arrives that
it reads; ``zero``, columns (places in ``in``) whose weights are zero. What is not said stays whole."""

Structure: TypeAlias = dict[str, Kept]
"""By the module's path."""


def take_channels(x: Tensor, index: Tensor) -> Tensor:
    """``x.index_select(1, index)``; with channels last it stays so, and is several times as fast.

    Args:
        x: (B, C, ...).
        index: Channels (K,).
    """
    recorded = torch.compiler.is_compiling() or torch.compiler.is_exporting() or isinstance(x, fx.Proxy)
    if recorded or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x.index_select(1, index)
    rows = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    taken = rows.reshape(-1, x.shape[1]).index_select(1, index)  # (B H W, K)
    return taken.view(*rows.shape[:3], -1).permute(0, 3, 1, 2)


class Selecting:
    """Put before a layer's class: it reads some of the channels that arrive, those at ``select``."""

    select: Tensor

    def forward(self, input: Tensor, *rest: Any) -> Tensor:
        """Read the channels at ``select``, then do what the layer does."""
        layer: Any = super()
        return layer.forward(take_channels(input, self.select), *rest)


@cache
def _selecting(layer: type[nn.Module]) -> type[nn.Module]:
    """The class of layers that do what ``layer`` does with some of the channels."""
    return type(f"Select{layer.__name__}", (Selecting, layer), {"__module__": __name__})


def resize(model: nn.Module, structure: Mapping[str, Mapping[str, Sequence[int]]]) -> nn.Module:
    """Give the modules of a dense network the shapes of a structure, in place; weights are sliced along.

    Args:
        model: The network as it was before it was made smaller.
        structure: What is left of it.

    Returns:
        The same network.

    Raises:
        UserError: The structure names a module or a channel that is not there.
    """
    modules = dict(model.named_modules())
    for path, kept in structure.items():
        if path not in modules:
            raise UserError(f"the structure names the module {path!r}, which {type(model).__name__} lacks")
        _resize_module(path, modules[path], {name: list(places) for name, places in kept.items()})
    return model


def _resize_module(path: str, module: nn.Module, kept: Kept) -> None:
    for side, size in _widths(module).items():
        out_of_range = [c for c in kept.get(side, ()) if not 0 <= c < size]
        if out_of_range:
            raise UserError(f"{path}: the structure keeps {side} channel {out_of_range[0]}, it has {size}")
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        _resize_convolution(module, kept)
    elif isinstance(module, nn.Linear):
        _slice(module, "weight", 0, kept.get("out"))
        _slice(module, "weight", 1, kept.get("in"))
        _slice(module, "bias", 0, kept.get("out"))
        module.out_features, module.in_features = module.weight.shape
    else:
        for name in ("weight", "bias", "running_mean", "running_var", "mask"):
            _slice(module, name, 0, kept.get("out"))
        if isinstance(module, _BatchNorm):
            module.num_features = len(kept["out"])
    if kept.get("zero"):
        with torch.no_grad():
            axis = 0 if isinstance(module, nn.ConvTranspose2d) else 1
            weight: Any = module.weight
            weight.index_fill_(axis, torch.tensor(kept["zero"], device=weight.device), 0)
    if "select" in kept:
        _select(module, kept["select"])


def _widths(module: nn.Module) -> dict[str, int]:
    """How many channels a module has on each side."""
    match module:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return {"in": module.in_channels, "out": module.out_channels}
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case _BatchNorm():
            return {"out": module.num_features}
    return {}


def _resize_convolution(module: nn.Conv2d | nn.ConvTranspose2d, kept: Kept) -> None:
    """Slice W, (O, I / G, h, w) or transposed (I, O / G, h, w); equal places stay in each of its groups."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    outs = kept.get("out", list(range(module.out_channels)))
    ins = kept.get("in", list(range(module.in_channels)))
    outer, inner = (ins, outs) if transposed else (outs, ins)
    old = module.groups
    width = (module.out_channels if transposed else module.in_channels) // old
    if old == 1:
        columns = inner
    elif old == module.in_channels:  # depthwise: one group a channel
        module.groups, columns = len(ins), list(range(width))
    else:
        columns = inner[: len(inner) // old]
    _slice(module, "weight", 0, outer)
    _slice(module, "weight", 1, columns)
    _slice(module, "bias", 0, outs)
    module.out_channels, module.in_channels = len(outs), len(ins)


def _slice(module: nn.Module, name: str, axis: int, places: Sequence[int] | None) -> None:
    """Keep these places of a parameter or buffer, where there is one."""
    old = getattr(module, name, None)
    if places is None or not isinstance(old, Tensor):
        return
    new = old.detach().index_select(axis, torch.tensor(places, dtype=torch.long, device=old.device))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


def _select(module: nn.Module, places: Sequence[int]) -> None:
    """Let a layer read some of the channels that arrive."""
    weight: Any = module.weight
    chosen = torch.tensor(places, dtype=torch.long, device=weight.device)
    if isinstance(module, Selecting):
        chosen = module.select[chosen]
    else:
        module.__class__ = _selecting(type(module))
    module.register_buffer("select", chosen)
