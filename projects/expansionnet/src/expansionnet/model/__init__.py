"""The networks of expansionnet, one file each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from expansionnet.config import ModelConfig
from expansionnet.model.body import ExpansionNet
from expansionnet.model.initialise import initialise

__all__ = ["ExpansionNet", "build"]


def build(cfg: ModelConfig, *, fresh: bool = True) -> ExpansionNet:
    """Build the captioner that a configuration describes, on torch's default device.

    The device may be ``meta``; the network has shapes only there.

    Args:
        cfg: sizes; ``vocab_size`` and ``max_seq_len`` are at least 1. With ``is_end_to_end`` the backbone is
            part of the network, as ``swin_transf``.
        fresh: draw weights. False leaves memory as it is, which is much faster, for a network whose weights
            are loaded next.

    Raises:
        ValueError: the vocabulary or the number of positions is not known yet.
    """
    for name in ("vocab_size", "max_seq_len"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} is {getattr(cfg, name)}, expected at least 1")
    device = torch.get_default_device()
    with torch.device("meta"), _Undrawn():
        model = ExpansionNet(cfg)
    if device.type != "meta":
        materialise(model, device)
        if fresh:
            initialise(model)
    return model


class _Undrawn(TorchFunctionMode):
    """Modules draw no weights, since they would be overwritten.

    On the meta device drawing is not free: the first normal number there loads torch's whole compiler, which
    takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def materialise(module: nn.Module, device: torch.device) -> None:
    """Give a module of the meta device memory; weights are not set, constants are.

    Args:
        module: changed in place.
        device: where it goes.
    """
    module.to_empty(device=device)
    for part in module.modules():
        if hasattr(part, "init_non_persistent_buffers"):  # timm's: indices and masks of the windows
            part.init_non_persistent_buffers()  # pyright: ignore[reportCallIssue]
