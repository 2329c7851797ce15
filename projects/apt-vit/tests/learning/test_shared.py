"""The step that shares its streams, held against single passes and against the plain reference."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from apt_vit.benches.step_reference import plain_step
from apt_vit.config import Config, OptimConfig, PruneConfig, QuirkConfig, RunOptions
from apt_vit.learning import products, shared
from apt_vit.learning.actions import Draws, choose
from apt_vit.model import VisionTransformer
from apt_vit.steps import Logs, train_step
from apt_vit.tokens.rules import Rule

from ..small import pictures, small_model

B = 5
CLASSES = torch.tensor([0, 1, 2, 3, 4])
ONE = OptimConfig(gradient_accumulation_steps=1)


def config(model: VisionTransformer, prune: PruneConfig, **changes: object) -> Config:
    cfg = Config(model=model.cfg, prune=prune, optim=ONE, quirks=QuirkConfig.of("faithful"))
    return replace(cfg, **changes)


def step(model: VisionTransformer, cfg: Config, seed: int = 0) -> tuple[Logs, dict[str, Tensor]]:
    """Logs and gradients of a step from the beginning of a run."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    logs = train_step(model, (pictures(B, model.cfg), CLASSES), cfg, Draws(cfg))
    return logs, gradients(model)


def gradients(model: VisionTransformer) -> dict[str, Tensor]:
    return {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


AGENTS = {
    "threshold": PruneConfig(),
    "nothing": PruneConfig(threshold=1.0),
    "one layer late": PruneConfig(threshold=0.93),
    "keep rate": PruneConfig(keep_rate=0.7),
    "little is kept": PruneConfig(keep_rate=0.05),
}


@pytest.mark.parametrize("layers", [(1, 3, 4), (0, 5), (2,)])
@pytest.mark.parametrize("prune", AGENTS.values(), ids=AGENTS)
def test_a_step_is_the_plain_reference_s(prune: PruneConfig, layers: tuple[int, ...]) -> None:
    model = small_model(clip_layers=layers).train()
    cfg = config(model, prune)
    source = Draws(cfg).begin()
    try_one = partial(choose, cfg=cfg, rng=source)
    plain = plain_step(model, pictures(B), CLASSES, Rule.of(prune), try_one)
    expected = gradients(model)
    logs, found = step(model, cfg)
    check(found, expected)
    torch.testing.assert_close(logs.loss, plain["loss"])
    assert torch.equal(torch.stack(list(logs.kept.values()), dim=1), plain["kept"])
    assert list(logs.agents) == list(layers)
    for layer, agent in logs.agents.items():
        assert torch.equal(agent.tokens, plain[f"tokens {layer}"])
        torch.testing.assert_close(agent.rewards, plain[layer], atol=1e-6, rtol=0)
        assert torch.equal(agent.labels, (plain[layer] > 0).long())


def test_cases_differ_in_what_is_pruned() -> None:
    model = small_model().train()
    counts = {name: step(model, config(model, prune))[0].kept for name, prune in AGENTS.items()}
    whole = [31] * B
    assert all(kept.tolist() == whole for kept in counts["nothing"].values())
    late = [kept.tolist() != whole for kept in counts["one layer late"].values()]
    assert late == sorted(late)
    assert late[0] is False
    assert late[-1] is True
    assert len(set(counts["threshold"][1].tolist())) > 1
    assert [kept.tolist() for kept in counts["keep rate"].values()] == [[22] * B, [15] * B, [11] * B]


OTHERS = {
    "plain": PruneConfig(method="plain"),
    "random": PruneConfig(method="random", keep_rate=0.6),
    "cls-attention": PruneConfig(method="cls-attention", keep_rate=0.6),
    "random and plain": PruneConfig(method="random", keep_rate=0.6, plain_loss=0.5),
    "penalty": PruneConfig(keep_penalty=2.0),
    "penalty, nothing pruned": PruneConfig(keep_penalty=2.0, threshold=1.0),
    "plain loss": PruneConfig(plain_loss=0.5),
    "plain loss, nothing pruned": PruneConfig(plain_loss=0.5, threshold=1.0),
    "all": PruneConfig(plain_loss=0.5, keep_penalty=2.0, keep_rate=0.7),
}


@pytest.mark.parametrize("prune", OTHERS.values(), ids=OTHERS)
def test_a_step_is_that_of_single_passes(prune: PruneConfig) -> None:
    model = small_model().train()
    fixed = QuirkConfig()
    logs, found = step(model, config(model, prune, quirks=fixed))
    alone = replace(prune, drop_in_training=False)
    expected_logs, expected = step(model, config(model, alone, quirks=fixed))
    check(found, expected)
    one, other = logs.figures(), expected_logs.figures()
    assert one.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, atol=1e-6, rtol=1e-5)
    agents = [name for name in found if "clip_layer" in name]
    assert bool(agents) == prune.trains_agents


