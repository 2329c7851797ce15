"""Rewards, baselines, loss and document frequencies agree with recorded ones."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from expansionnet.learning.reward import Reward
from expansionnet.steps import scst_loss
from prunelab.caption.reward import average_baseline
from testing.parity import Folder, of_kind

from .recorded import beside


def raw_captions(folder: Folder) -> list[list[str]]:
    """Captions of the training pictures; of entries with one id the last counts, at the first's place."""
    data = json.loads(beside(folder, folder.facts["dataset"]).read_text(encoding="utf-8"))
    images: dict[Any, list[str]] = {}
    for image in data["images"]:
        if image["split"] in ("train", "restval"):
            images[image["cocoid"]] = [sentence["raw"] for sentence in image["sentences"]]
    return list(images.values())


def recorded_reward(folder: Folder) -> Reward:
    reward = Reward.from_references(raw_captions(folder), end=True)
    reward.metric.scorer.sigma = folder.facts["sigma"]
    return reward


def doubles(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parity
@of_kind("cider_reward")
def test_references_of_the_reward_are_those_recorded(folder: Folder) -> None:
    reward = Reward.from_references(raw_captions(folder), end=True)
    cooked, recorded = reward.references.cooked, folder.json("references*.json")
    assert cooked.captions == tuple(caption for image in recorded for caption in image)
    assert np.diff(cooked.first_caption).tolist() == [len(image) for image in recorded]


@pytest.mark.parity
@of_kind("cider_reward")
def test_rewards_baselines_and_gradients_are_those_recorded(folder: Folder) -> None:
    io, tolerance = folder.json("io*.json"), folder.tolerance
    reward = recorded_reward(folder)
    samples = [[words[1:] for words in image] for image in io["hypotheses"]]
    scores = reward.of_words(samples, io["image_indices"])
    close = {"rtol": tolerance["reward_rel"], "atol": 1e-15}
    torch.testing.assert_close(scores, doubles(io["reward"]), **close)
    log_probs = torch.tensor(io["logprobs"], requires_grad=True)
    average = average_baseline(scores)
    torch.testing.assert_close(average, doubles(io["baseline"]), **close)
    loss = scst_loss(scores, average, log_probs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(io["loss"], rel=tolerance["loss_rel"])
    (gradient,) = folder.arrays("grad*.npz").values()
    torch.testing.assert_close(log_probs.grad, gradient, rtol=tolerance["grad_rel"], atol=1e-12)


@pytest.mark.parity
@of_kind("cider_reward")
def test_a_baseline_of_one_caption_a_picture_gives_the_recorded_loss(folder: Folder) -> None:
    io, tolerance = folder.json("io*.json"), folder.tolerance
    reward = recorded_reward(folder)
    first = reward.of_words([[image[0][1:]] for image in io["hypotheses"]], io["image_indices"])
    close = {"rtol": tolerance["reward_rel"], "atol": 1e-15}
    torch.testing.assert_close(first.squeeze(1), doubles(io["first_sample_scores"]), **close)
    recorded, scores = io["greedy_variant"], doubles(io["reward"])
    torch.testing.assert_close(first.expand_as(scores), doubles(recorded["baseline"]), **close)
    loss = scst_loss(scores, first, torch.tensor(io["logprobs"]))
    assert float(loss) == pytest.approx(recorded["loss"], rel=tolerance["loss_rel"])


@pytest.mark.parity
@of_kind("cider_reward")
def test_frequencies_and_the_number_of_pictures_are_those_recorded(folder: Folder) -> None:
    io = folder.json("io*.json")
    table = Reward.from_references(raw_captions(folder), end=True).metric.frequency
    assert table.idf_absent == pytest.approx(io["log_num_images"], rel=1e-12)
    assert math.exp(table.idf_absent) == pytest.approx(table.images)
    counts = table.counts()
    for words, frequency in io["df_samples"].items():
        assert counts.get(tuple(words.split(" ")), 0) == frequency, words
