"""Micro-batches: the losses of one and of several processes, when weights are updated, mixed precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from expansionnet import steps
from expansionnet.config import Config, OptimConfig, QuirkConfig, RunOptions, ScstConfig
from expansionnet.learning.loss import smoothed_cross_entropy
from expansionnet.learning.radam import RAdam
from expansionnet.learning.reward import Reward
from expansionnet.learning.schedules import make_schedule
from expansionnet.model import ExpansionNet
from expansionnet.steps import Updates, make_optimizer, scst_step, xe_step
from prunelab.errors import UserError

from .small import WORDS, captioner

RATES = ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other")
CAPTIONS = [["a dog and a cat sit", "a cat"], ["the bird flies", "one red bird"], ["a red sofa", "one sofa"]]
RAW = ["a dog and a cat sit on one red sofa", "the bird flies", "a red cat", "a dog"]


def network(dtype: torch.dtype = torch.float64) -> ExpansionNet:
    return captioner(**dict.fromkeys(RATES, 0.0)).model.to(dtype).train()


def config(**groups: Any) -> Config:
    optim = OptimConfig(**{"optim_type": "radam", "warmup_iters": 1, **groups.pop("optim", {})})
    scst = ScstConfig(**{"scst_max_len": 6, "num_samples": 3, **groups.pop("scst", {})})
    return Config(optim=optim, scst=scst, **groups)


def batch(places: list[int], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 16, generator=generator, dtype=torch.float64).to(dtype)
    rows = [WORDS.encode(raw) for raw in RAW]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [WORDS.pad] * (longest - len(row)) for row in rows])[places]
    pads = (tokens == WORDS.pad).sum(1)
    return {"x": x[places], "pads": None, "tokens": tokens, "token_pads": pads, "indices": places}


def gradients(model: ExpansionNet, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def in_ranks(monkeypatch: pytest.MonkeyPatch, total: float, world: int = 2) -> None:
    """Let this process be one of several that count ``total`` together."""
    monkeypatch.setattr(steps.dist, "world_size", lambda: world)
    monkeypatch.setattr(steps.dist.distributed, "all_reduce", lambda tensor: tensor.fill_(total))


def test_cross_entropy_is_the_mean_over_words_and_its_logs_hold_no_graph() -> None:
    model, cfg = network(), config()
    some = batch([0, 1, 2, 3])
    found = xe_step(model, some, cfg, WORDS)
    logits = model(some["x"], some["tokens"][:, :-1], None, some["token_pads"])
    expected = smoothed_cross_entropy(logits, some["tokens"][:, 1:], pad=WORDS.pad, smoothing=0.1)
    torch.testing.assert_close(found.value, expected)
    assert found.value.requires_grad
    assert float(found.logs["train/loss"]) == pytest.approx(float(expected.detach()))


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cfg = network(), config()
    whole = gradients(model, xe_step(model, batch([0, 1, 2, 3]), cfg, WORDS).value)
    words = [int((batch(places)["tokens"][:, 1:] != WORDS.pad).sum()) for places in ([0, 1], [2, 3])]
    assert words[0] != words[1]
    in_ranks(monkeypatch, sum(words))
    parts = [gradients(model, xe_step(model, batch(p), cfg, WORDS).value) for p in ([0, 1], [2, 3])]
    torch.testing.assert_close([(a + b) / 2 for a, b in zip(*parts, strict=True)], whole)


def test_under_the_quirk_each_process_divides_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cfg = network(), config(quirks=QuirkConfig(mean_of_means=True))
    alone = xe_step(model, batch([0, 1]), cfg, WORDS).value
    in_ranks(monkeypatch, 1000)
    torch.testing.assert_close(xe_step(model, batch([0, 1]), cfg, WORDS).value, alone)


@pytest.mark.parametrize("baseline", ["average", "greedy"])
@pytest.mark.parametrize("scoring", ["original", "rescored"])
def test_a_self_critical_step_logs_what_its_samples_earn(scoring: str, baseline: str) -> None:
    model, reward = network(), Reward.from_references(CAPTIONS, end=True)
    cfg = config(scst={"scoring": scoring, "baseline": baseline})
    torch.manual_seed(1)
    found = scst_step(model, batch([2, 0]), cfg, WORDS, reward)
    logs = {name: float(value) for name, value in found.logs.items()}
    assert logs["train/loss"] == float(found.value.detach())
    assert 1 <= logs["train/sample_length"] <= 6
    assert 0 <= logs["train/ended"] <= 1
    if baseline == "average":
        assert logs["train/baseline"] == pytest.approx(logs["train/reward"])
    assert found.value.dtype == torch.float64
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients(model, found.value))


def test_better_samples_become_likelier() -> None:
    model, reward = network(), Reward.from_references(CAPTIONS, end=True)
    good = [WORDS.id(word) for word in ("the", "bird", "flies")] + [WORDS.eos]
    bad = [WORDS.id(word) for word in ("on", "on", "on")] + [WORDS.eos]
    tokens = torch.tensor([good, bad])
    cfg = config(scst={"num_samples": 2, "scst_max_len": 4})

    def step() -> steps.Loss:
        columns = iter(tokens.T)
        return scst_step(model, batch([1]), cfg, WORDS, reward, draw=lambda _, rows: next(columns)[rows])

    before = step()
    assert before.logs["train/sample_length"] == 4
    assert before.logs["train/ended"] == 1
    with torch.no_grad():
        for param, gradient in zip(model.parameters(), gradients(model, before.value), strict=True):
            param -= 0.01 * gradient
    # The loss is the difference of both samples' -log p, times what the better one earns more.
    assert step().value < before.value


def test_samples_of_all_processes_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reward = network(), Reward.from_references(CAPTIONS, end=True)
    cfg = config(scst={"scst_max_len": 4})
    columns = torch.randint(len(WORDS), (4, 6), generator=torch.Generator().manual_seed(0))

    def step() -> Tensor:
        rows_of = iter(columns)
        return scst_step(
            model, batch([1, 0]), cfg, WORDS, reward, draw=lambda _, rows: next(rows_of)[rows]
        ).value

    alone = step()
    in_ranks(monkeypatch, 6 + 2)  # this process has 6 samples, another one 2
    torch.testing.assert_close(step(), alone * 6 / 4)


@pytest.mark.parametrize(
    ("first_alone", "accumulated", "expected"),
    [
        (True, 1, [0, 1, 2, 3, 4, 5, 6]),
        (False, 1, [0, 1, 2, 3, 4, 5, 6]),
        (True, 3, [0, 3, 6]),
        (False, 3, [2, 5, 6]),
        (True, 4, [0, 4]),
        (False, 4, [3, 6]),
    ],
)
def test_updates_come_when_they_are_due(first_alone: bool, accumulated: int, expected: list[int]) -> None:
    cfg = config(optim={"num_accum": accumulated}, quirks=QuirkConfig(first_step_alone=first_alone))
    optimizer = make_optimizer(network(), cfg.optim)
    updates = Updates(optimizer, make_schedule(optimizer, cfg.optim, 7), cfg, total=7)
    assert [it for it in range(7) if updates.due(it)] == expected


def test_gradients_are_summed_and_the_schedule_counts_micro_batches() -> None:
    weights = torch.nn.Linear(1, 1, bias=False)
    cfg = config(optim={"num_accum": 2, "warmup_iters": 4, "lr": 0.1})
    optimizer = make_optimizer(weights, cfg.optim)
    updates = Updates(optimizer, make_schedule(optimizer, cfg.optim, 10), cfg, total=3)
    logs = [updates.backward(3.0 * weights.weight.sum(), it) for it in range(3)]
    assert [entry["train/learning_rate"] for entry in logs] == pytest.approx([0.1 / 4, 0.1 / 3, 0.1 / 2])
    assert [entry.get("train/gradient_norm") for entry in logs] == [None, 6.0, 3.0]
    assert weights.weight.grad is None
    assert optimizer.state[weights.weight]["step"] == 2


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    weights, cfg = torch.nn.Linear(1, 1, bias=False), config(optim={"optim_type": "adam"})
    before = weights.weight.detach().clone()
    optimizer = make_optimizer(weights, cfg.optim)
    updates = Updates(optimizer, make_schedule(optimizer, cfg.optim, 10), cfg, total=3)
    with pytest.raises(UserError, match="gradient is nan"):
        updates.backward(weights.weight.sum() * float("nan"), 0)
    assert torch.equal(weights.weight, before)


def test_optimisers_have_the_papers_numbers() -> None:
    model = network()
    radam, adam = (make_optimizer(model, OptimConfig(optim_type=name)) for name in ("radam", "adam"))
    assert isinstance(radam, RAdam)
    assert isinstance(adam, Adam)
    assert (radam.defaults["lr"], radam.defaults["betas"], radam.defaults["eps"]) == (1.0, (0.9, 0.98), 1e-9)
    assert (adam.defaults["lr"], adam.defaults["betas"], adam.defaults["eps"]) == (1.0, (0.9, 0.999), 1e-8)
    held = radam.param_groups[0]["params"]
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))


def test_half_precision_is_for_the_forward_pass_alone() -> None:
    model, reward = network(torch.float32), Reward.from_references(CAPTIONS, end=True)
    full = config()
    half = replace(full, run=RunOptions(amp="bf16"))
    some = batch([0, 1, 2], torch.float32)
    exact, near = xe_step(model, some, full, WORDS).value, xe_step(model, some, half, WORDS).value
    assert near.dtype == torch.float32
    assert float(near.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    assert near != exact
    for scoring in ("original", "rescored"):
        cfg = replace(half, scst=ScstConfig(scst_max_len=5, num_samples=2, scoring=scoring))
        torch.manual_seed(0)
        loss = scst_step(model, some, cfg, WORDS, reward).value
        assert all(gradient.dtype == torch.float32 for gradient in gradients(model, loss))
