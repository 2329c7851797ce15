"""Beam search whose beams draw their continuations."""

from __future__ import annotations

import torch
from torch import Tensor

from prunelab.decode.beam import beam_search
from prunelab.decode.options import DecodeOptions
from prunelab.decode.protocol import Decoded, State, StepFunction
from prunelab.decode.sample import draw_whole
from prunelab.errors import UserError

# B images, R rows (beams) an image: 1 at the first step, then K


def stochastic_beam_search(
    step: StepFunction, state: State, options: DecodeOptions, *, generator: torch.Generator | None = None
) -> Decoded:
    """Search with beams that draw ``beam_size`` different tokens instead of looking at all of them.

    Among what all beams of an image have drawn, the choice is that of `beam_search`. Draws are those of
    `torch.multinomial` over the probabilities of all beams of all images at every step, also of images that
    have left.

    Args:
        step: the model's step function.
        state: one row an image.
        options: of a beam search without temperature.
        generator: where random numbers come from; None: torch's default generator.

    Returns:
        ``beam_size`` captions an image, best first.

    Raises:
        UserError: a temperature.
    """
    if options.temperature != 1.0:
        raise UserError(f"temperature is {options.temperature:g}, expected 1 where beams draw")
    images, device = state.size

    def drawn(tokens: Tensor, held: State) -> tuple[Tensor, State]:
        inner, present, begun, first = held.per_image
        log_probs, after = step(tokens, State(per_image=inner, per_beam=held.per_beam))
        rows = len(tokens) // len(present)
        place = torch.arange(rows, device=device).expand(len(present), -1)  # (B, R)
        if first is not None:
            # The first beams are ordered by their scores here, and for random numbers as they were drawn.
            place = (tokens.view(-1, rows, 1) == first.unsqueeze(1)).int().argmax(dim=2)
        places = (present.unsqueeze(1) * rows + place).flatten()  # (n,)
        probabilities = log_probs.detach().exp()
        offered = draw_whole(probabilities, places, images * rows, options.beam_size, generator)
        allowed = torch.zeros_like(log_probs, dtype=torch.bool).scatter_(1, offered, True)
        following = (after.per_image, present, True, None if begun else offered)
        return log_probs.masked_fill(~allowed, -torch.inf), State(
            per_image=following, per_beam=after.per_beam
        )

    numbered = (state.per_image, torch.arange(images, device=device), False, None)
    return beam_search(drawn, State(per_image=numbered, per_beam=state.per_beam), options)
