"""Folded agents say what agents of four linear maps say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apt_vit.model import Agent
from apt_vit.tokens.folded import Folded, prune_probability

from ..small import pictures, small_model


def agent_of(width: int, seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    agent = Agent(width)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.normal_(std=width**-0.5)
    return agent


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("width", [1, 6, 32])
@torch.no_grad()
def test_the_difference_of_logits_is_the_agents(width: int, dtype: torch.dtype, close: float) -> None:
    agent, x = agent_of(width).to(dtype), torch.randn(3, 7, width, dtype=dtype)
    logits = agent(x)
    folded = Folded.of(agent)
    difference = folded(x)
    assert difference.dtype == dtype
    torch.testing.assert_close(difference, logits[..., 1] - logits[..., 0], atol=close, rtol=close)
    torch.testing.assert_close(
        prune_probability(difference), Agent.prune_probability(logits), atol=max(close, 1e-6), rtol=0
    )


@pytest.mark.parametrize("normalise", [True, False])
@torch.no_grad()
def test_agents_behind_blocks_fold_with_what_they_see(*, normalise: bool) -> None:
    model = small_model(normalise_agent_input=normalise)
    x = model.embed(pictures(2))
    for number, block in enumerate(model.blocks):
        x = block(x)
        if number in model.agents:
            seen = model.agent_input(x)
            logits = model.agents[number](seen)
            difference = Folded.of(model.agents[number])(seen)
            torch.testing.assert_close(difference, logits[..., 1] - logits[..., 0], atol=1e-5, rtol=1e-5)


def test_a_difference_by_hand() -> None:
    agent = Agent(1)
    values = {"query": (2.0, 1.0), "key": (3.0, -1.0), "value": (5.0, 4.0)}
    with torch.no_grad():
        for name, (weight, bias) in values.items():
            getattr(agent, name).weight.fill_(weight)
            getattr(agent, name).bias.fill_(bias)
        agent.fc.weight.copy_(torch.tensor([[1.0, 2.0], [4.0, 7.0]]))  # values first
        agent.fc.bias.copy_(torch.tensor([0.5, 3.0]))
    found = Folded.of(agent)(torch.tensor([[[1.0], [2.0]]]))
    # q = 3; k = 2, 5; v = 9, 14; keep = v + 2 q k + 0.5, prune = 4 v + 7 q k + 3
    assert found.tolist() == [[27 + 5 * 6 + 2.5, 42 + 5 * 15 + 2.5]]


@given(
    st.lists(st.tuples(st.floats(-40, 40, width=32), st.floats(-40, 40, width=32)), min_size=1, max_size=40)
)
@settings(max_examples=50, deadline=None)
def test_probabilities_have_the_bits_of_two_logits(pairs: list[tuple[float, float]]) -> None:
    logits = torch.tensor(pairs)
    found = prune_probability(logits[:, 1] - logits[:, 0])
    assert torch.equal(found, Agent.prune_probability(logits))


def test_great_differences_tie_and_equal_logits_are_kept() -> None:
    found = prune_probability(torch.tensor([0.0, 17.0, 30.0, 10.0, 10.00001]))
    assert found[0] == 0.5
    assert found[1] == found[2] == 1.0
    assert found[3] == found[4]


def test_weights_of_half_precision_fold_into_single() -> None:
    agent = agent_of(8).to(torch.bfloat16)
    assert Folded.of(agent).matrix.dtype == torch.float32
