"""The networks, one file each, and how each is made from a configuration."""

from __future__ import annotations

from pathlib import Path

from acosp_seg.config import ModelConfig
from acosp_seg.model.checkpoint import load_original
from acosp_seg.model.network import Network
from acosp_seg.model.pspnet import PSPNet
from acosp_seg.model.resnet18 import ResNet18
from acosp_seg.model.segnet import SegNet

NETWORKS = {"psp": PSPNet, "segnet": SegNet, "resnet18": ResNet18}
"""Networks by the name that a configuration has for them."""

__all__ = ["NETWORKS", "Network", "PSPNet", "ResNet18", "SegNet", "build"]


def build(cfg: ModelConfig, *, criterion_ignore: int = 255) -> Network:
    """Build the network of a configuration, dense, on the default device (under ``torch.device`` on another).

    Its first weights are random; those of trunk or encoder come from the file that ``cfg.pretrained`` names.

    Args:
        cfg: what is built.
        criterion_ignore: label that does not count in the loss.

    Raises:
        UserError: a number of layers that does not exist, or a file that does not fit.
    """
    model = NETWORKS[cfg.arch](cfg, criterion_ignore)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if cfg.pretrained and not on_meta:  # without memory there is nothing to load into
        load_original(model, Path(cfg.pretrained))
    return model
