"""One micro-batch with its passes, rewards, losses, gradients and update, as recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from apt_vit.config import Config, OptimConfig, PruneConfig, QuirkConfig, RunOptions
from apt_vit.learning.actions import Draws
from apt_vit.model import VisionTransformer
from apt_vit.steps import Logs, Updates, make_optimizer, train_step
from testing.parity import Folder, of_kind

from .recorded import load_model

LOSS: dict[str, Any] = {"atol": 1e-5, "rtol": 0}
GRADIENT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-3}


def config(folder: Folder, model: VisionTransformer, factor: int, together: bool) -> Config:
    """The recorded step's; ``together``: the streams share what they have in common."""
    facts = folder.facts
    return Config(
        model=model.cfg,
        optim=OptimConfig(
            learning_rate=facts["lr"],
            momentum=facts["momentum"],
            weight_decay=facts["weight_decay"],
            max_grad_norm=facts["max_grad_norm"],
            warmup_steps=0,
            decay_type="constant",
            gradient_accumulation_steps=factor,
        ),
        prune=PruneConfig(threshold=facts["threshold"], reward_dropout="fresh", drop_in_training=together),
        run=RunOptions(seed=facts["py_seed"]),
        quirks=QuirkConfig.of("faithful"),
    )


def step(folder: Folder, factor: int, together: bool) -> tuple[VisionTransformer, Config, Logs]:
    model = load_model(folder)
    assert model is not None
    cfg = config(folder, model, factor, together)
    data = folder.arrays("data.npz")
    logs = train_step(model.train(), (data["x"], data["y"].long()), cfg, Draws(cfg))
    return model, cfg, logs


def check_logs(logs: Logs, expected: dict[str, Any]) -> None:
    def close(found: torch.Tensor | None, recorded: Any) -> None:
        assert found is not None
        torch.testing.assert_close(found, torch.tensor(recorded, dtype=found.dtype), **LOSS)

    close(logs.plain_loss, expected["loss_s0"])
    close(logs.p_old, expected["p_true_old"])
    close(logs.loss, expected["loss_s1"])
    assert list(logs.agents) == [case["layer"] for case in expected["agent"]]
    for case in expected["agent"]:
        agent = logs.agents[case["layer"]]
        assert agent.tokens.tolist() == case["action"]
        assert agent.labels.tolist() == case["label"]
        close(agent.rewards, case["reward"])
        close(agent.logits, case["clip_logit"])
        close(agent.loss, case["loss"])


@pytest.mark.parity
@pytest.mark.parametrize("together", [True, False])
@of_kind("train_step")
def test_a_step_has_the_recorded_rewards_losses_and_norms(folder: Folder, together: bool) -> None:
    for factor in folder.facts["accumulation_factors"]:
        expected = folder.json("expected.json")["passes"][f"accum{factor}"]
        model, _, logs = step(folder, factor, together)
        check_logs(logs, expected)
        gradients = [param.grad for param in model.parameters() if param.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        assert norm == pytest.approx(expected["grad_norm"], rel=1e-3, abs=1e-5)
        without = [name for name, param in model.named_parameters() if param.grad is None]
        assert without == expected["no_grad"]


@pytest.mark.parity
@pytest.mark.parametrize("together", [True, False])
@of_kind("train_step")
def test_gradients_and_the_update_are_the_recorded_ones(folder: Folder, together: bool) -> None:
    recorded, expected = folder.arrays("data.npz"), folder.json("expected.json")
    model, cfg, _ = step(folder, 1, together)
    parameters = dict(model.named_parameters())
    gradients = {name[5:]: array for name, array in recorded.items() if name.startswith("grad/")}
    assert gradients
    for name, gradient in gradients.items():
        found = parameters[name].grad
        assert found is not None
        torch.testing.assert_close(found, gradient, **GRADIENT)
    found = Updates(make_optimizer(model, cfg.optim), cfg).update(0)
    assert found["train/lr"] == pytest.approx(expected["lr"])
    assert found["train/gradient_norm"] == pytest.approx(expected["clip_norm_before"], rel=1e-3, abs=1e-5)
    after = {name[6:]: array for name, array in recorded.items() if name.startswith("after/")}
    assert after
    for name, value in after.items():
        torch.testing.assert_close(parameters[name].detach(), value, **GRADIENT)


@pytest.mark.parity
@of_kind("train_step")
def test_stream_1_trains_no_agent_and_stream_2_nothing_else(folder: Folder) -> None:
    expected = folder.json("expected.json")
    model = load_model(folder)
    assert model is not None
    names = [name for name, _ in model.named_parameters()]
    agents = [name for name in names if "clip_layer" in name]
    assert expected["zero_grad_params_in_stream1"] == agents
    first = [name for name in agents if name.split(".clip_layer.")[1].startswith("0.")]
    assert expected["nonzero_grad_params_in_stream2_first_layer"] == first
    cfg = config(folder, model, 1, together=True)
    random = replace(cfg.prune, method="random", keep_rate=0.5)  # a stream 1 and no stream 2
    data = folder.arrays("data.npz")
    train_step(model.train(), (data["x"], data["y"].long()), replace(cfg, prune=random), Draws(cfg))
    assert [name for name, param in model.named_parameters() if param.grad is None] == agents
