"""How weights begin, where torch's own way is not meant."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from apt_vit.model.agent import Agent

PRUNE_BIAS = -1.0
"""Difference of a fresh agent's logits: every token is kept with a probability of about 0.73."""
SPREAD = 0.1
"""Standard deviation of this difference over tokens that are normalised, about."""


def mlp(first: nn.Linear, second: nn.Linear) -> None:
    """Begin an MLP: Xavier's uniform weights, biases near 0; drawn in the original's order."""
    if first.weight.is_meta:
        return  # nothing to draw, and a normal number there loads torch's compiler
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
    for layer in (first, second):
        nn.init.normal_(layer.bias, std=1e-6)


@torch.no_grad()
def fresh_agents(agents: Iterable[Agent], generator: torch.Generator | None = None) -> None:
    """Begin agents that prune nothing and differ, in place.

    The original copies one random agent, which prunes many tokens at random from the first step.

    Args:
        agents: for instance ``model.agents.values()``.
        generator: draws the weights, on the CPU; None: torch's own.
    """
    for agent in agents:
        width = agent.fc.in_features // 2
        for layer in (agent.query, agent.key, agent.value):
            for values in (layer.weight, layer.bias):
                values.copy_(_uniform(values.shape, width**-0.5, generator))
        draws = torch.randn(agent.fc.weight.shape, generator=generator)
        agent.fc.weight.copy_(draws * (SPREAD * width**-0.5))
        agent.fc.bias.copy_(torch.tensor([-PRUNE_BIAS / 2, PRUNE_BIAS / 2]))


def _uniform(shape: torch.Size, bound: float, generator: torch.Generator | None) -> torch.Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
