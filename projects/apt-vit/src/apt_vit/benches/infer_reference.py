"""The other side of the bench of inference: timm's vision transformer, all tokens, fused attention.

What dropped logits must be is said by `apt_vit.tokens.passes.dropped`, the original's way: picture by
picture, with agents of four linear maps.
"""

from __future__ import annotations

from collections.abc import Mapping

from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor

from apt_vit.config import ModelConfig
from apt_vit.files.timm_weights import to_timm


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
    model.load_state_dict(to_timm(state))
    return model
