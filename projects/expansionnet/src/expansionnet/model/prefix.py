"""Decoding without a cache: every step reads the whole sentence again.

It costs far more than `expansionnet.model.cached`, and is what training by samples with dropout needs, where
no two steps have the same network; gradients flow through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunelab.decode import State, StepFunction

if TYPE_CHECKING:
    from expansionnet.model.body import ExpansionNet

# B images, R rows an image, N = B * R, T tokens of a row so far


def begin(encoded: Tensor, enc_pads: Tensor | None = None) -> State:
    """Start decoding; arguments as of `expansionnet.model.cached.begin`."""
    sentence = torch.zeros(len(encoded), 0, dtype=torch.int64, device=encoded.device)
    return State(per_image=(encoded, enc_pads), per_beam=sentence)


def stepper(model: ExpansionNet) -> StepFunction:
    """The step function of a captioner, for states that this module's `begin` made."""

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        encoded, pads = state.per_image
        sentence = torch.cat([state.per_beam, tokens.unsqueeze(1)], dim=1)  # (N, T)
        rows = len(tokens) // len(encoded)
        if rows > 1:
            encoded = encoded.repeat_interleave(rows, dim=0)
            pads = None if pads is None else pads.repeat_interleave(rows, dim=0)
        hidden = model.decode_hidden(encoded, sentence, pads)
        log_probs = model.vocab_linear(hidden[:, -1]).log_softmax(dim=-1)
        return log_probs, State(per_image=state.per_image, per_beam=sentence)

    return step
