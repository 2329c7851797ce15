"""Masked layers, pruning criteria, sparsity and packed sparse files.

The names below are the package's front; `prunelab.mask.packed` holds the file format.
"""

from prunelab.mask.convert import apply_masks, assign, convert, strip
from prunelab.mask.criteria import magnitude, prune_smallest, snip
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
from prunelab.mask.pruning import Gradual, Pruning, Supermask
from prunelab.mask.redraw import Redrawn
from prunelab.mask.sparsity import (
    GradualSchedule,
    SparsityLoss,
    SparsityReport,
    active,
    anneal_rate,
    average,
    nnz,
    per_mask_sparsity,
    report,
    sparsity_loss,
    total_sparsity,
)
from prunelab.mask.supermask import MASK_SUFFIX, MaskSpec, masked_weight, round_mask, sample_mask

__all__ = [
    "MASK_SUFFIX",
    "Gradual",
    "GradualSchedule",
    "MaskSpec",
    "Masked",
    "MaskedConv2d",
    "MaskedEmbedding",
    "MaskedLSTMCell",
    "MaskedLinear",
    "Pruning",
    "Redrawn",
    "SparsityLoss",
    "SparsityReport",
    "Supermask",
    "active",
    "anneal_rate",
    "apply_masks",
    "assign",
    "average",
    "convert",
    "draw_once",
    "freeze",
    "in_scope",
    "magnitude",
    "masked_layers",
    "masked_weight",
    "masks",
    "nnz",
    "parse_scope",
    "per_mask_sparsity",
    "prune_smallest",
    "report",
    "round_mask",
    "sample_mask",
    "snip",
    "sparsity_loss",
    "strip",
    "total_sparsity",
    "use_samples",
    "weights_of",
]
