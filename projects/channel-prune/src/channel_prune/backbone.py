"""A detector's first weights: those of a classifier, VGG-16 under TensorFlow-slim's names.

Its dense layers must have been made convolutions (the file is known as "reduced fc").
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from channel_prune.config import DetectConfig
from channel_prune.model.names import original_names
from channel_prune.weights import Weights, fill, find_weights, read_weights
from prunelab.errors import UserError

THEIR_KINDS = {"kernel": "weights", "bias": "biases"}
"""What slim calls the variables of a layer."""


def load_backbone(model: nn.Module, detect: DetectConfig) -> list[str]:
    """Give a detector the weights of a backbone, in place.

    Args:
        model: the detector, new; what lies in ``warm_start_excl_scopes`` keeps its random weights.
        detect: where the backbone lies, and the first parts of names there and here.

    Returns:
        The backbone's names of weights that its file lacks; they keep their random values.

    Raises:
        UserError: there is no such file, it is of another network, or (without ``ignore_missing_vars``) it
            lacks a weight.
    """
    place = Path(detect.backbone_ckpt_dir)
    if find_weights(place) is None:
        raise UserError(
            f"backbone_ckpt_dir {str(place)!r}: no weights there, which enbl_warm_start needs; expected a "
            "file of VGG-16, or a folder with one"
        )
    weights = read_weights(place)
    found, missing = {}, []
    for theirs in original_names(model).values():
        _, *middle, kind = theirs.split("/")
        here = "/".join([detect.model_scope, *middle, kind])
        if here.startswith(detect.warm_start_excl_scopes):
            continue
        there = "/".join([detect.backbone_model_scope, *middle, THEIR_KINDS.get(kind, kind)])
        if there in weights.arrays:
            found[theirs] = weights.arrays[there]
        else:
            missing.append(there)
    if not found or (missing and not detect.ignore_missing_vars):
        has = ", ".join(list(weights.shapes)[:3])
        raise UserError(f"{weights.path}: lacks {', '.join(missing[:3])}, ...; it has {has}, ...")
    fill(model, Weights(path=weights.path, what=weights.what, arrays=found), strict=False)
    return missing
