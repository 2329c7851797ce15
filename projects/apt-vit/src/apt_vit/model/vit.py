"""The vision transformer with an agent behind some of its blocks.

Names and order of parameters, and the order in which they are drawn, are the original's.

# B batch, N tokens with the classification token first, D width, C classes
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apt_vit.config import ModelConfig
from apt_vit.model import initialise
from apt_vit.model.agent import Agent
from apt_vit.model.attention import Attention
from apt_vit.model.stem import Stem, grid_of, kernel_of
from prunelab.hub import load_state

EPS = 1e-6
"""Of every layer norm."""


class Embeddings(nn.Module):
    """Pictures to tokens."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        rows, columns = grid_of(cfg)
        kernel = kernel_of(cfg)
        self.dropout = cfg.dropout_rate
        self.position_embeddings = nn.Parameter(torch.zeros(1, rows * columns + 1, cfg.hidden_size))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.hidden_size))
        channels = 3
        self.hybrid_model: Stem | None = None
        if cfg.resnet is not None:
            same, published = cfg.root_pool_same, cfg.stem_as_published
            self.hybrid_model = Stem(cfg.resnet, pool_same=same, published=published)
            channels = self.hybrid_model.channels
        self.patch_embeddings = nn.Conv2d(channels, cfg.hidden_size, kernel, kernel)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to tokens (B, N, D), row by row."""
        x = images if self.hybrid_model is None else self.hybrid_model(images)
        patches = self.patch_embeddings(x).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), dim=1)
        return F.dropout(tokens + self.position_embeddings, self.dropout, self.training)


class Mlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.dropout = cfg.dropout_rate
        self.fc1 = nn.Linear(cfg.hidden_size, cfg.mlp_dim)
        self.fc2 = nn.Linear(cfg.mlp_dim, cfg.hidden_size)
        initialise.mlp(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        hidden = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(cfg.hidden_size, eps=EPS)
        self.ffn_norm = nn.LayerNorm(cfg.hidden_size, eps=EPS)
        self.ffn = Mlp(cfg)
        self.attn = Attention(cfg.hidden_size, cfg.num_heads, cfg.attention_dropout_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) to (B, N, D).

        Args:
            x: tokens.
            mask: which keys are seen, for instance (B, 1, 1, N): numbers are added to the scores; of
                booleans, True is seen. See `Attention.forward`.
        """
        x = x + self.attn(self.attention_norm(x), mask)
        return x + self.ffn(self.ffn_norm(x))

    def cls_attention(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the classification token sees of each token, mean of the heads, (B, N).

        Args:
            x: the block's input (B, N, D).
            mask: as in `forward`.
        """
        return self.attn.probabilities(self.attention_norm(x), mask, queries=1).mean(1)[:, 0]


class Encoder(nn.Module):
    """The blocks, the agents and the last layer norm."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList()  # first by name, last to be drawn
        self.encoder_norm = nn.LayerNorm(cfg.hidden_size, eps=EPS)
        agent = Agent(cfg.hidden_size)
        self.clip_layer = nn.ModuleList(copy.deepcopy(agent) for _ in cfg.clip_layers)
        self.layer.extend(Block(cfg) for _ in range(cfg.num_layers))


class Transformer(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(cfg)
        self.encoder = Encoder(cfg)


class VisionTransformer(nn.Module):
    """The classifier; `apt_vit.tokens.passes` runs it in every way.

    All agents begin equal, as in the original; `apt_vit.model.initialise.fresh_agents` makes them differ.

    Args:
        cfg: its sizes.

    Raises:
        UserError: the sizes make no network, such as a picture without a patch.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.transformer = Transformer(cfg)
        self.head = nn.Linear(cfg.hidden_size, cfg.num_classes)

    @property
    def blocks(self) -> list[Block]:
        """The blocks, in their order."""
        return [cast(Block, block) for block in self.transformer.encoder.layer]

    @property
    def agents(self) -> dict[int, Agent]:
        """The agent behind each block that has one; agents of blocks beyond the depth are left out."""
        named = zip(self.cfg.clip_layers, self.transformer.encoder.clip_layer, strict=True)
        return {layer: cast(Agent, agent) for layer, agent in named if layer < self.cfg.num_layers}

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens."""
        return grid_of(self.cfg)

    def embed(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to tokens (B, N, D)."""
        return self.transformer.embeddings(images)

    def agent_input(self, x: Tensor) -> Tensor:
        """What agents see of tokens (B, N, D): detached, and normalised where the configuration says so."""
        x = x.detach()
        return F.layer_norm(x, x.shape[-1:], eps=EPS) if self.cfg.normalise_agent_input else x

    def classify(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) behind the last block to logits (B, C), from the classification token."""
        return self.head(self.transformer.encoder.encoder_norm(x[:, 0]))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to logits (B, C); nothing is pruned."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.classify(x)

    def load_original(self, state: Mapping[str, Tensor], where: str = "the weights") -> None:
        """Load weights in the original's names, which are this network's, strictly.

        Args:
            state: weights by name.
            where: the file, for errors.

        Raises:
            UserError: names or shapes differ; the line has the first ones.
        """
        load_state(self, state, where=where)
