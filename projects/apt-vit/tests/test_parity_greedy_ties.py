"""The likeliest token where many have a probability of exactly 1."""

from __future__ import annotations

import pytest
import torch

from apt_vit.model import Agent
from apt_vit.tokens.rules import likeliest
from testing.parity import Folder, of_kind

from .recorded import load_model


@pytest.mark.parity
@of_kind("greedy_ties")
@torch.no_grad()
def test_likeliest_token_is_the_first_of_equal_probabilities(folder: Folder) -> None:
    model, arrays = load_model(folder), folder.arrays("data.npz")
    assert model is not None
    expected = {case["layer"]: case for case in folder.json("expected.json")["agents"]}
    assert expected
    x = model.embed(arrays["x"])
    for number, block in enumerate(model.blocks):
        x = block(x)
        if number not in expected:
            continue
        said = model.agents[number](model.agent_input(x))
        torch.testing.assert_close(said, arrays[f"agent{number}_logits"], atol=1e-4, rtol=1e-4)
        probability = Agent.prune_probability(said)
        recorded = arrays[f"agent{number}_prune_prob"]
        torch.testing.assert_close(probability, recorded, atol=1e-5, rtol=1e-4)
        case = expected[number]
        assert (probability[:, 1:] == 1).sum(1).tolist() == case["tokens_with_probability_one"]
        assert likeliest(probability).tolist() == case["greedy_index"]
        difference = (said[..., 1] - said[..., 0])[:, 1:]
        assert (difference.argmax(1) + 1).tolist() == case["argmax_of_logit_difference"]
