"""Captioners with random weights, for what does not depend on what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunelab.mask import MaskSpec, assign, masks
from smp_caption.captioner import Captioner
from smp_caption.config import ModelConfig
from smp_caption.features.extractor import Extractor
from smp_caption.model import build
from smp_caption.tokenizer import build_tokenizer

SENTENCES = ("a red cat sits here", "the blue dog runs away", "one green bus stops")
SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "max_seq_length": 9,
    "att_feat_size": 12,
    "fc_feat_size": 12,
    "rnn_size": 16,
    "input_encoding_size": 14,
    "att_hid_size": 6,
    "d_model": 16,
    "dim_feedforward": 20,
    "num_layers": 2,
    "num_heads": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "up_down": {"caption_model": "up_down_lstm"},
    "transformer": {"caption_model": "transformer", "num_layers": 1},
    "ort": {"caption_model": "relation_transformer"},
    "acort": {
        "caption_model": "relation_transformer",
        "share_att_encoder": "kv",
        "share_att_decoder": "kv",
        "share_layer_encoder": (0, 0),
        "share_layer_decoder": (0, 0, 1),
    },
}
"""What makes each family, over `SIZES`."""
RADIX = 5
"""Base of the digits of ACORT's words."""


def made(
    folder: Path,
    family: str,
    *,
    mask: MaskSpec | None = None,
    extractor: Extractor | None = None,
    seed: int = 0,
    **sizes: Any,
) -> Captioner:
    """A captioner of a family of `FAMILIES`; with ``mask`` its pruned one, half of whose weights are kept.

    Args:
        folder: where the tokenizer's file may lie.
        family: its name.
        mask: how masks behave.
        extractor: goes along.
        seed: of the weights.
        **sizes: over those of the family.
    """
    kind = "radix" if family == "acort" else "word"
    tokenizer = build_tokenizer(folder, kind=kind, vocab_size=20, radix_base=RADIX, captions=SENTENCES)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    if kind == "radix":
        ids |= {"vocab_size": len(tokenizer), "unk_token_id": -1}
    config = ModelConfig(**{**SIZES, **FAMILIES[family], **ids, **sizes})
    if mask is not None:
        config = ModelConfig(**{**vars(config), "caption_model": f"{config.caption_model}_prune"})
    torch.manual_seed(seed)
    model = build(config, mask).eval()
    if mask is not None:
        kept = {name: (torch.rand(value.shape) < 0.5).float() for name, value in masks(model).items()}
        shift = 0.5 if mask.kind == "supermask" else 0.0
        assign(model, {name: value - shift for name, value in kept.items()})
    return Captioner(model=model, config=config, tokenizer=tokenizer, mask=mask, extractor=extractor)


def regions(*counts: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Features and boxes of pictures with so many regions each, as ``caption_features`` takes them."""
    rng = np.random.default_rng(seed)
    corners = [rng.random((count, 2, 2)) for count in counts]
    return {
        "features": [rng.random((count, SIZES["att_feat_size"]), dtype=np.float32) for count in counts],
        "boxes": [np.concatenate([each.min(1), each.max(1)], axis=1) for each in corners],
    }
