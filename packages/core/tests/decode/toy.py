"""Step functions with few words whose next token depends on all tokens before."""

from __future__ import annotations

import torch
from torch import Tensor

from prunelab.decode import State, StepFunction

BOS, EOS, PAD = 1, 2, 0
CELLS = 61


def table_model(
    seed: int, *, images: int = 2, vocabulary: int = 6, ties: bool = False, eos_bonus: float = 0.0
) -> tuple[StepFunction, State]:
    """A model that reads its log-probabilities from a random table, at a cell that the history of a row
    decides.

    With ``ties`` the scores before the softmax are halves, so that many candidates are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, CELLS, vocabulary, generator=generator) * 2
    if ties:
        scores = (scores * 2).round() / 2
    scores[:, :, EOS] += eos_bonus
    return step, State(per_image={"table": scores.log_softmax(-1)}, per_beam=[torch.zeros(images).long()])


def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
    table, cell = state.per_image["table"], state.per_beam[0]
    cell = (cell * 7 + tokens * 13 + 5) % CELLS
    beams = len(tokens) // len(table)
    log_probs = table[torch.arange(len(table)).repeat_interleave(beams), cell]
    return log_probs, State(per_image=state.per_image, per_beam=[cell])
