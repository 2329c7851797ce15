"""Self-critical training agrees with a recorded run: the original's way, and scored by one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.learning.reward import Reward
from expansionnet.learning.schedules import make_schedule
from expansionnet.learning.scst import draw_and_score
from expansionnet.steps import Updates, make_optimizer, scst_step
from prunelab.caption.reward import average_baseline
from prunelab.decode import Draw
from testing.parity import Folder, of_kind

from .recorded import load_model
from .recorded_training import config, data_of

WAYS = [("original", "train"), ("rescored", "eval")]
"""With gradients at every step of the sampling, or by one pass; without dropout they are equal."""


class Training:
    """A plain loop over the recorded batches, whose samples are the recorded captions."""

    def __init__(self, folder: Folder, scoring: str, sample_mode: str) -> None:
        facts, self.expected = folder.facts, folder.json("expected*.json")
        self.cfg = config(
            folder,
            reinforce=True,
            scoring=scoring,
            sample_mode=sample_mode,
            scst_max_len=facts["scst_max_len"],
            num_samples=facts["num_samples_per_image"],
        )
        self.data = data_of(folder)
        self.model = load_model(folder, facts["initial"]).train()
        self.optimizer = make_optimizer(self.model, self.cfg.optim)
        batches = self.expected["num_batches"]
        schedule = make_schedule(self.optimizer, self.cfg.optim, batches)
        self.updates = Updates(self.optimizer, schedule, self.cfg, batches * self.cfg.optim.num_epochs)
        self.reward = Reward.from_references(self.data.captions, end=self.cfg.scst.end_in_reward)

    def batches(self) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        """Number of the micro-batch, the batch, and what was recorded of it."""
        epochs = (self.data.epoch(number) for number in range(self.cfg.optim.num_epochs))
        batches = (batch for epoch in epochs for batch in epoch)
        for it, (batch, step) in enumerate(zip(batches, self.expected["steps"], strict=False)):
            assert batch["indices"] == step["img_idx"]
            yield it, batch, step

    def ids(self, step: dict[str, Any]) -> Tensor:
        """(N, L) recorded samples after the start, padded."""
        vocabulary = self.data.vocabulary
        rows = [[vocabulary.id(w) for w in words[1:]] for image in step["captions"] for words in image]
        longest = max(map(len, rows))
        return torch.tensor([row + [vocabulary.pad] * (longest - len(row)) for row in rows])

    def forced(self, step: dict[str, Any]) -> Draw:
        """Draws the recorded samples."""
        columns = iter(self.ids(step).T)
        return lambda _, rows: next(columns)[rows]

    def step(self, it: int, batch: dict[str, Any], step: dict[str, Any]) -> Any:
        done = scst_step(
            self.model, batch, self.cfg, self.data.vocabulary, self.reward, draw=self.forced(step)
        )
        return done, self.updates.backward(done.value, it)


def near(found: Tensor, expected: Any, *, rel: float = 0.0, absolute: float = 0.0) -> None:
    there = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), there, rtol=rel, atol=absolute)


@pytest.mark.parity
@pytest.mark.parametrize(("scoring", "sample_mode"), WAYS)
@of_kind("train_scst")
def test_losses_rewards_log_probabilities_and_weights_are_those_recorded(
    folder: Folder, scoring: str, sample_mode: str
) -> None:
    training, tolerance = Training(folder, scoring, sample_mode), folder.tolerance
    cfg, vocabulary, expected = training.cfg.scst, training.data.vocabulary, training.expected
    losses = []
    for it, batch, step in training.batches():
        with torch.no_grad():
            draw = training.forced(step)
            samples = draw_and_score(training.model, batch["x"], None, cfg, vocabulary, draw=draw)
        length = len(step["logprobs"][0][0]) - 1
        found = samples.log_probs[..., :length]
        near(
            found,
            [[row[1:] for row in image] for image in step["logprobs"]],
            absolute=tolerance["logprobs_abs"],
        )
        assert not samples.log_probs[..., length:].any()
        r = training.reward.of_tokens(samples.tokens, step["img_idx"], vocabulary.words, vocabulary.eos)
        near(r, step["reward"], rel=tolerance["reward_rel"], absolute=1e-15)
        near(average_baseline(r), step["baseline"], rel=tolerance["reward_rel"], absolute=1e-15)
        done, logs = training.step(it, batch, step)
        losses.append(float(done.value.detach()))
        assert done.value.dtype == torch.float64
        assert logs["train/learning_rate"] == pytest.approx(expected["lr"][it], rel=tolerance["lr_rel"])
    assert len(losses) == folder.facts["num_iterations"]
    assert losses == pytest.approx(expected["losses"], rel=0, abs=tolerance["loss_abs"])
    final, noise = folder.arrays("final*.npz"), set(expected["noise_gradient_params"])
    for name, weights in training.model.state_dict().items():
        if name not in noise:
            near(weights, final[name].tolist(), absolute=tolerance["final_weights_abs"])


@pytest.mark.parity
@pytest.mark.parametrize(("scoring", "sample_mode"), WAYS)
@of_kind("train_scst")
def test_gradients_of_the_first_step_are_those_recorded(
    folder: Folder, scoring: str, sample_mode: str
) -> None:
    training, tolerance = Training(folder, scoring, sample_mode), folder.tolerance
    _, batch, step = next(training.batches())
    draw = training.forced(step)
    scst_step(
        training.model, batch, training.cfg, training.data.vocabulary, training.reward, draw=draw
    ).value.backward()
    recorded = folder.arrays("grads*.npz")
    found = {name: param.grad for name, param in training.model.named_parameters()}
    assert {name for name, gradient in found.items() if gradient is not None} == set(recorded)
    for name, gradient in recorded.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=tolerance["first_grads_rel"],
            atol=tolerance["first_grads_abs"],
        )


@pytest.mark.parity
@of_kind("train_scst")
def test_seeded_draws_of_the_originals_way_are_the_recorded_captions(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.__version__.startswith("2.15"):
        pytest.skip(f"draws were recorded with torch 2.15, this is {torch.__version__}")
    training = Training(folder, "original", "train")
    seen: list[Tensor] = []
    score = training.reward.of_tokens

    def spy(tokens: Tensor, *rest: Any) -> Tensor:
        seen.append(tokens)
        return score(tokens, *rest)

    monkeypatch.setattr(training.reward, "of_tokens", spy)
    torch.manual_seed(folder.facts["torch_seed"])
    for it, batch, step in training.batches():
        done = scst_step(training.model, batch, training.cfg, training.data.vocabulary, training.reward)
        training.updates.backward(done.value, it)
        recorded = training.ids(step)
        assert torch.equal(seen[-1].flatten(0, 1)[:, : recorded.shape[1]], recorded)
