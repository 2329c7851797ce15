"""Samples of self-critical training and their log-probabilities: the original's way, or drawn, then scored.

The original keeps the gradients of every step of the sampling, each of which runs the decoder on the whole
sentence so far. The same loss and the same gradients come from one pass over the finished samples, as long as
no dropout is involved; with dropout it is another estimator of the same gradient.
"""

# B pictures, K samples of a picture, N = B * K, L longest sample, V words

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expansionnet.config import ScstConfig
from expansionnet.learning.loss import word_losses
from expansionnet.model import ExpansionNet, cached, prefix
from expansionnet.words.vocabulary import Vocabulary
from prunelab import decode
from prunelab.decode import DecodeOptions, Draw, multinomial_draw
from prunelab.decode.samples import behind_end, trimmed
from prunelab.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Captions of a batch, and how likely they were."""

    tokens: Tensor
    """(B, K, L) ids after the start; the end is kept, padding follows it."""
    log_probs: Tensor
    """(B, K, L) log-probability of each, with gradients; 0 behind the end."""


def draw_and_score(
    model: ExpansionNet,
    x: Tensor,
    pads: Tensor | None,
    cfg: ScstConfig,
    vocabulary: Vocabulary,
    *,
    draw: Draw | None = None,
) -> Samples:
    """Draw K captions of each picture, and get their log-probabilities the way that ``cfg.scoring`` names.

    Pictures are encoded once, as training has it; samples are drawn from the very encoding that their
    gradients go through.

    Args:
        model: in training mode, which it keeps.
        x: features or pictures, of B pictures.
        pads: (B,) padded visual tokens, or None.
        cfg: how many samples, of how many words, with which dropout.
        vocabulary: ids of start, end and padding.
        draw: chooses the words; None: torch's own random numbers do, by `torch.multinomial` over all N rows
            at every step where scoring is the original's.
    """
    encoded = model.encode(x, pads)
    if cfg.scoring == "original":
        options = _options(cfg, vocabulary, cfg.num_samples, gradients=True)
        drawing = draw or multinomial_draw(len(x) * cfg.num_samples)
        with evaluating(*([model] if cfg.sample_mode == "eval" else [])):
            state = prefix.begin(encoded, pads)
            found = decode.sample(prefix.stepper(model), state, options, draw=drawing)
        return Samples(tokens=found.tokens, log_probs=found.log_probs)
    with torch.no_grad():  # the incremental decoder knows no dropout, whatever the mode
        state = cached.begin(model, encoded.detach(), pads)
        options = _options(cfg, vocabulary, cfg.num_samples)
        tokens = decode.sample(cached.stepper(model), state, options, draw=draw).tokens
    return score(model, encoded, pads, trimmed(tokens, vocabulary.eos), vocabulary)


def greedy(
    model: ExpansionNet, x: Tensor, pads: Tensor | None, cfg: ScstConfig, vocabulary: Vocabulary
) -> Tensor:
    """The likeliest word at each place, without dropout.

    Args:
        model: in any mode, which it keeps.
        x: features or pictures, of B pictures.
        pads: (B,) padded visual tokens, or None.
        cfg: of how many words.
        vocabulary: ids of start, end and padding.

    Returns:
        (B, 1, L) ids after the start.
    """
    with torch.no_grad(), evaluating(model):
        state = cached.begin(model, model.encode(x, pads), pads)
        return decode.greedy(cached.stepper(model), state, _options(cfg, vocabulary, 0)).tokens


def score(
    model: ExpansionNet, encoded: Tensor, pads: Tensor | None, tokens: Tensor, vocabulary: Vocabulary
) -> Samples:
    """Log-probabilities of finished samples, by one pass with gradients in the model's present mode.

    Args:
        model: its decoder.
        encoded: (B, S, D) what its encoder made of the pictures.
        pads: (B,) padded visual tokens, or None.
        tokens: (B, K, L) ids after the start.
        vocabulary: ids of start and end.
    """
    rows = tokens.flatten(0, 1)  # (N, L)
    before = F.pad(rows[:, :-1], (1, 0), value=vocabulary.sos)  # each word's predecessor
    # No word is masked: each sees those before it alone, and what follows an end does not count.
    losses = word_losses(model.decode(encoded, before, pads), rows, overwrite=True)
    counted = -losses.masked_fill(behind_end(rows, vocabulary.eos), 0.0)
    return Samples(tokens=tokens, log_probs=counted.view_as(tokens))


def _options(
    cfg: ScstConfig, vocabulary: Vocabulary, num_samples: int, *, gradients: bool = False
) -> DecodeOptions:
    return DecodeOptions(
        max_length=cfg.scst_max_len,
        num_samples=num_samples,
        bos=vocabulary.sos,
        eos=vocabulary.eos,
        pad=vocabulary.pad,
        gradients=gradients,
    )
