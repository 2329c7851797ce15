"""ExpansionNet v2: visual tokens through static expansion, words through dynamic expansion.

# B batch, S visual tokens, F their width, L words, D width, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from expansionnet.config import ModelConfig
from expansionnet.model import swin
from expansionnet.model.dropout import Dropout
from expansionnet.model.initialise import BACKBONE
from expansionnet.model.layers import DecoderLayer, EncoderLayer
from expansionnet.model.linear import Linear
from expansionnet.model.masks import causal_mask, pad_mask, visible
from prunelab.hub import load_state


class WordEmbedding(nn.Module):
    """The table of word vectors."""

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) to vectors (B, L, D)."""
        return self.embed(tokens)


class ExpansionNet(nn.Module):
    """The captioner; with `is_end_to_end` the backbone is part of it.

    Names and order of the parameters are the original's, but for the backbone's, which are timm's: see
    `original_state`.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        dim, eps = cfg.model_dim, cfg.layer_norm_eps
        if cfg.is_end_to_end:
            self.swin_transf = swin.build_swin(cfg.swin)
        self.encoders = nn.ModuleList(EncoderLayer(cfg) for _ in range(cfg.N_enc))
        self.decoders = nn.ModuleList(DecoderLayer(cfg) for _ in range(cfg.N_dec))
        self.input_linear = Linear(cfg.img_feature_dim, dim)
        self.vocab_linear = Linear(dim, cfg.vocab_size)
        self.out_embedder = WordEmbedding(cfg.vocab_size, dim)
        self.pos_encoder = nn.Embedding(cfg.max_seq_len, dim)
        self.enc_reduce_group = Linear(cfg.N_enc * dim, dim)
        self.enc_reduce_norm = nn.LayerNorm(dim, eps=eps)
        self.dec_reduce_group = Linear(cfg.N_dec * dim, dim)
        self.dec_reduce_norm = nn.LayerNorm(dim, eps=eps)
        self.enc_input_drop = Dropout(cfg.enc_input_drop)
        self.dec_input_drop = Dropout(cfg.dec_input_drop)
        self.enc_reduce_drop = Dropout(cfg.drop_other)
        self.dec_reduce_drop = Dropout(cfg.drop_other)

    def backbone(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to visual tokens (B, S, F); end to end only."""
        return self.swin_transf(images)

    def encode(self, x: Tensor, pads: Tensor | None = None) -> Tensor:
        """Visual tokens as the decoder reads them.

        Args:
            x: features (B, S, F) of any floating type; end to end, normalised images (B, 3, H, W).
            pads: padded trailing tokens, int64 (B,); None: none.

        Returns:
            (B, S, D); rows of padded tokens have values that nothing reads.

        Raises:
            ValueError: pads end to end, where no token is padded.
        """
        if self.cfg.is_end_to_end:
            if pads is not None and bool(pads.any()):
                raise ValueError(f"pads are {pads.tolist()}, expected none with a backbone in the model")
            x, pads = self.backbone(x), None
        return self.encode_features(x, pads)

    def encode_features(self, x: Tensor, pads: Tensor | None = None) -> Tensor:
        """`encode` behind the backbone: features (B, S, F) of any floating type to (B, S, D)."""
        x = x.to(self.input_linear.weight.dtype)
        x = self.enc_input_drop(self.input_linear(x))
        seen = None if pads is None else visible(x.shape[1], pads)
        outputs = []
        for layer in self.encoders:
            x = layer(x, seen)
            outputs.append(x)
        joined = self.enc_reduce_group(torch.cat(outputs, dim=-1))  # (B, S, N*D) to (B, S, D)
        return self.enc_reduce_norm(x + self.enc_reduce_drop(joined))

    def decode(
        self,
        encoded: Tensor,
        tokens: Tensor,
        enc_pads: Tensor | None = None,
        dec_pads: Tensor | None = None,
    ) -> Tensor:
        """Logits of the word after each word.

        Args:
            encoded: what `encode` returned (B, S, D).
            tokens: ids (B, L), the start first; or of K sentences of each picture, (B * K, L) with a
                picture's together, where none is padded.
            enc_pads: padded trailing visual tokens, int64 (B,); None: none.
            dec_pads: padded trailing words, int64 (B,); None: none.

        Returns:
            (B, L, V), or (B * K, L, V).

        Raises:
            ValueError: there are more words than positions.
        """
        return self.vocab_linear(self.decode_hidden(encoded, tokens, enc_pads, dec_pads))

    def decode_hidden(
        self,
        encoded: Tensor,
        tokens: Tensor,
        enc_pads: Tensor | None = None,
        dec_pads: Tensor | None = None,
    ) -> Tensor:
        """What the logits are linear in, (B, L, D); arguments and errors as of `decode`."""
        length = tokens.shape[1]
        if length > self.cfg.max_seq_len:
            raise ValueError(f"{length} words, expected at most the model's {self.cfg.max_seq_len}")
        y = self.dec_input_drop(self.out_embedder(tokens)) * math.sqrt(self.cfg.model_dim)
        y = y + self.pos_encoder.weight[:length]
        causal = causal_mask(length, dec_pads, tokens.device)
        cross = pad_mask(length, encoded.shape[1], dec_pads, enc_pads)
        outputs = []
        for layer in self.decoders:
            y = layer(y, encoded, causal, cross)
            outputs.append(y)
        joined = self.dec_reduce_group(torch.cat(outputs, dim=-1))  # (B, L, N*D) to (B, L, D)
        return self.dec_reduce_norm(y + self.dec_reduce_drop(joined))

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        enc_pads: Tensor | None = None,
        dec_pads: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of `encode` and then `decode`, with their arguments."""
        return self.decode(self.encode(x, enc_pads), tokens, enc_pads, dec_pads)

    def load_original(self, state: Mapping[str, Tensor], where: str = "the weights") -> None:
        """Load weights in the original's names, strictly.

        Args:
            state: may hold the backbone's constants and an ensemble's unused ``dummy_linear``.
            where: the file, for errors.

        Raises:
            UserError: names or shapes differ; the line has the first ones.
        """
        body, backbone = split_backbone(state)
        body = {name: value for name, value in body.items() if not name.startswith("dummy_linear.")}
        renamed = {f"{BACKBONE}.{name}": value for name, value in swin.from_official(backbone).items()}
        load_state(self, {**renamed, **body}, where=where)

    def original_state(self) -> dict[str, Tensor]:
        """Weights in the original's names and order, with the backbone's constants."""
        body, _ = split_backbone(self.state_dict())
        if not self.cfg.is_end_to_end:
            return body
        official = swin.to_official(swin.full_state(cast(nn.Module, self.swin_transf)))
        return {**{f"{BACKBONE}.{name}": value for name, value in official.items()}, **body}


def split_backbone(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parts of a state: the body's, and the backbone's without its prefix."""
    prefix = f"{BACKBONE}."
    body = {name: value for name, value in state.items() if not name.startswith(prefix)}
    backbone = {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
    return body, backbone
