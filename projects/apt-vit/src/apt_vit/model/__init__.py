"""The networks of apt-vit, one file each."""

from __future__ import annotations

import torch

from apt_vit.config import ModelConfig
from apt_vit.model.agent import Agent
from apt_vit.model.vit import Block, VisionTransformer

__all__ = ["Agent", "Block", "VisionTransformer", "build"]


def build(cfg: ModelConfig, *, fresh: bool = True) -> VisionTransformer:
    """Build the network that a configuration describes, on torch's default device, in train mode.

    The device may be ``meta``; the network has shapes only there.

    Args:
        cfg: sizes.
        fresh: draw weights, as the original does and in its order. False leaves memory as it is, which is
            faster, for a network whose weights are loaded next.

    Raises:
        UserError: the sizes make no network, such as a picture without a patch.
    """
    if fresh:
        return VisionTransformer(cfg)
    device = torch.get_default_device()
    with torch.device("meta"):
        model = VisionTransformer(cfg)
    return model.to_empty(device=device)
