"""Losses, logs, the optimiser and the rule of updates."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from apt_vit.config import Config, DataConfig, OptimConfig, PruneConfig, QuirkConfig
from apt_vit.learning.actions import Draws
from apt_vit.learning.streams import Streams
from apt_vit.model import VisionTransformer
from apt_vit.steps import Updates, agent_loss, losses, make_optimizer, train_step
from apt_vit.tokens.passes import Single
from prunelab.errors import UserError

from .small import pictures, small_model

Y = torch.tensor([0, 1, 2])
FAITHFUL = QuirkConfig.of("faithful")


def single(shift: float) -> Single:
    logits = torch.zeros(3, 5)
    logits[0, 0], logits[1, 1] = shift, -shift
    return Single(logits=logits, clip_logits=torch.tensor([[0.0, 1.0]] * 3), tokens=torch.tensor([1, 2, 3]))


def test_labels_say_whether_the_true_class_became_more_probable() -> None:
    loss, logs = agent_loss(single(0.5), torch.full((3,), 0.2), Y, Config(quirks=FAITHFUL))
    assert logs.labels.tolist() == [1, 0, 0]
    assert logs.rewards[0] > 0 > logs.rewards[1]
    assert logs.rewards[2] == 0
    prune, keep = 0.3132617, 1.3132617  # cross entropies of logits 0 and 1
    assert loss.item() == pytest.approx((prune + 2 * keep) / 3, abs=1e-6)


def test_a_reward_of_0_teaches_nothing_under_fixed() -> None:
    loss, logs = agent_loss(single(0.5), torch.full((3,), 0.2), Y, Config())
    assert logs.labels.tolist() == [1, 0, 0]
    assert loss.item() == pytest.approx((0.3132617 + 1.3132617) / 3, abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    cfg = Config(prune=PruneConfig(plain_loss=0.5, keep_penalty=3.0, keep_target=0.6))
    streams = Streams(
        plain=torch.zeros(3, 5),
        trained=torch.zeros(3, 5),
        pruned=torch.zeros(3, 4),
        singles={2: single(0.5)},
        keep_probability={2: torch.tensor(0.8)},
    )
    total, logs = losses(streams, Y, cfg)
    L_0, L_1 = torch.tensor(5.0).log(), torch.tensor(4.0).log()
    expected = L_1 + 0.5 * L_0 + logs.agents[2].loss + 3.0 * 0.2**2
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(logs.loss, L_1)
    assert logs.last_loss is logs.agents[2].loss
    figures = logs.figures()
    assert list(figures) == [
        "train/loss",
        "train/plain_loss",
        "train/agent_loss_2",
        "train/reward_2",
        "train/rewarded_2",
    ]
    torch.testing.assert_close(figures["train/plain_loss"], L_0)


def micro(model: VisionTransformer, cfg: Config, batch: int = 3) -> None:
    train_step(model, (pictures(batch), torch.arange(batch) % 5), cfg, Draws(cfg))


def test_gradients_are_added_up_and_divided_by_the_accumulation() -> None:
    model = small_model().train()
    one = Config(model=model.cfg, optim=OptimConfig(gradient_accumulation_steps=1))
    three = Config(model=model.cfg, optim=OptimConfig(gradient_accumulation_steps=3))
    micro(model, one)
    whole = {name: param.grad for name, param in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    micro(model, three)
    micro(model, three)
    for name, param in model.named_parameters():
        assert param.grad is not None
        expected = whole[name]
        assert expected is not None
        torch.testing.assert_close(param.grad, expected * (2 / 3), atol=1e-6, rtol=1e-4)


def test_a_batch_too_small_for_its_actions_is_one_line() -> None:
    model = small_model().train()
    prune = PruneConfig(greedy_share=0.0, reward_dropout="fresh")
    data = DataConfig(train_batch_size=9)
    cfg = Config(model=model.cfg, prune=prune, quirks=FAITHFUL, data=data)
    with pytest.raises(UserError, match="micro-batch of 1 picture "):
        micro(model, cfg, batch=1)
    with pytest.raises(UserError, match="of sequences of 31 "):
        micro(model, cfg, batch=90)


# --- updates ---


def updates(model: VisionTransformer, quirks: QuirkConfig, **optim: object) -> Updates:
    values = OptimConfig(**{"warmup_steps": 4, "num_steps": 10, **optim})  # type: ignore[arg-type]
    return Updates(make_optimizer(model, values), Config(model=model.cfg, optim=values, quirks=quirks))


def set_gradients(model: VisionTransformer, backbone: float, agents: float) -> None:
    """Every gradient's elements are one number."""
    for name, param in model.named_parameters():
        param.grad = torch.full_like(param, agents if "clip_layer" in name else backbone)


