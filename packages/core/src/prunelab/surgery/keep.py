"""Keep-lists as plain data, and layers with fewer channels.

A structure says for each module what is left of it::

    {"conv1": {"out": [0, 2, 5]}, "bn1": {"out": [0, 2, 5]}, "conv2": {"in": [0, 2, 5]}}

`resize` brings a freshly built, dense network to the shapes of a structure, so that weights load strictly.

# O outputs, I inputs of a layer, G groups
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError

Kept: TypeAlias = dict[str, list[int]]
"""Of one module: ``out`` and ``in``, the channels that are left; ``select``, the places of what arrives that
it reads; ``zero``, columns (places in ``in``) whose weights are zero. What is not said stays whole."""

Structure: TypeAlias = dict[str, Kept]
"""By the module's path."""


class SelectConv2d(nn.Conv2d):
    """A convolution that reads some of the channels that arrive, those at ``select``."""

    select: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Read the channels at ``select``, then convolve."""
        return super().forward(input.index_select(1, self.select))


class SelectConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that reads some of the channels that arrive, those at ``select``."""

    select: Tensor

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Read the channels at ``select``, then convolve."""
        return super().forward(input.index_select(1, self.select), output_size)


class SelectLinear(nn.Linear):
    """A linear layer that reads some of the features that arrive, those at ``select``."""

    select: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Read the features at ``select``, then multiply."""
        return super().forward(input.index_select(1, self.select))


_SELECTING: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: SelectConv2d,
    nn.ConvTranspose2d: SelectConvTranspose2d,
    nn.Linear: SelectLinear,
}


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
        _select(path, module, kept["select"])


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


def _select(path: str, module: nn.Module, places: Sequence[int]) -> None:
    """Let a module read some of the channels that arrive."""
    base = next((base for base in _SELECTING if isinstance(module, base)), None)
    if base is None or type(module).forward is not base.forward:
        raise UserError(f"{path}: a {type(module).__name__} cannot read a part of its input's channels")
    module.__class__ = _SELECTING[base]
    weight: Any = module.weight
    module.register_buffer("select", torch.tensor(places, dtype=torch.long, device=weight.device))
