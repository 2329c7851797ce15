"""The backbone: timm's Swin transformer, and the names that its weights have in published files.

The official release keeps constants (indices and masks of the windows) among the weights, and a stage's
merging of patches at its end; timm computes the constants, and merges at the start of the next stage.

# B batch, S tokens of the last stage, F their width
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from expansionnet.config import SwinConfig
from prunelab.errors import UserError
from prunelab.hub import load_state

_BUFFERS = (".relative_position_index", ".attn_mask")
_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")


def build_swin(cfg: SwinConfig) -> nn.Module:
    """Build the backbone; parameters are in the order of the official release.

    Args:
        cfg: sizes. A stage that is no larger than a window is one window, and is not shifted.

    Returns:
        Module of images (B, 3, img_size, img_size) to tokens (B, S, F), row by row.
    """
    from timm.models.swin_transformer import PatchMerging, SwinTransformer

    swin = SwinTransformer(
        img_size=cfg.img_size,
        patch_size=cfg.patch_size,
        embed_dim=cfg.embed_dim,
        depths=cfg.depths,
        num_heads=cfg.num_heads,
        window_size=cfg.window_size,
        mlp_ratio=cfg.mlp_ratio,
        drop_path_rate=cfg.drop_path_rate,
        num_classes=0,
        global_pool="",
        weight_init="skip",
    )
    for merging in swin.modules():
        if isinstance(merging, PatchMerging):
            merging.add_module("norm", merging._modules.pop("norm"))  # behind `reduction`, as officially
    swin.register_module("head", nn.Flatten(1, 2))  # (B, H, W, F) to (B, S, F)
    return swin


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the official release, or of timm, under timm's names; constants and the head are left out.

    Args:
        state: names without a prefix.
    """
    kept = {n: v for n, v in state.items() if not n.endswith(_BUFFERS) and not n.startswith("head.")}
    official = any(name.startswith("layers.0.downsample.") for name in kept)
    return {_shifted(name, 1) if official else name: value for name, value in kept.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names, constants too where they are given, under those of the official release."""
    return {_shifted(name, -1): value for name, value in state.items()}


def _shifted(name: str, by: int) -> str:
    """The name with the stage of a merging of patches moved."""
    return _MERGING.sub(lambda found: f"layers.{int(found[1]) + by}.downsample.", name)


def full_state(swin: nn.Module) -> dict[str, Tensor]:
    """All weights and constants of a backbone in their order, under timm's names."""
    found = {}
    for prefix, module in swin.named_modules():
        dot = f"{prefix}." if prefix else ""
        found.update({dot + name: value.detach() for name, value in module.named_parameters(recurse=False)})
        found.update({dot + name: value for name, value in module.named_buffers(recurse=False)})
    return found


def load_backbone(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a published backbone; a classification head and constants in it are ignored.

    Args:
        module: what `build_swin` made.
        state: of the official release or of timm, without a prefix.
        where: the file, for errors.

    Raises:
        UserError: weights are missing, unknown or of another shape.
    """
    if not state:
        raise UserError(f"{where}: no weights, expected those of a Swin transformer")
    load_state(module, from_official(state), where=where)
