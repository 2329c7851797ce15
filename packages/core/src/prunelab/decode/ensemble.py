"""Several models deciding together on each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from prunelab.decode.protocol import State, StepFunction
from prunelab.errors import UserError

Average = Literal["probs", "log_probs"]


def ensemble(
    steps: Sequence[StepFunction], states: Sequence[State], average: Average = "probs"
) -> tuple[StepFunction, State]:
    """Join models into one step function.

    Args:
        steps: a step function for each model, over the same vocabulary.
        states: each model's state of the same images.
        average: ``probs``: the logarithm of the mean probability. ``log_probs``: the mean log-probability,
            normalised again (the geometric mean).

    Returns:
        The joint step function and state, for any of the searches.

    Raises:
        UserError: no model, another number of states, or an unknown average.
    """
    if not steps or len(steps) != len(states):
        raise UserError(
            f"ensemble of {len(steps)} models and {len(states)} states: expected equal numbers above 0"
        )
    if average not in ("probs", "log_probs"):
        raise UserError(f"ensemble average {average!r} is unknown: expected 'probs' or 'log_probs'")

    def joint(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        parts = zip(steps, state.per_image, state.per_beam, strict=True)
        results = [step(tokens, State(per_image=image, per_beam=beam)) for step, image, beam in parts]
        log_probs = [found for found, _ in results]
        after = State(
            per_image=tuple(s.per_image for _, s in results), per_beam=tuple(s.per_beam for _, s in results)
        )
        if len(log_probs) == 1:
            return log_probs[0], after
        stacked = torch.stack(log_probs)  # (models, N, V)
        if average == "probs":
            mean = stacked.logsumexp(dim=0) - math.log(len(log_probs))
            return mean.clamp(max=0.0), after  # rounding must not lift a sure token above 0
        return stacked.mean(dim=0).log_softmax(dim=-1), after

    return joint, State(
        per_image=tuple(s.per_image for s in states), per_beam=tuple(s.per_beam for s in states)
    )
