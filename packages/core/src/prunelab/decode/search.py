"""The one entry: options in, captions out."""

from __future__ import annotations

import torch
from torch import Tensor

from prunelab.decode.beam import beam_search
from prunelab.decode.options import DecodeOptions
from prunelab.decode.protocol import Decoded, State, StepFunction
from prunelab.decode.sample import Draw, greedy, sample


def _without(step: StepFunction, forbidden: tuple[int, ...]) -> StepFunction:
    """The step function with probability 0 for some tokens; the others keep theirs."""

    def masked(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, after = step(tokens, state)
        index = torch.tensor(forbidden, device=log_probs.device)
        return log_probs.index_fill(1, index, -torch.inf), after

    return masked


def decode(
    step: StepFunction,
    state: State,
    options: DecodeOptions,
    *,
    generator: torch.Generator | None = None,
    draw: Draw | None = None,
) -> Decoded:
    """Decode with the method that the options name: `sample`, `beam_search` or `greedy`.

    Samples where ``options.num_samples`` is above 0, else beams where ``beam_size`` is above 1, else the
    likeliest tokens; ``options.forbidden`` tokens never. Arguments and captions are those of that function;
    ``generator`` and ``draw`` are for samples alone.
    """
    if options.forbidden:
        step = _without(step, options.forbidden)
    if options.num_samples > 0:
        return sample(step, state, options, generator=generator, draw=draw)
    if options.beam_size > 1:
        return beam_search(step, state, options)
    return greedy(step, state, options)
