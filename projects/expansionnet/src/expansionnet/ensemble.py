"""Several captioners that agree on each word: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expansionnet.model import ExpansionNet
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Captioners of one vocabulary; each encodes pictures for itself. Only searches take it, not samples."""

    models: Sequence[ExpansionNet]
    """The captioners, in eval mode."""

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("an ensemble of no models, expected at least one")
        sizes = [model.cfg.vocab_size for model in self.models]
        if len(set(sizes)) > 1:
            raise UserError(f"an ensemble of vocabularies of {sizes} words, expected one size")

    @property
    def positions(self) -> int:
        """Most tokens of a caption that every captioner can read."""
        return min(model.cfg.max_seq_len for model in self.models)

    @torch.no_grad()
    def log_probs(self, x: Tensor, tokens: Tensor, enc_pads: Tensor | None = None) -> Tensor:
        """Log of the mean probability of the word after each word.

        Args:
            x: features (B, S, F), or images (B, 3, H, W) end to end.
            tokens: (B, L), start first.
            enc_pads: (B,), padded visual tokens at the end of each image; None: there are none.

        Returns:
            (B, L, V).
        """
        each = [model(x, tokens, enc_pads).log_softmax(dim=-1) for model in self.models]
        return torch.stack(each).logsumexp(dim=0) - math.log(len(each))
