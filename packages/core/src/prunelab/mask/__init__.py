"""Masked layers, pruning criteria, sparsity and packed sparse files.

The names below are the package's front; `prunelab.mask.packed` holds the file format.
"""

from prunelab.mask.convert import apply_masks, assign, convert, strip
from prunelab.mask.layers import (
    Masked,
    MaskedConv2d,
    MaskedEmbedding,
    MaskedLinear,
    MaskedLSTMCell,
    draw_once,
    freeze,
    in_scope,
    masked_layers,
    masks,
    parse_scope,
    use_samples,
    weights_of,
)
from prunelab.mask.supermask import MASK_SUFFIX, MaskSpec, masked_weight, round_mask, sample_mask

__all__ = [
    "MASK_SUFFIX",
    "MaskSpec",
    "Masked",
    "MaskedConv2d",
    "MaskedEmbedding",
    "MaskedLSTMCell",
    "MaskedLinear",
    "apply_masks",
    "assign",
    "convert",
    "draw_once",
    "freeze",
    "in_scope",
    "masked_layers",
    "masked_weight",
    "masks",
    "parse_scope",
    "round_mask",
    "sample_mask",
    "strip",
    "use_samples",
    "weights_of",
]
