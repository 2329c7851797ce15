"""What transformers of this project are built of: layers, their stacks, and encoder with decoder.

Pre-norm (Vaswani et al. 2017). Names and order of parameters are the original's. A depth of the encoder or
decoder may share its layer with others (Tan et al. 2022, ACORT): the module then stands at several places of
the list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from prunelab.mask import MASK_SUFFIX, MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model.attention import Attention
from smp_caption.model.layers import LayerNorm, make_embedding, make_linear, positional_table

# B images, S regions, F feature size, K captions an image, N = B * K, T tokens, V vocabulary, D width

POSITIONS = 5000
"""Rows of the table of positions."""
LAYER_DROPOUT = 0.1
"""Dropout of positions, attention weights, feed-forward parts and sublayers; a third of it when pruned."""

Layer = TypeVar("Layer", bound=nn.Module)


class Encoded(NamedTuple):
    """Images as the decoder reads them."""

    memory: Tensor
    """(B, S, D)."""
    bias: Tensor | None
    """(B, 1, 1, S) what is added to the logits of attention to each region; None where all are real."""


def layer_dropout(cfg: ModelConfig) -> float:
    """The dropout of all parts but the region embedding."""
    if cfg.drop_prob_layer is not None:
        return cfg.drop_prob_layer
    return LAYER_DROPOUT / 3 if cfg.pruned else LAYER_DROPOUT


def initialise(module: nn.Module) -> None:
    """Draw every weight matrix from Xavier's uniform distribution; biases and masks stay as they are."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and not name.endswith(MASK_SUFFIX):
            nn.init.xavier_uniform_(parameter)


class FeedForward(nn.Module):
    """w_2(Dropout(ReLU(w_1 x)))."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        self.w_1 = make_linear(cfg.d_model, cfg.dim_feedforward, mask)
        self.w_2 = make_linear(cfg.dim_feedforward, cfg.d_model, mask)
        self.dropout = nn.Dropout(layer_dropout(cfg))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.w_2(self.dropout(self.w_1(x).relu()))


class Sublayer(nn.Module):
    """x + Dropout(f(Norm(x)))."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(cfg.d_model)
        self.dropout = nn.Dropout(layer_dropout(cfg))

    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """(..., D) to (..., D)."""
        return x + self.dropout(function(self.norm(x)))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part.

    Args:
        cfg: sizes.
        attention: the kind of self-attention.
        mask: how masks behave.
    """

    def __init__(self, cfg: ModelConfig, attention: type[Attention], mask: MaskSpec | None) -> None:
        super().__init__()
        self.self_attn = attention(cfg, cfg.share_att_encoder, layer_dropout(cfg), mask)
        self.feed_forward = FeedForward(cfg, mask)
        self.sublayer = nn.ModuleList(Sublayer(cfg) for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Regions x (B, S, D), bias broadcastable to (B, H, S, S)."""
        x = self.sublayer[0](x, lambda y: self.self_attn.to_self(y, bias))
        return self.sublayer[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the image and a feed-forward part."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        self.self_attn = Attention(cfg, cfg.share_att_decoder, layer_dropout(cfg), mask)
        self.src_attn = Attention(cfg, cfg.share_att_decoder, layer_dropout(cfg), mask)
        self.feed_forward = FeedForward(cfg, mask)
        self.sublayer = nn.ModuleList(Sublayer(cfg) for _ in range(3))

    def forward(self, x: Tensor, encoded: Encoded, bias: Tensor) -> Tensor:
        """Tokens x (N, T, D), bias broadcastable to (N, H, T, T)."""

        def look(y: Tensor) -> Tensor:
            # Captions of an image ask together, so that its keys and values are made once: (B, K * T, D).
            rows = y.reshape(len(encoded.memory), -1, y.shape[-1])
            return self.src_attn.to_memory(rows, encoded.memory, encoded.bias).view_as(y)

        x = self.sublayer[0](x, lambda y: self.self_attn.to_self(y, bias))
        x = self.sublayer[1](x, look)
        return self.sublayer[2](x, self.feed_forward)


def _stack(make: Callable[[], Layer], order: tuple[int, ...]) -> nn.ModuleList:
    """A layer for each depth; depths of equal numbers share one."""
    distinct = [make() for _ in range(max(order) + 1)]
    return nn.ModuleList(distinct[place] for place in order)


class Stack(nn.Module):
    """Layers, then a norm.

    Args:
        make: makes a layer.
        order: which distinct layer stands at each depth.
        width: D.
    """

    def __init__(self, make: Callable[[], nn.Module], order: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.layers = _stack(make, order)
        self.norm = LayerNorm(width)
        self.order = order


class Words(nn.Module):
    """Embeddings of words times sqrt(D)."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        self.lut = make_embedding(cfg.vocab_size, cfg.d_model, mask)
        self.factor = math.sqrt(cfg.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (...) to (..., D)."""
        return self.lut(tokens) * self.factor


class Positions(nn.Module):
    """Adds the row of the table that belongs to each place, then drops out."""

    pe: Tensor

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.register_buffer("pe", positional_table(POSITIONS, cfg.d_model).unsqueeze(0))
        self.dropout = nn.Dropout(layer_dropout(cfg))

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Tokens x (N, T, D), whose first token stands at place ``first``."""
        return self.dropout(x + self.pe[:, first : first + x.shape[1]])


class Generator(nn.Module):
    """From the decoder's output to log-probabilities."""

    def __init__(self, cfg: ModelConfig, mask: MaskSpec | None) -> None:
        super().__init__()
        self.proj = make_linear(cfg.d_model, cfg.vocab_size, mask)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        return self.proj(x).log_softmax(dim=-1)


class Body(nn.Module):
    """Encoder, decoder, embeddings and generator.

    Args:
        cfg: sizes.
        attention: the kind of the encoder's self-attention.
        src_embed: the region embedding, where it belongs to the body.
        mask: how masks behave.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        attention: type[Attention],
        mask: MaskSpec | None,
        src_embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        unshared = tuple(range(cfg.num_layers))
        self.encoder = Stack(
            lambda: EncoderLayer(cfg, attention, mask), cfg.share_layer_encoder or unshared, cfg.d_model
        )
        self.decoder = Stack(
            lambda: DecoderLayer(cfg, mask), cfg.share_layer_decoder or unshared, cfg.d_model
        )
        if src_embed is not None:
            self.src_embed = src_embed
        self.tgt_embed = nn.Sequential(Words(cfg, mask), Positions(cfg))
        self.generator = Generator(cfg, mask)

    @property
    def encoder_layers(self) -> list[EncoderLayer]:
        """The encoder's layer at each depth."""
        return [layer for layer in self.encoder.layers if isinstance(layer, EncoderLayer)]

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The decoder's layer at each depth."""
        return [layer for layer in self.decoder.layers if isinstance(layer, DecoderLayer)]


def region_embedding(cfg: ModelConfig, mask: MaskSpec | None) -> nn.Sequential:
    """From features to the encoder's width."""
    return nn.Sequential(
        make_linear(cfg.att_feat_size, cfg.d_model, mask), nn.ReLU(), nn.Dropout(cfg.drop_prob_src)
    )