def sizes(model: VisionTransformer) -> tuple[int, int]:
    agents = sum(p.numel() for p in model.transformer.encoder.clip_layer.parameters())
    return sum(p.numel() for p in model.parameters()) - agents, agents


def test_an_update_follows_every_a_micro_batches_of_an_epoch() -> None:
    model = small_model()
    carried, cut = updates(model, FAITHFUL), updates(model, QuirkConfig())
    assert [carried.due(i, 8) for i in range(8)] == [False, False, True, False, False, True, False, False]
    assert [cut.due(i, 8) for i in range(8)] == [False, False, True, False, False, True, False, True]
    assert [cut.due(i, 6) for i in range(6)] == [False, False, True, False, False, True]


@pytest.mark.parametrize(("first", "rates"), [(True, [0.25, 0.5]), (False, [0.0, 0.25])])
def test_the_rate_of_an_update_is_its_own_or_the_one_before(first: bool, rates: list[float]) -> None:
    model = small_model()
    found = updates(model, QuirkConfig(scheduler_first=first), learning_rate=0.2, agent_learning_rate=0.1)
    for expected in rates:
        set_gradients(model, 1e-6, 1e-6)
        assert found.update(2)["train/lr"] == pytest.approx(0.2 * expected)
        assert [group["lr"] for group in found.optimizer.param_groups] == pytest.approx(
            [0.2 * expected, 0.1 * expected]
        )
        assert all(param.grad is None for param in model.parameters())
    assert found.count == 2


@pytest.mark.parametrize("joint", [True, False])
def test_gradients_are_clipped_by_the_common_norm_or_apart(joint: bool) -> None:
    model = small_model()
    found = updates(
        model, QuirkConfig(joint_clipping=joint), warmup_steps=0, learning_rate=1.0, max_grad_norm=0.5
    )
    backbone, agents = sizes(model)
    before = copy.deepcopy(model)
    set_gradients(model, 2.0, 1e-4)
    norms = (2.0 * backbone**0.5, 1e-4 * agents**0.5)
    common = (norms[0] ** 2 + norms[1] ** 2) ** 0.5
    assert found.update(2)["train/gradient_norm"] == pytest.approx(common, rel=1e-4)
    moved = [(a - b).detach() for a, b in zip(before.parameters(), model.parameters(), strict=True)]
    names = [name for name, _ in model.named_parameters()]
    agent = torch.cat([m.flatten() for m, n in zip(moved, names, strict=True) if "clip_layer" in n])
    rest = torch.cat([m.flatten() for m, n in zip(moved, names, strict=True) if "clip_layer" not in n])
    assert rest.norm().item() == pytest.approx(0.5, rel=1e-3)
    expected = norms[1] * (0.5 / common if joint else 1.0)
    assert agent.norm().item() == pytest.approx(expected, rel=2e-2, abs=1e-6)


def test_leftovers_weigh_as_much_as_a_whole_update() -> None:
    def moved(position: int, gradient: float) -> Tensor:
        model = small_model()
        before = model.head.weight.detach().clone()
        found = updates(model, QuirkConfig(), warmup_steps=0, learning_rate=1.0, max_grad_norm=1e9)
        set_gradients(model, gradient, gradient)
        found.update(position)
        return before - model.head.weight.detach()

    torch.testing.assert_close(
        moved(2, 0.3), moved(3, 0.1), atol=1e-6, rtol=1e-5
    )  # one of three in the second


def test_updates_go_on_from_their_state() -> None:
    model = small_model()
    first = updates(model, QuirkConfig(), learning_rate=0.2)
    set_gradients(model, 1e-6, 1e-6)
    first.update(2)
    second = updates(model, QuirkConfig(), learning_rate=0.2)
    second.load_state_dict(first.state_dict())
    set_gradients(model, 1e-6, 1e-6)
    assert second.update(2)["train/lr"] == pytest.approx(0.05)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = small_model()
    found = updates(model, QuirkConfig(), warmup_steps=0)
    before = copy.deepcopy(model.state_dict())
    set_gradients(model, torch.nan, 0.0)
    with pytest.raises(UserError, match="gradient is nan"):
        found.update(2)
    assert found.count == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_optimiser_holds_every_parameter_once() -> None:
    model = small_model()
    optimizer = make_optimizer(model, OptimConfig(momentum=0.8, weight_decay=0.1))
    held = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(held) == sorted(id(param) for param in model.parameters())
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    alone = make_optimizer(small_model(clip_layers=()), OptimConfig())
    assert len(alone.param_groups) == 1


def test_without_agents_the_original_s_loss_is_stream_1_s() -> None:
    model = small_model().train()
    cfg = Config(model=model.cfg, prune=PruneConfig(method="plain"))
    logs = train_step(model, (pictures(3), Y), replace(cfg), Draws(cfg))
    assert logs.last_loss is logs.loss
    assert list(logs.figures()) == ["train/loss"]
    assert logs.kept == {}
