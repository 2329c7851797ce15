"""The optimiser against a plain one; its state is the original's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.benches.step_reference import BETAS, EPSILON, PlainRAdam
from expansionnet.learning import radam
from expansionnet.learning.radam import PERIOD, RAdam
from prunelab.errors import UserError

SHAPES = [(7, 5), (3,), (2, 3, 4), (1,), (40,)]


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    made.append(torch.randn(4, 6, generator=generator).t())  # no view of it is flat
    return [param.requires_grad_() for param in made]


def give_gradients(step: int, *lists: list[Tensor], leave_out: int | None = None) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for place in range(len(lists[0])):
        gradient = torch.randn(lists[0][place].shape, generator=generator)
        for params in lists:
            params[place].grad = None if place == leave_out else gradient.clone()


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_steps_are_those_of_the_plain_optimiser(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setitem(radam.CHUNK, "cpu", chunk)
    ours, theirs = parameters(), parameters()
    optimizer, plain = RAdam(ours, lr=0.02, betas=BETAS, eps=EPSILON), PlainRAdam(theirs, 0.02)
    for step in range(9):
        before = [param.detach().clone() for param in ours]
        give_gradients(step, ours, theirs)
        optimizer.step()
        plain.step()
        moved = [not torch.equal(a, b) for a, b in zip(ours, before, strict=True)]
        assert moved == [step >= 5] * len(ours)  # nothing moves in the first five steps
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_parameters_that_had_no_gradient_at_times_count_their_own_steps() -> None:
    ours, alone = parameters(), parameters()
    optimizer = RAdam(ours, lr=0.02, betas=BETAS, eps=EPSILON)
    single = RAdam([alone[1]], lr=0.02, betas=BETAS, eps=EPSILON)
    for step in range(10):
        give_gradients(step, ours, alone, leave_out=1 if step in (0, 4) else None)
        optimizer.step()
        single.step()
    assert optimizer.state[ours[1]]["step"] == 8
    assert optimizer.state[ours[0]]["step"] == 10
    torch.testing.assert_close(ours[1], alone[1])


def test_the_state_is_plain_data_in_the_originals_layout() -> None:
    params = parameters()
    optimizer = RAdam([{"params": params[:2]}, {"params": params[2:]}], lr=0.02)
    for step in range(3):
        give_gradients(step, params)
        optimizer.step()
    state = optimizer.state_dict()
    assert all(set(entry) == {"step", "exp_avg", "exp_avg_sq"} for entry in state["state"].values())
    assert all(type(entry["step"]) is int for entry in state["state"].values())
    first, second = state["param_groups"]
    assert set(first) == {"lr", "betas", "eps", "weight_decay", "buffer", "params"}
    assert first["buffer"] == second["buffer"]
    assert optimizer.param_groups[0]["buffer"] is not optimizer.param_groups[1]["buffer"]
    assert len(first["buffer"]) == PERIOD
    assert [row[0] for row in first["buffer"]] == [None, 1, 2, 3, *[None] * 6]


def test_training_goes_on_from_a_saved_state() -> None:
    straight, stopped = parameters(), parameters()
    one, two = (RAdam(params, lr=0.02, betas=BETAS, eps=EPSILON) for params in (straight, stopped))
    for step in range(6):
        give_gradients(step, straight, stopped)
        one.step()
        two.step()
    saved: dict[str, Any] = copy.deepcopy(two.state_dict())
    resumed = RAdam(stopped, lr=9.0, betas=BETAS, eps=EPSILON)
    resumed.load_state_dict(saved)
    for step in range(6, 14):
        give_gradients(step, straight, stopped)
        one.step()
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))


def test_a_closure_computes_the_loss_again() -> None:
    params = parameters()
    optimizer = RAdam(params, degenerated_to_sgd=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([param.square().sum() for param in params]).sum()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"betas": (0.9, 1.0)}, "beta 2 is 1.0"),
    ],
)
def test_numbers_outside_their_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RAdam(parameters(), **wrong)
