"""Self-critical training against recorded numbers: scores, samples, rewards, loss and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.caption.frequency import DocumentFrequency
from prunelab.caption.reward import CaptionReward, average_baseline
from prunelab.decode import Draw
from smp_caption.config import Config, QuirksConfig, ScstConfig
from smp_caption.learning.scst import SelfCritical, scst_loss
from smp_caption.model import Inputs, Network, build, choose_caching
from smp_caption.tokenizer import Tokenizer
from testing.parity import Folder, of_kind

from .parity_models import assert_gradients, assert_within, model_config

DROPOUTS = ("drop_prob_lm", "drop_prob_src", "drop_prob_layer")


def reward_of(folder: Folder, cider: float, bleu: list[float] | None, table: str) -> CaptionReward:
    frequency = DocumentFrequency.load(folder.file(table))
    return CaptionReward(frequency=frequency, cider_weight=cider, bleu_weights=bleu or [0.0] * 4)


@pytest.mark.parity
@of_kind("scst")
def test_scores_of_strings_and_baselines_are_the_recorded_ones(folder: Folder) -> None:
    recorded = folder.json(folder.facts["scorer"])
    assert recorded["cases"]
    for case in recorded["cases"]:
        reward = reward_of(folder, case["cider_weight"], case["bleu_weight"], case["df"])
        references = reward.cook(recorded["refs"])
        scores = reward.score(recorded["sample"], references)
        baseline = average_baseline(scores)
        if case["baseline"]:
            baseline = reward.score(recorded["baseline"], references).expand_as(scores)
        for found, name in ((scores, "sample_scores"), (baseline, "baseline_scores")):
            expected = torch.tensor(case[name], dtype=torch.float64)
            assert_within(found.flatten(), expected, folder.tolerance["scores"], f"{case}: {name}")


@pytest.mark.parity
@of_kind("scst")
def test_the_loss_of_given_rewards_and_its_gradient_are_the_recorded_ones(folder: Folder) -> None:
    recorded = folder.json(folder.facts["reward_criterion"])
    log_probs = torch.tensor(recorded["logprobs"], requires_grad=True)
    reward = torch.tensor(recorded["reward"]).view(log_probs.shape[:2])
    mask = torch.tensor(recorded["mask"]).view(log_probs.shape) > 0
    loss = scst_loss(log_probs, reward, mask)
    loss.backward()
    assert_within(loss, torch.tensor(recorded["loss"]), folder.tolerance["loss"])
    assert log_probs.grad is not None
    assert_within(log_probs.grad, torch.tensor(recorded["grad"]), folder.tolerance["grad_abs"])


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recorded step."""

    case: str
    name: str
    facts: dict[str, Any]
    arrays: dict[str, Tensor]
    references: list[list[str]]
    network: Network
    inputs: Inputs
    scst: ScstConfig

    @property
    def random(self) -> bool:
        """Whether its samples must be fed."""
        return self.scst.scst_sample == "random"

    def draw(self) -> Draw | None:
        """Hands out the recorded tokens of random samples."""
        columns = iter(self.arrays["tokens"].flatten(0, 1).T)
        return (lambda _, rows: next(columns)[rows]) if self.random else None

    def scored_alike(self) -> bool:
        """Whether one pass over whole samples means the same as the steps of the original's decoding.

        It does not where caches are shared or missing, or where a padding was drawn in mid-caption.
        """
        tokens = self.arrays["tokens"]
        real = tokens != self.network.cfg.pad_token_id
        gaps = bool((real[..., 1:] & ~real[..., :-1]).any())
        return getattr(self.network, "caching", "exact") == "exact" and not gaps


def network_of(folder: Folder, case: dict[str, Any]) -> Network:
    """The network of a case with its weights, in training mode and with the recorded dropout."""
    home, dropout = folder.path.parent / case["model_dir"], folder.facts["dropout"]
    model = Folder(path=home, kind="dense", facts={"dropout": dropout}, about={})
    network = build(replace(model_config(model)[0], **dict.fromkeys(DROPOUTS, dropout)))
    network.load_original(model.weights(case["checkpoint"]))
    choose_caching(network, QuirksConfig.of("faithful"))
    return network.train()


