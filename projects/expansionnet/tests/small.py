"""Captioners that are small enough to be built by every test."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from expansionnet.captioner import Captioner
from expansionnet.config import ModelConfig, SwinConfig
from expansionnet.model import build
from expansionnet.words.vocabulary import Vocabulary

SWIN = SwinConfig(
    img_size=32, patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4, mlp_ratio=2.0
)
WORDS = Vocabulary.from_captions(["a dog and a cat sit on one red sofa", "the bird flies"], min_occurrences=1)
SAID: dict[str, Any] = {"num_heads": 4, "num_exp_enc_list": (3, 5), "swin_img_size": 32}
"""What a file of weights does not tell of these models."""


def config(*, end_to_end: bool = False, **sizes: Any) -> ModelConfig:
    """Sizes of a small captioner."""
    known = {"model_dim": 16, "N_enc": 1, "N_dec": 2, "ff": 24, "num_heads": 4, "num_exp_enc_list": (3, 5)}
    known |= {"num_exp_dec": 3, "img_feature_dim": SWIN.width, "max_seq_len": 12, "vocab_size": len(WORDS)}
    return ModelConfig(**{"is_end_to_end": end_to_end, "swin": SWIN, **known, **sizes})


def captioner(*, end_to_end: bool = False, seed: int = 0, **sizes: Any) -> Captioner:
    """A captioner with random weights, of which none is 0 or 1 everywhere; its words are `WORDS`."""
    torch.manual_seed(seed)
    model = build(config(end_to_end=end_to_end, **sizes))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, -0.5, 1.0)
    return Captioner(model=model.eval(), vocabulary=WORDS)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have the same weights."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def fields_that_tensors_tell(cfg: ModelConfig) -> dict[str, Any]:
    """Fields of a configuration but dropouts, which no file tells."""
    return {
        f.name: getattr(cfg, f.name)
        for f in dataclasses.fields(cfg)
        if "drop" not in f.name and f.name != "swin"
    }
