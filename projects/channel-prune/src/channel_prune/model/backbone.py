"""Starting a detector from VGG-16 weights that learnt to classify.

| weights | how they are told | what is done with them |
|---|---|---|
| slim's VGG-16 with small fc layers | names begin with ``backbone_model_scope`` | taken as they are |
| torchvision's ``vgg16`` | ``features.0.weight`` | below |

torchvision's network reads red, green, blue in 0 to 1, normalised; ours reads blue, green, red in 0 to 255,
so the first kernel is turned and divided by the deviations. Of its fc layers, of 4096 outputs over 7x7,
fc6 takes every fourth output and every third place, dilated, and fc7 every fourth output and input.

Where a network is narrower than the backbone nothing fits: shapes must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from channel_prune.config import DetectConfig
from channel_prune.files.weights import Loaded, Weights, find_weights, read_weights
from channel_prune.model.names import to_torch
from channel_prune.model.ssd import BACKBONE, SCOPE, Ssd
from prunelab.errors import UserError

STD = (0.229, 0.224, 0.225)
"""Deviations of red, green and blue that torchvision divides by."""
EVERY_OUTPUT, EVERY_PLACE = 4, 3


def load_backbone(model: Ssd, detect: DetectConfig) -> Loaded:
    """Fill a detector from the weights that ``backbone_ckpt_dir`` names: a file, or a folder with one.

    Raises:
        UserError: nothing is there; see `start_from_backbone`.
    """
    if find_weights(detect.backbone_ckpt_dir) is None:
        raise UserError(
            f"backbone_ckpt_dir {detect.backbone_ckpt_dir!r}: no weights there, which enbl_warm_start needs; "
            "expected a file of VGG-16, or a folder with one"
        )
    return start_from_backbone(model, read_weights(detect.backbone_ckpt_dir), detect)


def start_from_backbone(model: Ssd, found: Weights, detect: DetectConfig) -> Loaded:
    """Fill a detector from a backbone's weights, except what `warm_start_excl_scopes` says.

    Args:
        model: the detector; weights that the file lacks, and those of excluded scopes, keep their values.
        found: what the file holds.
        detect: scopes, and whether missing weights are an error.

    Raises:
        UserError: the file holds other weights, one of another shape, or lacks one where that is an error.
    """
    theirs = from_torchvision(found.state) if "features.0.weight" in found.state else _slim(found, detect)
    own = model.state_dict()
    filled, missing = [], []
    for ours, original in model.original_names().items():
        name = original.replace(SCOPE, detect.model_scope, 1)
        if name.startswith(detect.warm_start_excl_scopes):
            continue
        if ours not in theirs:
            missing.append(ours)
            continue
        if theirs[ours].shape != own[ours].shape:
            has, wants = ("x".join(map(str, t.shape)) for t in (theirs[ours], own[ours]))
            raise UserError(f"{found.path}: {ours} is {has}, expected {wants}, as this network has it")
        own[ours].copy_(theirs[ours])
        filled.append(ours)
    if not filled:
        raise UserError(
            f"{found.path}: {found.what} without a weight of the backbone, expected names that begin with "
            f"{detect.backbone_model_scope}/, or torchvision's vgg16"
        )
    if missing and not detect.ignore_missing_vars:
        raise UserError(
            f"{found.path}: lacks {len(missing)} weights of the backbone, the first is {missing[0]}, "
            "expected all of them, since ignore_missing_vars is False"
        )
    unused = tuple(name for name in theirs if name not in own)
    return Loaded(filled=tuple(filled), missing=tuple(missing), unused=unused)


def _slim(found: Weights, detect: DetectConfig) -> dict[str, Tensor]:
    """A slim backbone under our names: ``vgg_16/conv1/conv1_1/weights`` is ``conv1.conv1_1.weight``."""
    state, kinds = {}, {"weights": "weight", "biases": "bias"}
    for name, array in found.arrays.items():
        scope, _, rest = name.partition("/")
        *scopes, kind = rest.split("/")
        if scope == detect.backbone_model_scope and kind in kinds:
            state[".".join([*scopes, kinds[kind]])] = to_torch(array)
    return state


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's ``vgg16`` under our names and for our pictures.

    Raises:
        UserError: it is another network of that family.
    """
    convs = sorted(
        (name.removesuffix(".weight") for name, value in state.items() if value.dim() == 4),
        key=lambda name: int(name.rsplit(".", 1)[1]),
    )
    wanted = [
        f"conv{b}.conv{b}_{n}" for b, widths in enumerate(BACKBONE, 1) for n in range(1, len(widths) + 1)
    ]
    normed = any(name.endswith("running_mean") for name in state)
    if len(convs) != len(wanted) or normed or "classifier.3.weight" not in state:
        raise UserError(
            f"weights of torchvision with {len(convs)} convolutions, {'with' if normed else 'without'} batch "
            f"norms: expected vgg16, which has {len(wanted)} and none, with its classifier"
        )
    found = {}
    for ours, conv in zip(wanted, convs, strict=True):
        found[f"{ours}.weight"], found[f"{ours}.bias"] = state[f"{conv}.weight"], state[f"{conv}.bias"]
    first = found["conv1.conv1_1.weight"] / (255 * torch.tensor(STD).view(1, 3, 1, 1))
    found["conv1.conv1_1.weight"] = first.flip(1)
    channels = found["conv5.conv5_3.bias"].numel()
    fc6 = state["classifier.0.weight"].unflatten(1, (channels, 7, 7))  # (4096, 512 7 7) to (4096, 512, 7, 7)
    found["fc6.weight"] = fc6[::EVERY_OUTPUT, :, ::EVERY_PLACE, ::EVERY_PLACE]
    found["fc6.bias"] = state["classifier.0.bias"][::EVERY_OUTPUT]
    found["fc7.weight"] = state["classifier.3.weight"][::EVERY_OUTPUT, ::EVERY_OUTPUT, None, None]
    found["fc7.bias"] = state["classifier.3.bias"][::EVERY_OUTPUT]
    return found
