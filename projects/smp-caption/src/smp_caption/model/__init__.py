"""The captioning networks, one file for each family."""

from __future__ import annotations

from prunelab.errors import UserError
from prunelab.mask import MaskSpec
from smp_caption.config import CAPTION_MODELS, RELATION_TRANSFORMERS, UP_DOWN, ModelConfig, QuirksConfig
from smp_caption.model.network import Inputs, Network
from smp_caption.model.relation import RelationTransformer
from smp_caption.model.transformer import Transformer, TransformerNetwork
from smp_caption.model.up_down import UpDown

AVAILABLE = CAPTION_MODELS
"""Values of ``caption_model`` that can be built."""

__all__ = [
    "AVAILABLE",
    "Inputs",
    "Network",
    "RelationTransformer",
    "Transformer",
    "TransformerNetwork",
    "UpDown",
    "build",
    "choose_caching",
]


def build(cfg: ModelConfig, mask_spec: MaskSpec | None = None) -> Network:
    """Build the network that a configuration names, with fresh weights.

    Args:
        cfg: sizes and ``caption_model``.
        mask_spec: how the masks of a pruned network behave; None there means a supermask with its default
            start.

    Raises:
        UserError: masks for a dense network.
    """
    name = cfg.caption_model
    if not cfg.pruned and mask_spec is not None:
        raise UserError(f"caption_model {name!r} has no masks: a pruned one is '{name}_prune'")
    mask = (mask_spec or MaskSpec()) if cfg.pruned else None
    if name in UP_DOWN:
        return UpDown(cfg, mask)
    return (RelationTransformer if name in RELATION_TRANSFORMERS else Transformer)(cfg, mask)


def choose_caching(network: Network, quirks: QuirksConfig) -> None:
    """Let a transformer decode as a run's quirks want it, in place; other networks have no choice.

    Depths that share a layer mix their caches under ``mixed_caches``; a pruned relation transformer has
    none under ``uncached_pruned``; all else is exact.
    """
    if not isinstance(network, TransformerNetwork):
        return
    order = network.body.decoder.order
    if quirks.uncached_pruned and network.cfg.pruned and isinstance(network, RelationTransformer):
        network.caching = "none"
    elif quirks.mixed_caches and len(set(order)) < len(order):
        network.caching = "mixed"
    else:
        network.caching = "exact"
