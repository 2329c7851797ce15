"""Networks, sizes and batches that the rows of ``bench`` share.

Features and captions are random, dropout is 0 so that results can be compared.
"""

# B images, S regions, K captions an image, N = B * K, T tokens

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from smp_caption.config import RELATION_TRANSFORMERS, Config, ModelConfig, OptimConfig, PruneConfig

STEPS = 113_280
"""Updates of a whole run on COCO, of which one in the middle is timed."""

Batch: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a batch and of the network."""

    model: ModelConfig
    """The dense network; dropout 0."""
    images: int = 5
    """Pictures B of a batch."""
    captions: int = 5
    """Captions K of each picture."""
    tokens: int = 14
    """Tokens T of a caption, bos and eos included."""
    regions: int = 36
    """Regions S of a picture."""

    @property
    def relations(self) -> bool:
        """Whether the network is a relation transformer."""
        return self.model.caption_model in RELATION_TRANSFORMERS

    def note(self) -> str:
        """The sizes of network and pictures in words."""
        m = self.model
        if self.relations:
            network = f"d {m.d_model}, f {m.dim_feedforward}, {m.num_layers}+{m.num_layers} layers"
        else:
            network = f"R {m.rnn_size}, E {m.input_encoding_size}, A {m.att_hid_size}"
        return (
            f"{network}, F {m.att_feat_size}, V {m.vocab_size}, float32, "
            f"{self.images} images x {self.regions} regions"
        )

    def step_note(self) -> str:
        """The sizes of a training step in words."""
        return f"{self.note()} x {self.captions} captions x {self.tokens} tokens"


def _published(name: str) -> ModelConfig:
    """A network of the published size, without dropout."""
    return ModelConfig(caption_model=name, drop_prob_lm=0.0, drop_prob_src=0.0, drop_prob_layer=0.0)


UP_DOWN, ORT = _published("up_down_lstm"), _published("relation_transformer")

KNOWN = Sizes(model=replace(UP_DOWN, rnn_size=256, input_encoding_size=256, att_hid_size=128))
"""The sizes for which the original's times are known (one thread of two cores that others used as well)."""
KNOWN_ORT = Sizes(model=replace(ORT, d_model=256, dim_feedforward=1024, num_layers=3))
"""The same of the relation transformer."""
FULL = Sizes(model=UP_DOWN, images=15)
"""The published network and batch."""
FULL_ORT = Sizes(model=ORT, images=15)
"""The same of the relation transformer."""


def random_batch(sizes: Sizes) -> Batch:
    """Random features and captions of full length."""
    generator = torch.Generator().manual_seed(8888)
    model, rows = sizes.model, sizes.images * sizes.captions
    regions = torch.rand(sizes.images, sizes.regions, model.att_feat_size, generator=generator)
    seqs = torch.randint(4, model.vocab_size, (rows, sizes.tokens), generator=generator)
    seqs[:, 0], seqs[:, -1] = model.bos_token_id, model.eos_token_id
    batch = {
        "att_feats": regions,
        "att_masks": torch.ones(sizes.images, sizes.regions),
        "seqs": seqs,
        "masks": torch.ones(rows, sizes.tokens),
    }
    if not sizes.relations:
        return batch | {"fc_feats": regions.mean(dim=1)}
    corners = torch.rand(sizes.images, sizes.regions, 2, 2, generator=generator).sort(dim=2).values
    return batch | {"boxes": corners.flatten(2)}


def row_config(sizes: Sizes, *, pruned: bool, per_call: bool = False) -> Config:
    """A published row's optimiser, for 95 % of the weights pruned if ``pruned``."""
    if sizes.relations:
        optim = OptimConfig(lr_scheduler="noam")
    else:
        optim = OptimConfig(lr_scheduler="cosine", learning_rate=0.01, optim_epsilon=0.01)
    if not pruned:
        return Config(model=sizes.model, optim=optim)
    cfg = Config(
        model=replace(sizes.model, caption_model=f"{sizes.model.caption_model}_prune"),
        optim=optim,
        prune=PruneConfig(prune_type="supermask", prune_sparsity_target=0.95),
    )
    return replace(cfg, quirks=replace(cfg.quirks, masks_per_call=per_call))
