"""Training by cross entropy agrees with a recorded run of the original, and goes on from its checkpoint."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.config import Config
from expansionnet.learning.schedules import from_original, make_schedule, to_original
from expansionnet.model import ExpansionNet
from expansionnet.steps import Updates, make_optimizer, xe_step
from testing.parity import Folder, of_kind

from .recorded import load_model
from .recorded_training import RecordedData, config, data_of


class Training:
    """A plain loop over the recorded batches."""

    def __init__(self, folder: Folder, model: ExpansionNet) -> None:
        self.cfg: Config = config(folder)
        self.data: RecordedData = data_of(folder)
        self.expected = folder.json("expected*.json")
        self.model = model.train()
        self.optimizer = make_optimizer(model, self.cfg.optim)
        self.batches = self.expected["num_batches"]
        self.schedule = make_schedule(self.optimizer, self.cfg.optim, self.batches)
        total = self.batches * self.cfg.optim.num_epochs
        self.updates = Updates(self.optimizer, self.schedule, self.cfg, total)

    def run(self, start: int, count: int) -> list[tuple[int, float, float]]:
        """Iteration, loss and learning rate of each of ``count`` micro-batches."""
        found = []
        for it in range(start, start + count):
            epoch, place = divmod(it, self.batches)
            batch = next(islice(self.data.epoch(epoch), place, None))
            loss = xe_step(self.model, batch, self.cfg, self.data.vocabulary).value
            logs = self.updates.backward(loss, it)
            found.append((it, float(loss.detach()), logs["train/learning_rate"]))
        return found


def first_gradients(training: Training) -> dict[str, Tensor]:
    batch = next(training.data.epoch(0))
    xe_step(training.model, batch, training.cfg, training.data.vocabulary).value.backward()
    gradients = {n: p.grad.clone() for n, p in training.model.named_parameters() if p.grad is not None}
    training.optimizer.zero_grad()
    return gradients


def check(found: list[Any], expected: list[Any], tolerance: dict[str, float]) -> None:
    assert [it for it, _, _ in found] == [it for it, _, _ in expected]
    for (_, loss, rate), (_, loss_there, rate_there) in zip(found, expected, strict=True):
        assert loss == pytest.approx(loss_there, rel=0, abs=tolerance["loss_abs"])
        assert rate == pytest.approx(rate_there, rel=tolerance["lr_rel"])


@pytest.mark.parity
@of_kind("train_xe")
def test_losses_rates_gradients_and_weights_are_those_recorded(folder: Folder) -> None:
    tolerance = folder.tolerance
    training = Training(folder, load_model(folder, folder.facts["initial"]))
    expected, recorded = training.expected, folder.arrays("grads*.npz")
    gradients = first_gradients(training)
    assert set(gradients) == set(recorded)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, recorded[name], rtol=0, atol=tolerance["first_grads_abs"])
    count = folder.facts["num_iterations"]
    check(
        training.run(0, count),
        list(zip(range(count), expected["losses"], expected["lr"], strict=True)),
        tolerance,
    )
    final = folder.weights(folder.facts["checkpoint"])["model_state_dict"]
    factor, noise = tolerance["final_weights_sensitivity_factor"], set(expected["noise_gradient_params"])
    for name, weights in training.model.state_dict().items():
        if name not in noise:
            near = max(tolerance["final_weights_abs"], factor * expected["param_sensitivity"][name])
            torch.testing.assert_close(weights, final[name], rtol=0, atol=near, msg=name)


@pytest.mark.parity
@of_kind("train_xe")
def test_schedule_and_optimizer_keep_the_recorded_state(folder: Folder) -> None:
    training = Training(folder, load_model(folder, folder.facts["initial"]))
    training.run(0, folder.facts["num_iterations"])
    expected, saved = training.expected, folder.weights(folder.facts["checkpoint"])
    found = to_original(training.schedule)
    assert found["last_epoch"] == expected["scheduler_state"]["last_epoch"]
    assert found == {
        name: pytest.approx(value) if name == "_last_lr" else value
        for name, value in saved["scheduler_state_dict"].items()
        if name in found
    }
    state, there = training.optimizer.state_dict(), saved["optimizer_state_dict"]
    assert {entry["step"] for entry in state["state"].values()} == {expected["optimizer_state_steps"]}
    assert set(state["state"]) == set(there["state"])
    for place, entry in there["state"].items():
        assert {key: getattr(value, "shape", None) for key, value in entry.items()} == {
            key: getattr(value, "shape", None) for key, value in state["state"][place].items()
        }
    group = state["param_groups"][0]
    assert set(expected["optimizer_param_group_keys"]) - {"initial_lr"} == set(group)
    for row, row_there in zip(group["buffer"], expected["optimizer_buffer"], strict=True):
        assert row == pytest.approx(row_there)


@pytest.mark.parity
@of_kind("train_xe")
def test_training_goes_on_from_the_recorded_checkpoint(folder: Folder) -> None:
    saved, resume = folder.weights(folder.facts["checkpoint"]), folder.json("resume*.json")
    training = Training(folder, load_model(folder, folder.facts["checkpoint"]))
    training.optimizer.load_state_dict(saved["optimizer_state_dict"])
    training.schedule.load_state_dict(from_original(saved["scheduler_state_dict"]))
    training.data = RecordedData(folder)
    training.data.seeds = saved["data_loader_state_dict"]["array_of_init_seed"]
    start = resume["start_iteration"]
    found = training.run(start, folder.facts["num_resume_iterations"])
    check(found, resume["iteration_loss_lr"], folder.tolerance)
