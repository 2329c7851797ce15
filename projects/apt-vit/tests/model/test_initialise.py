"""How agents and MLPs begin."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from apt_vit.model import Agent, initialise


@pytest.mark.parametrize("width", [16, 192, 768])
@torch.no_grad()
def test_fresh_agents_prune_no_normalised_token_and_differ(width: int) -> None:
    agents = [Agent(width) for _ in range(3)]
    initialise.fresh_agents(agents, torch.Generator().manual_seed(0))
    x = nn.functional.layer_norm(torch.randn(4, 50, width), (width,))
    said = torch.stack([Agent.prune_probability(agent(x)) for agent in agents])
    assert said.max() < 0.45
    assert said.min() > 0.1
    assert 0.001 < said.std(dim=2).mean() < 0.1, "tokens are told apart, a little"
    for name, values in agents[0].named_parameters():
        if name != "fc.bias":
            assert not torch.equal(values, agents[1].get_parameter(name)), name


def test_fresh_agents_depend_on_the_generator_alone() -> None:
    one, other = Agent(8), Agent(8)
    initialise.fresh_agents([one], torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    initialise.fresh_agents([other], torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_an_mlp_begins_with_xavier_weights_and_biases_near_0() -> None:
    first, second = nn.Linear(40, 60), nn.Linear(60, 40)
    initialise.mlp(first, second)
    bound = (6 / 100) ** 0.5
    for layer in (first, second):
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert 0 < layer.bias.abs().max() < 1e-5
