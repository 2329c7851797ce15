"""Captions as the original returns them: searches and samples of one captioner or of an ensemble."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import prunelab.decode
from expansionnet.config import DecodeConfig
from expansionnet.ensemble import Ensemble
from expansionnet.model import ExpansionNet, cached, prefix
from expansionnet.model.packed import Prepared
from expansionnet.words.vocabulary import Vocabulary
from prunelab.decode import (
    Decoded,
    DecodeOptions,
    Draw,
    State,
    StepFunction,
    multinomial_draw,
    stochastic_beam_search,
)
from prunelab.errors import UserError
from prunelab.onednn import OneDNN

# B images, K captions of an image, L longest caption, start and end included


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of a batch."""

    tokens: list[list[list[int]]]
    """Ids of each image's captions, from start to end; a caption that the limit cut off has no end."""
    log_probs: Tensor
    """(B, K, L): of each token; 0 for the start and after the end. L is that of the longest one here."""
    mean_log_prob: Tensor
    """(B, K) float64: sum of the log-probabilities over the number of tokens, the start's included."""


def options(cfg: DecodeConfig, vocabulary: Vocabulary, beam_size: int, *, positions: int) -> DecodeOptions:
    """How to search.

    Args:
        cfg: the limit of length, and whether UNK may be said.
        vocabulary: ids of its symbols.
        beam_size: beams.
        positions: most tokens, start and end included, where the configuration leaves it open.
    """
    return DecodeOptions(
        max_length=(cfg.max_len or positions) - 1,
        bos=vocabulary.sos,
        eos=vocabulary.eos,
        pad=vocabulary.pad,
        beam_size=beam_size,
        ranking="mean",
        forbidden=(vocabulary.unk,) if cfg.suppress_unk else (),
    )


def caption(
    model: ExpansionNet | Prepared | Ensemble,
    x: Tensor,
    options: DecodeOptions,
    enc_pads: Tensor | None = None,
) -> list[list[int]]:
    """The best caption of each image, ids from start to end; arguments as of `search`."""
    return [best for (best,) in search(model, x, options, enc_pads=enc_pads).tokens]


@torch.no_grad()
def search(
    model: ExpansionNet | Prepared | Ensemble,
    x: Tensor,
    options: DecodeOptions,
    *,
    outputs: int = 1,
    enc_pads: Tensor | None = None,
    incremental: bool = True,
) -> Captions:
    """Find the best captions of images.

    Args:
        model: in eval mode.
        x: features (B, S, F), or images (B, 3, H, W) end to end.
        options: of a beam search, or of greedy decoding.
        outputs: how many of its beams are returned for each image, best first.
        enc_pads: (B,) int64, padded visual tokens at the end of each image; None: there are none.
        incremental: False reads the whole sentence again at every step, with the same result.
    """
    prepared = isinstance(model, Prepared)
    with torch.inference_mode() if prepared else nullcontext():
        step, state = _start(model, x, enc_pads, options.max_length, incremental)
        with model.threads(len(x)) if prepared else nullcontext():
            found = prunelab.decode.decode(step, state, options)
        return captions_of(found, options, outputs)


