"""The streams pass by pass, and agents in their cheap forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from apt_vit.config import Config, PruneConfig, QuirkConfig
from apt_vit.learning.actions import Draws, choose
from apt_vit.learning.streams import by_passes, difference, direction, logits_at
from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.rules import Rule

from ..small import pictures, small_model

FRESH = PruneConfig(reward_dropout="fresh")


def run(model: VisionTransformer, prune: PruneConfig, batch: int = 5):
    cfg = Config(model=model.cfg, prune=prune, quirks=QuirkConfig.of("faithful"))
    draws = Draws(cfg)
    return by_passes(model, pictures(batch), cfg, draws.begin(), draws.generator())


def test_streams_draw_dropout_in_the_original_s_order() -> None:
    model = small_model(dropout_rate=0.2, attention_dropout_rate=0.1).train()
    cfg = Config(model=model.cfg, prune=FRESH, quirks=QuirkConfig.of("faithful"))
    x, source = pictures(5), Draws(cfg).begin()
    torch.manual_seed(9)
    plain = passes.plain(model, x)
    many = passes.masked(model, x, model.cfg.clip_layers, Rule())
    singles = {
        layer: passes.single(model, x, layer, lambda p: choose(p, cfg, source))
        for layer in model.cfg.clip_layers
    }
    torch.manual_seed(9)
    found = run(model, FRESH)
    assert found.plain is not None
    assert found.pruned is not None
    torch.testing.assert_close(found.plain, plain, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.pruned, many.logits, atol=1e-6, rtol=1e-5)
    assert [kept.tolist() for kept in found.kept.values()] == many.kept.t().tolist()
    assert found.singles.keys() == singles.keys()
    for layer, single in singles.items():
        assert torch.equal(found.singles[layer].tokens, single.tokens)
        torch.testing.assert_close(found.singles[layer].logits, single.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.singles[layer].clip_logits, single.clip_logits, atol=1e-5, rtol=1e-5)


def test_only_stream_1_and_agents_logits_have_gradients() -> None:
    found = run(small_model().train(), FRESH)
    assert found.plain is not None
    assert found.pruned is not None
    assert not found.plain.requires_grad
    assert found.pruned.requires_grad
    for single in found.singles.values():
        assert not single.logits.requires_grad
        assert single.clip_logits.requires_grad
    assert found.trained is None
    assert found.keep_probability == {}


def test_rewards_see_no_dropout_where_it_is_off() -> None:
    quiet, noisy = small_model().train(), small_model(dropout_rate=0.3, attention_dropout_rate=0.3).train()
    prune = PruneConfig(reward_dropout="off", plain_loss=1.0)
    one, other = run(quiet, prune), run(noisy, prune)
    assert one.plain is not None
    assert other.plain is not None
    torch.testing.assert_close(one.plain, other.plain)
    for layer, single in one.singles.items():
        torch.testing.assert_close(other.singles[layer].logits, single.logits)
    assert one.pruned is not None
    assert other.pruned is not None
    assert other.trained is not None
    assert not torch.allclose(one.pruned, other.pruned, atol=1e-3)
    assert not torch.allclose(other.trained, other.plain, atol=1e-3)
    assert other.trained.requires_grad
    assert all(module.training for module in noisy.modules())


def test_keep_probabilities_are_means_over_the_tokens_that_can_be_pruned() -> None:
    model = small_model().train()
    found = run(model, replace(FRESH, keep_penalty=1.0))
    many = passes.masked(model, pictures(5), model.cfg.clip_layers, Rule())
    alive = torch.ones(5, 31, dtype=torch.bool)
    for layer, said in many.agent_logits.items():
        probability = [
            said[b, n].softmax(-1)[0].item() for b in range(5) for n in range(1, 31) if bool(alive[b, n])
        ]
        assert found.keep_probability[layer].item() == pytest.approx(
            sum(probability) / len(probability), abs=1e-5
        )
        alive = many.masks[layer] == 0
    assert len(found.keep_probability) == 3


def test_cheap_agents_say_what_the_four_maps_say() -> None:
    model = small_model()
    agent = model.agents[1]
    x = torch.randn(3, 7, model.cfg.hidden_size, generator=torch.Generator().manual_seed(0))
    said = agent(x)
    torch.testing.assert_close(difference(agent, x), said[..., 1] - said[..., 0], atol=1e-5, rtol=1e-5)
    tokens = torch.tensor([6, 1, 3])
    torch.testing.assert_close(
        logits_at(agent, x, tokens), said[torch.arange(3), tokens], atol=1e-6, rtol=1e-5
    )
    along, offset = direction(agent, x[:, 0])
    by_hand = (x[1, 4] * along[1]).sum() + offset[1]
    torch.testing.assert_close(by_hand, said[1, 4, 1] - said[1, 4, 0], atol=1e-5, rtol=1e-5)


def test_gradients_of_the_chosen_tokens_are_those_of_all_tokens_logits() -> None:
    agent = small_model().agents[1]
    x = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0))
    tokens, params = torch.tensor([6, 1, 3]), list(agent.parameters())
    few = torch.autograd.grad(logits_at(agent, x, tokens).square().sum(), params)
    all_of_them = torch.autograd.grad(agent(x)[torch.arange(3), tokens].square().sum(), params)
    for one, other in zip(few, all_of_them, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
