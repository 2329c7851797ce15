"""An Up-Down captioner that is built in a millisecond, and pictures for it."""

from __future__ import annotations

import torch
from torch import Tensor

from smp_caption.config import ModelConfig

TOY = ModelConfig(
    vocab_size=11,
    rnn_size=8,
    input_encoding_size=6,
    att_hid_size=5,
    att_feat_size=7,
    fc_feat_size=3,
    max_seq_length=6,
    drop_prob_lm=0.0,
)
"""Sizes; no two that must not be mixed up are equal."""


def pictures(*regions: int) -> dict[str, Tensor]:
    """Random features of pictures with so many regions each, with one row of padding more than they need."""
    generator = torch.Generator().manual_seed(2)
    rows = max(regions) + 1
    masks = (torch.arange(rows) < torch.tensor(regions)[:, None]).float()
    att = torch.randn(len(regions), rows, TOY.att_feat_size, generator=generator)
    fc = torch.randn(len(regions), TOY.fc_feat_size, generator=generator)
    return {"att_feats": att * masks[:, :, None], "att_masks": masks, "fc_feats": fc}