def test_without_clip_layers_there_is_stream_1_alone() -> None:
    model = small_model(clip_layers=()).train()
    logs, found = step(model, config(model, PruneConfig()))
    assert logs.agents == {}
    assert logs.kept == {}
    _, expected = step(model, config(model, PruneConfig(method="plain")))
    check(found, expected)


@pytest.mark.parametrize("keep", [None, 0.7])
def test_dropout_does_not_reach_rewards(keep: float | None) -> None:
    prune = PruneConfig(keep_rate=keep, plain_loss=0.1)
    quiet = small_model().train()
    noisy = small_model(dropout_rate=0.3, attention_dropout_rate=0.2).train()
    one, other = (step(model, config(model, prune))[0] for model in (quiet, noisy))
    for layer, agent in one.agents.items():
        assert torch.equal(other.agents[layer].tokens, agent.tokens)
        torch.testing.assert_close(other.agents[layer].rewards, agent.rewards, atol=1e-6, rtol=0)
    assert abs(one.loss - other.loss) > 1e-3
    again = step(noisy, config(noisy, prune), seed=1)[0]
    assert again.loss != other.loss
    assert all(module.training for module in noisy.modules())


def test_stream_1_with_dropout_is_right_on_average() -> None:
    prune = PruneConfig(keep_rate=0.7)
    model = small_model(dropout_rate=0.05).train()
    means = []
    for drop in (True, False):
        cfg = config(model, replace(prune, drop_in_training=drop))
        losses = torch.stack([step(model, cfg, seed)[0].loss for seed in range(12)])
        means.append((losses.mean(), losses.std() / 12**0.5))
    (one, error), (other, other_error) = means
    assert abs(one - other) < 4 * (error + other_error)


def test_each_stream_draws_its_own_dropout_where_the_original_s_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "_Rewards", None)  # nothing is shared
    model = small_model(dropout_rate=0.1).train()
    prune = PruneConfig(reward_dropout="fresh")
    one, other = (step(model, config(model, prune), seed)[0] for seed in (0, 1))
    assert not torch.equal(one.agents[1].rewards, other.agents[1].rewards)


def test_mixed_precision_is_near_single_precision_and_decides_alike() -> None:
    model = small_model().train()
    for prune in (PruneConfig(), PruneConfig(reward_dropout="fresh", drop_in_training=False)):
        half = config(model, prune, run=RunOptions(amp="bf16"))
        found, gradient = step(model, half)
        expected, exact = step(model, config(model, prune))
        assert abs(found.loss - expected.loss) < 0.05 * expected.loss
        for layer, agent in found.agents.items():
            assert agent.logits.dtype == torch.float32
            assert agent.rewards.dtype == torch.float32
            assert (agent.rewards - expected.agents[layer].rewards).abs().max() < 0.02
        norm = sum(each.square().sum() for each in exact.values())
        off = sum((gradient[name] - each).square().sum() for name, each in exact.items())
        assert off < 0.15 * norm


def test_products_by_onednn_give_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model().train()
    cfg = config(model, PruneConfig())
    _, expected = step(model, cfg)
    monkeypatch.setattr(products, "LEAST", 0)
    _, found = step(model, cfg)
    check(found, expected)
