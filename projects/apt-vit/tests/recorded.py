"""The recorded networks: built from what their folder says, with the recorded weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from apt_vit.config import ModelConfig
from apt_vit.configs import model_values
from apt_vit.model import VisionTransformer, build
from prunelab.config import from_plain
from testing.parity import Folder

WEIGHTS = ("weights.bin", "init.bin", "*_checkpoint.bin")
"""Files that hold a whole network in its state at the beginning."""


def model_config(facts: Mapping[str, Any]) -> ModelConfig:
    """The recorded ConfigDict as a configuration, in the original's way.

    Args:
        facts: the keys of the original's ConfigDict, and ``img_size``, ``num_classes``, ``clip_layer_id``.
    """
    pixels = facts["img_size"]
    values = {
        "img_size": [pixels, pixels] if isinstance(pixels, int) else pixels,
        "num_classes": facts["num_classes"],
        "clip_layers": facts["clip_layer_id"],
        "normalise_agent_input": False,
        "root_pool_same": False,
        "stem_as_published": False,
        "pretrained_dir": "",
    }
    return from_plain(ModelConfig, {"model_type": "recorded", **model_values(facts), **values})


def load_model(folder: Folder) -> VisionTransformer | None:
    """The folder's network with the recorded weights, in evaluation mode; None where it has no weights."""
    found = [path for pattern in WEIGHTS for path in folder.find(pattern)]
    if not found:
        return None
    model = build(model_config(folder.facts), fresh=False)
    model.load_original(torch.load(found[0], weights_only=True), where=str(found[0]))
    return model.eval()