def variants_of(folder: Folder) -> Iterator[Variant]:
    for name, case in folder.facts["cases"].items():
        written = {word.rpartition(".")[2]: word for word in case["files"]}
        recorded, arrays = folder.json(written["json"]), folder.arrays(written["npz"])
        assert set(case["variants"]) == set(recorded["variants"])
        for variant, facts in recorded["variants"].items():
            sample, _, baseline = variant.rpartition("_")
            given = {key.removeprefix("input/"): x for key, x in arrays.items() if key.startswith("input/")}
            mine = {
                key.removeprefix(f"{variant}/"): x
                for key, x in arrays.items()
                if key.startswith(f"{variant}/")
            }
            yield Variant(
                case=name,
                name=variant,
                facts=facts,
                arrays=mine,
                references=recorded["gts"],
                network=network_of(folder, case),
                inputs=Inputs.of(given),
                scst=ScstConfig(
                    scst_sample=sample,
                    scst_baseline=baseline,
                    scst_num_samples=case["num_samples"],
                    scst_cider_weight=recorded["weights"]["cider"],
                    scst_bleu_weight=tuple(recorded["weights"]["bleu"]),
                ),
            )


def self_critical(folder: Folder, variant: Variant, *, through: bool) -> SelfCritical:
    """Ours, with all that the original does to captions; the gradients' way as asked for."""
    quirks = QuirksConfig(original_decoding=True, gradients_through_samples=through)
    tokenizer = Tokenizer(folder.path / folder.facts["word_model"])
    frequency = DocumentFrequency.load(folder.file(folder.facts["df"]))
    return SelfCritical(Config(scst=variant.scst, quirks=quirks), frequency, tokenizer)


@pytest.mark.parity
@pytest.mark.parametrize("through", [True, False], ids=["through samples", "sample then score"])
@of_kind("scst")
def test_loss_rewards_and_gradients_are_the_recorded_ones_both_ways(folder: Folder, through: bool) -> None:
    compared = 0
    for variant in variants_of(folder):
        if not through and not variant.scored_alike():
            continue
        compared += 1
        message, network = f"{variant.case} {variant.name}", variant.network
        ours = self_critical(folder, variant, through=through)
        found = ours.loss(network, variant.inputs, variant.references, draw=variant.draw())
        tokens = variant.arrays["tokens"]
        length = found.tokens.shape[2]
        assert torch.equal(found.tokens, tokens[..., :length]), message
        assert bool((tokens[..., length:] == network.cfg.pad_token_id).all()), message
        bound = folder.tolerance["scores"]
        for values, key in (
            (found.scores, "sample_scores"),
            (found.baseline, "baseline_scores"),
            (found.reward, "reward"),
        ):
            expected = torch.tensor(variant.facts[key], dtype=torch.float64)
            assert_within(values.flatten(), expected, bound, f"{message}: {key}")
        assert_within(found.loss, torch.tensor(variant.facts["loss"]), folder.tolerance["loss"], message)
        found.loss.backward()
        assert_gradients(folder, network, variant.arrays, "grad/")
        assert network.training
    assert compared or not through


@pytest.mark.parity
@of_kind("scst")
def test_samples_their_log_probabilities_and_captions_are_the_recorded_ones(folder: Folder) -> None:
    for variant in variants_of(folder):
        message, network = f"{variant.case} {variant.name}", variant.network
        for through in (True, False):
            if not through and not variant.scored_alike():
                continue
            ours = self_critical(folder, variant, through=through)
            tokens, log_probs = ours.sample(network, variant.inputs, variant.draw())
            real = tokens != network.cfg.pad_token_id
            recorded = variant.arrays["logprobs"][..., : tokens.shape[2]]
            assert_within(log_probs[real], recorded[real], folder.tolerance["logprobs"], message)
            said = [[ours.tokenizer.decode(ids) for ids in image] for image in tokens.tolist()]
            assert said == variant.facts["sample_captions"], message
            if "greedy_tokens" in variant.arrays:
                greedy = ours.greedy(network, variant.inputs)
                assert torch.equal(greedy, variant.arrays["greedy_tokens"]), message
                likeliest = [ours.tokenizer.decode(image[0]) for image in greedy.tolist()]
                assert likeliest == variant.facts["greedy_captions"], message
