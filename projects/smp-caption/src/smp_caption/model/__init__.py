"""The captioning networks, one file for each family."""

from __future__ import annotations

from prunelab.errors import UserError
from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model.network import Inputs, Network
from smp_caption.model.up_down import UpDown

AVAILABLE = ("up_down_lstm", "up_down_lstm_prune")
"""Values of ``caption_model`` that can be built."""

__all__ = ["AVAILABLE", "Inputs", "Network", "UpDown", "build"]


def build(cfg: ModelConfig, mask_spec: MaskSpec | None = None) -> Network:
    """Build the network that a configuration names, with fresh weights.

    Args:
        cfg: sizes and ``caption_model``.
        mask_spec: how the masks of a pruned network behave; None there means a supermask with its default
            start.

    Raises:
        UserError: a network that is not available, or masks for a dense one.
    """
    match cfg.caption_model:
        case "up_down_lstm":
            if mask_spec is not None:
                raise UserError(
                    "caption_model 'up_down_lstm' has no masks: a pruned one is 'up_down_lstm_prune'"
                )
            return UpDown(cfg)
        case "up_down_lstm_prune":
            return UpDown(cfg, mask_spec or MaskSpec())
        case other:
            raise UserError(
                f"caption_model {other!r} is not available: expected one of {', '.join(AVAILABLE)}"
            )
