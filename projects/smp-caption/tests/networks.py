"""Tiny networks of every family, and pictures that all of them read."""

from __future__ import annotations

from dataclasses import replace

import torch

from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model import Inputs, Network, build

FAMILIES = ("up_down_lstm", "transformer", "relation_transformer")
SMALL = ModelConfig(
    vocab_size=16,
    max_seq_length=6,
    rnn_size=8,
    input_encoding_size=6,
    att_hid_size=5,
    att_feat_size=7,
    fc_feat_size=3,
    d_model=8,
    dim_feedforward=10,
    num_layers=2,
    num_heads=2,
    drop_prob_lm=0.0,
    drop_prob_src=0.0,
    drop_prob_layer=0.0,
)


def small(
    name: str, *, drop: float = 0.0, seed: int = 0, eos_bias: float = 0.7, **changes: object
) -> Network:
    """A network in double precision and training mode, whose captions end now and then.

    Args:
        name: its ``caption_model``; with ``_prune`` its supermasks keep about two weights of three.
        drop: all its dropout.
        seed: of its weights.
        eos_bias: what the end's logit gets on top.
        changes: other fields of its configuration.
    """
    torch.manual_seed(seed)
    drops = dict.fromkeys(("drop_prob_lm", "drop_prob_src", "drop_prob_layer"), drop)
    cfg = replace(SMALL, caption_model=name, **drops, **changes)  # type: ignore[arg-type]
    network = build(cfg, MaskSpec(init=0.7) if cfg.pruned else None).double().train()
    for title, bias in network.named_parameters():
        if title in ("logit.bias", "core.generator.proj.bias", "model.generator.proj.bias"):
            with torch.no_grad():
                bias[cfg.eos_token_id] += eos_bias
    return network


def pictures(*regions: int) -> Inputs:
    """Pictures with so many regions each, padded to one more than they need."""
    generator = torch.Generator().manual_seed(2)
    rows = max(regions) + 1
    masks = (torch.arange(rows) < torch.tensor(regions)[:, None]).double()
    att = torch.randn(len(regions), rows, SMALL.att_feat_size, generator=generator, dtype=torch.float64)
    fc = torch.randn(len(regions), SMALL.fc_feat_size, generator=generator, dtype=torch.float64)
    corners = torch.rand(len(regions), rows, 2, 2, generator=generator, dtype=torch.float64).sort(dim=2)
    boxes = corners.values.flatten(2)  # (B, S, 4): x1, y1, x2, y2
    return Inputs(att * masks[..., None], masks, fc, boxes * masks[..., None])


def part(inputs: Inputs, places: slice) -> Inputs:
    """Some of the pictures."""
    return Inputs(*(None if x is None else x[places] for x in inputs))
