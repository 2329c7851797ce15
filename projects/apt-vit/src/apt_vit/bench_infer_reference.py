"""The other side of the bench of inference: timm's vision transformer, all tokens, fused attention.

What dropped logits must be is said by `apt_vit.passes.dropped`, the original's way: picture by picture, with
agents of four linear maps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor

from apt_vit.config import ModelConfig

_NAMES = (
    (r"transformer\.embeddings\.position_embeddings", "pos_embed"),
    (r"transformer\.embeddings\.cls_token", "cls_token"),
    (r"transformer\.embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"transformer\.encoder\.layer\.(\d+)\.attention_norm\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"transformer\.encoder\.layer\.(\d+)\.ffn_norm\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"transformer\.encoder\.layer\.(\d+)\.ffn\.(fc\d)\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"transformer\.encoder\.layer\.(\d+)\.attn\.out\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.encoder\.encoder_norm\.(\w+)", r"norm.\1"),
    (r"head\.(\w+)", r"head.\1"),
)
_QKV = r"transformer\.encoder\.layer\.(\d+)\.attn\.query\.(\w+)"


def timm_transformer(cfg: ModelConfig, state: Mapping[str, Tensor]) -> TimmTransformer:
    """Timm's network with our weights, in evaluation mode.

    Args:
        cfg: sizes; not those of a hybrid.
        state: weights in the original's names; agents are left away.
    """
    assert cfg.patch_size is not None
    model = TimmTransformer(
        img_size=cfg.img_size,
        patch_size=cfg.patch_size,
        num_classes=cfg.num_classes,
        embed_dim=cfg.hidden_size,
        depth=cfg.num_layers,
        num_heads=cfg.num_heads,
        mlp_ratio=cfg.mlp_dim / cfg.hidden_size,
    ).eval()
    model.load_state_dict(_renamed(state))
    return model


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in timm's names: queries, keys and values are one map."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _NAMES:
            if match := re.fullmatch(pattern, name):
                found[match.expand(replacement)] = tensor
        if match := re.fullmatch(_QKV, name):
            three = [state[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            found[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(three)
    return found
