"""A small network whose agents differ and prune some tokens, for tests that need one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apt_vit.config import ModelConfig
from apt_vit.model import VisionTransformer, build

CONFIG = ModelConfig(
    model_type="small",
    patch_size=(4, 4),
    hidden_size=24,
    mlp_dim=32,
    num_heads=3,
    num_layers=6,
    attention_dropout_rate=0.0,
    dropout_rate=0.0,
    img_size=(20, 24),
    num_classes=5,
    clip_layers=(1, 3, 4),
    pretrained_dir="",
)
"""31 tokens, the classification token among them."""


def small_model(seed: int = 0, **changes: Any) -> VisionTransformer:
    """A network in evaluation mode; no weight is 0, and agents prune a third of the tokens or so.

    Args:
        seed: of its weights.
        **changes: of `CONFIG`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = build(replace(CONFIG, **changes), fresh=False)
    with torch.no_grad():
        for name, values in model.named_parameters():
            draws = torch.randn(values.shape, generator=generator)
            if "norm" in name or ".gn" in name:
                values.copy_(0.1 * draws + (1.0 if name.endswith("weight") else 0.0))
            else:
                fan = values[0].numel() if values.dim() > 1 and "embeddings.p" not in name else 10
                values.copy_(draws * fan**-0.5)
        for agent in model.agents.values():
            agent.fc.bias.copy_(torch.tensor([0.2, -0.2]))
    return model.eval()


def pictures(batch: int, cfg: ModelConfig = CONFIG, seed: int = 1) -> Tensor:
    """Random pictures (B, 3, H, W) for a network of these sizes."""
    return torch.randn(batch, 3, *cfg.img_size, generator=torch.Generator().manual_seed(seed))
