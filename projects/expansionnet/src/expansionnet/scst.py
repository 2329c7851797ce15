"""Samples of self-critical training and their log-probabilities: the original's way, or drawn, then scored.

The original keeps the gradients of every step of the sampling, each of which runs the decoder on the whole
prefix. The same loss and the same gradients come from one pass over the finished samples, as long as no
dropout is involved; with dropout it is another estimator of the same gradient.
"""

# B pictures, K samples of a picture, N = B * K, L longest sample, V words

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from expansionnet.config import ScstConfig
from expansionnet.loss import word_losses
from expansionnet.model import ExpansionNet
from expansionnet.model.cached import begin, stepper
from expansionnet.vocabulary import Vocabulary
from prunelab import decode
from prunelab.tracked import evaluating

Draw: TypeAlias = Callable[[Tensor], Tensor]
"""``probabilities (N, V) -> tokens (N,)``; called once a step, with finished rows too."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Random captions of a batch, and what they cost."""

    tokens: Tensor
    """(B, K, L) ids after the start; the end is kept, padding follows it."""
    log_probs: Tensor
    """(B, K, L) log-probability of each, with gradients; 0 behind the end."""


def draw_one(probabilities: Tensor) -> Tensor:
    """Draw a token for each row, from torch's own random numbers."""
    return torch.multinomial(probabilities, 1, replacement=True).squeeze(1)


def behind_end(tokens: Tensor, eos: int) -> Tensor:
    """Where the end came earlier.

    Args:
        tokens: (..., L) ids after the start.
        eos: id of the end.

    Returns:
        (..., L) of bool.
    """
    ends = (tokens == eos).cumsum(dim=-1)
    return (ends - (tokens == eos).long()) > 0


def sample_with_gradients(
    model: ExpansionNet,
    x: Tensor,
    pads: Tensor | None,
    vocabulary: Vocabulary,
    cfg: ScstConfig,
    *,
    draw: Draw = draw_one,
) -> Samples:
    """Draw samples and keep the gradients of every step, in the model's present mode.

    Args:
        model: encodes each picture once and decodes each prefix.
        x: features or pictures, of B pictures.
        pads: (B,) padded visual tokens, or None.
        vocabulary: ids of start, end and padding.
        cfg: how many samples, of how many words.
        draw: chooses tokens; the original draws all N rows at every step.
    """
    encoded, repeated = _repeated(model, x, pads, cfg.num_samples)
    eos = vocabulary.eos
    tokens = torch.full((len(encoded), 1), vocabulary.sos, dtype=torch.int64, device=encoded.device)
    steps: list[Tensor] = []
    ended = torch.zeros(len(encoded), dtype=torch.bool, device=encoded.device)
    for _ in range(cfg.scst_max_len):
        log_probs = model.decode(encoded, tokens, repeated)[:, -1].float().log_softmax(dim=-1)  # (N, V)
        chosen = draw(log_probs.detach().exp())
        steps.append(log_probs.gather(1, chosen.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0))
        tokens = torch.cat([tokens, chosen.masked_fill(ended, vocabulary.pad).unsqueeze(1)], dim=1)
        ended = ended | (chosen == eos)
        if bool(ended.all()):
            break
    shape = (-1, cfg.num_samples, len(steps))
    return Samples(tokens=tokens[:, 1:].reshape(shape), log_probs=torch.stack(steps, dim=1).view(shape))


def sample(
    model: ExpansionNet,
    x: Tensor,
    pads: Tensor | None,
    vocabulary: Vocabulary,
    cfg: ScstConfig,
    *,
    draw: Draw = draw_one,
) -> Tensor:
    """Draw samples without gradients, by incremental decoding.

    Args:
        model: in evaluation mode, which the incremental decoder needs.
        x: features or pictures, of B pictures.
        pads: (B,) padded visual tokens, or None.
        vocabulary: ids of start, end and padding.
        cfg: how many samples, of how many words.
        draw: chooses tokens.

    Returns:
        (B, K, L) ids after the start, as long as the longest sample.
    """
    with torch.no_grad():
        state = begin(model, model.encode(x, pads), pads)
        options = _options(vocabulary, cfg.scst_max_len, cfg.num_samples)
        found = decode.sample(stepper(model), state, options, draw=lambda p, rows: draw(p))
    return _trimmed(found.tokens, vocabulary.eos)


def greedy(
    model: ExpansionNet, x: Tensor, pads: Tensor | None, vocabulary: Vocabulary, max_len: int
) -> Tensor:
    """The likeliest word at each place, in evaluation mode.

    Returns:
        (B, 1, L) ids after the start.
    """
    with torch.no_grad(), evaluating(model):
        state = begin(model, model.encode(x, pads), pads)
        return decode.greedy(stepper(model), state, _options(vocabulary, max_len, 0)).tokens


def _options(vocabulary: Vocabulary, max_len: int, num_samples: int) -> decode.DecodeOptions:
    return decode.DecodeOptions(
        max_length=max_len,
        num_samples=num_samples,
        bos=vocabulary.sos,
        eos=vocabulary.eos,
        pad=vocabulary.pad,
    )


def _trimmed(tokens: Tensor, eos: int) -> Tensor:
    """Without the columns that lie behind every sample's end."""
    longest = int((~behind_end(tokens, eos)).sum(dim=-1).max())
    return tokens[..., :longest]


def score(
    model: ExpansionNet, x: Tensor, pads: Tensor | None, tokens: Tensor, vocabulary: Vocabulary
) -> Samples:
    """Log-probabilities of finished samples, by one pass with gradients in the model's present mode.

    Args:
        model: encodes each picture once.
        x: features or pictures, of B pictures.
        pads: (B,) padded visual tokens, or None.
        tokens: (B, K, L) ids after the start.
        vocabulary: ids of start and end.
    """
    images, count, length = tokens.shape
    rows = tokens.view(images * count, length)
    before = F.pad(rows[:, :-1], (1, 0), value=vocabulary.sos)  # each word's predecessor
    encoded, repeated = _repeated(model, x, pads, count)
    # Nothing is masked: a word sees those before it alone, and what follows an end does not count.
    losses = word_losses(model.decode(encoded, before, repeated), rows, overwrite=True)
    counted = -losses.masked_fill(behind_end(rows, vocabulary.eos), 0.0)
    return Samples(tokens=tokens, log_probs=counted.view_as(tokens))


def _repeated(
    model: ExpansionNet, x: Tensor, pads: Tensor | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """What each sample's decoder reads: (N, S, D), and (N,) numbers of padded visual tokens."""
    encoded = model.encode(x, pads).repeat_interleave(count, dim=0)
    return encoded, None if pads is None else pads.repeat_interleave(count)