@torch.no_grad()
def beam_search(
    model: ExpansionNet | Prepared | Ensemble,
    x: Tensor,
    *,
    beam_size: int,
    max_len: int,
    sos: int,
    eos: int,
    outputs: int = 1,
    enc_pads: Tensor | None = None,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> Captions:
    """The original's beam search: beams compete by sum of log-probabilities and are ranked by their mean.

    Args:
        model: in eval mode.
        x: features (B, S, F), or images (B, 3, H, W) end to end.
        beam_size: beams.
        max_len: most tokens of a caption, start and end included.
        sos: id of the start.
        eos: id of the end.
        outputs: beams returned for each image, best first.
        enc_pads: (B,) int64, padded visual tokens at the end of each image; None: there are none.
        sample: each beam draws its ``beam_size`` continuations instead of taking the likeliest.
        generator: of the draws; None: torch's default one.

    Raises:
        UserError: more outputs than beams, or a length that leaves no room for a word.
    """
    if max_len < 2:
        raise UserError(f"max_len is {max_len}, expected at least 2, the start and one more")
    if not 1 <= outputs <= beam_size:
        raise UserError(f"outputs is {outputs}, expected 1 to {beam_size}, the number of beams")
    options = DecodeOptions(
        max_length=max_len - 1, bos=sos, eos=eos, pad=eos, beam_size=beam_size, ranking="mean"
    )
    if not sample:
        return search(model, x, options, outputs=outputs, enc_pads=enc_pads)
    step, state = _start(model, x, enc_pads, options.max_length)
    return captions_of(stochastic_beam_search(step, state, options, generator=generator), options, outputs)


def sample(
    model: ExpansionNet,
    x: Tensor,
    *,
    samples: int,
    max_len: int,
    sos: int,
    eos: int,
    enc_pads: Tensor | None = None,
    generator: torch.Generator | None = None,
    draw: Draw | None = None,
    incremental: bool = True,
    gradients: bool = False,
) -> Captions:
    """Draw captions.

    Args:
        model: incremental draws are without dropout, those of the encoder and of whole sentences with that
            of the model's mode.
        x: features (B, S, F), or images (B, 3, H, W) end to end.
        samples: captions K of each image.
        max_len: most tokens that are drawn for a caption, the end included and the start not.
        sos: id of the start.
        eos: id of the end.
        enc_pads: (B,) int64, padded visual tokens at the end of each image; None: there are none.
        generator: of the draws; None: torch's default one. They are those of ``torch.multinomial`` over all
            B * K rows at every step, whether ended or not, as in the original.
        draw: another way to draw.
        incremental: False reads the whole sentence again at every step.
        gradients: let them flow from the log-probabilities into the model.
    """
    options = DecodeOptions(
        max_length=max_len, bos=sos, eos=eos, pad=eos, num_samples=samples, gradients=gradients
    )
    with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
        step, state = _start(model, x, enc_pads, max_len, incremental)
        drawing = draw or multinomial_draw(len(x) * samples, generator=generator)
        return captions_of(prunelab.decode.sample(step, state, options, draw=drawing), options, samples)


def _start(
    model: ExpansionNet | Prepared | Ensemble,
    x: Tensor,
    enc_pads: Tensor | None,
    steps: int,
    incremental: bool = True,
) -> tuple[StepFunction, State]:
    """Encode; the step function and the state before the first token."""
    models = model.models if isinstance(model, Ensemble) else [model]
    pairs = [_begin(one, x, enc_pads, steps, incremental) for one in models]
    if len(pairs) == 1:
        return pairs[0]
    return prunelab.decode.ensemble([step for step, _ in pairs], [state for _, state in pairs])


def _begin(
    model: ExpansionNet | Prepared, x: Tensor, enc_pads: Tensor | None, steps: int, incremental: bool
) -> tuple[StepFunction, State]:
    prepared, model = (model, model.model) if isinstance(model, Prepared) else (None, model)
    positions = model.cfg.max_seq_len
    if steps > positions:
        raise UserError(f"captions of {steps} tokens, expected at most the model's {positions} positions")
    if prepared:
        encoded = prepared.encode(x, enc_pads)
    else:
        with OneDNN():
            encoded = model.encode(x, enc_pads)
    if incremental:
        step = prepared.stepper() if prepared else cached.stepper(model)
        return step, cached.begin(model, encoded, enc_pads)
    return prefix.stepper(model), prefix.begin(encoded, enc_pads)


def captions_of(found: Decoded, options: DecodeOptions, outputs: int) -> Captions:
    """The first captions of each image as the original returns them: cut after the end, with the start.

    Args:
        found: what `prunelab.decode` returned.
        options: with which it was found.
        outputs: how many captions of each image.
    """
    tokens = found.tokens[:, :outputs]  # (B, K, L)
    ends = tokens == options.eos
    lengths = torch.where(ends.any(dim=2), ends.int().argmax(dim=2) + 1, tokens.shape[2])
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    cut = [[[options.bos, *ids[:n]] for ids, n in zip(image, many, strict=True)] for image, many in rows]
    log_probs = F.pad(found.log_probs[:, :outputs, : int(lengths.max())], (1, 0))
    return Captions(
        tokens=cut, log_probs=log_probs, mean_log_prob=log_probs.detach().double().sum(dim=2) / (lengths + 1)
    )
