"""The networks of channel-prune, one file each, and how a configuration builds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_prune.config import FOREIGN, NetConfig

if TYPE_CHECKING:
    from torch import nn

    from prunelab.surgery import Structure


def build(cfg: NetConfig, structure: Structure | None = None) -> nn.Module:
    """The network of a configuration, with new weights; only its own file is imported.

    A network that the original has too says by ``original_names()`` what its weights are called there, and
    each of this project's by ``prune_order()`` which convolutions are pruned, in which order.

    Args:
        cfg: which one, and its sizes.
        structure: channels that are left of each layer (`prunelab.surgery.resize`); None: all of them.

    Raises:
        UserError: there is no such network, or the structure is of another one.
    """
    model = _build(cfg)
    if structure is None:
        return model
    from prunelab.surgery import resize

    return resize(model, structure)


def _build(cfg: NetConfig) -> nn.Module:
    if cfg.name.startswith(FOREIGN):
        from channel_prune.model.foreign import foreign

        return foreign(cfg)
    match cfg.name:
        case "resnet_v2":
            from channel_prune.model.resnet_v2 import resnet_v2

            return resnet_v2(cfg)
        case "tiny":
            from channel_prune.model.resnet_v2 import tiny

            return tiny(cfg)
        case "resnet_v1":
            from channel_prune.model.resnet_v1 import resnet_v1

            return resnet_v1(cfg)
        case "mobilenet_v1":
            from channel_prune.model.mobilenet_v1 import mobilenet_v1

            return mobilenet_v1(cfg)
        case "mobilenet_v2":
            from channel_prune.model.mobilenet_v2 import mobilenet_v2

            return mobilenet_v2(cfg)
    from channel_prune.model.ssd import ssd_vgg16

    return ssd_vgg16(cfg)
