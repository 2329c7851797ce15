"""The recorded networks: built from what their folder says, with the recorded weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from apt_vit.config import ModelConfig, ResNetConfig
from apt_vit.model import VisionTransformer, build
from testing.parity import Folder

WEIGHTS = ("weights.bin", "init.bin", "*_checkpoint.bin")
"""Files that hold a whole network in its state at the beginning."""


def _pair(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def model_config(facts: Mapping[str, Any]) -> ModelConfig:
    """The recorded ConfigDict as a configuration, in the original's way.

    Args:
        facts: the keys of the original's ConfigDict, and ``img_size``, ``num_classes``, ``clip_layer_id``.
    """
    patches, transformer, resnet = facts["patches"], facts["transformer"], facts.get("resnet")
    return ModelConfig(
        model_type="recorded",
        patch_size=_pair(patches["size"]) if "size" in patches else None,
        patch_grid=_pair(patches["grid"]) if "grid" in patches else None,
        resnet=resnet
        and ResNetConfig(num_layers=tuple(resnet["num_layers"]), width_factor=resnet["width_factor"]),
        hidden_size=facts["hidden_size"],
        mlp_dim=transformer["mlp_dim"],
        num_heads=transformer["num_heads"],
        num_layers=transformer["num_layers"],
        attention_dropout_rate=transformer["attention_dropout_rate"],
        dropout_rate=transformer["dropout_rate"],
        img_size=_pair(facts["img_size"]),
        num_classes=facts["num_classes"],
        clip_layers=tuple(facts["clip_layer_id"]),
        normalise_agent_input=False,
        root_pool_same=False,
        stem_as_published=False,
        pretrained_dir="",
    )


def load_model(folder: Folder) -> VisionTransformer | None:
    """The folder's network with the recorded weights, in evaluation mode; None where it has no weights."""
    found = [path for pattern in WEIGHTS for path in folder.find(pattern)]
    if not found:
        return None
    model = build(model_config(folder.facts), fresh=False)
    model.load_original(torch.load(found[0], weights_only=True), where=str(found[0]))
    return model.eval()
