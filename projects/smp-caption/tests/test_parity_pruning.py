"""Masks of every pruning method, schedules and their numbers, against recorded ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.mask import (
    Gradual,
    GradualSchedule,
    Supermask,
    anneal_rate,
    masked_weight,
    masks,
    nnz,
    parse_scope,
    per_mask_sparsity,
    prune_smallest,
    round_mask,
    sample_mask,
    snip,
    total_sparsity,
    weights_of,
)
from smp_caption.config import Config, PruneConfig, QuirksConfig, RunConfig
from smp_caption.files.original import read_config
from smp_caption.model import Network, build
from smp_caption.model.checkpoint import load_original
from smp_caption.pruner import GRADUAL, Pruner, make_pruner, mask_spec
from smp_caption.steps import caption_loss
from testing.parity import Folder, of_kind

from .parity_models import assert_gradients, assert_within, teach

TRAINED, FIRST = "model_trained.pth", "model_init.pth"
KIND = "fixed"


def config(folder: Folder, prune_type: str, target: float = 0.5, scope: str = "") -> Config:
    return Config(
        model=replace(read_config(folder.file("config.json"))[0], drop_prob_layer=0.0),  # nothing is dropped
        prune=PruneConfig(
            prune_type=prune_type,
            prune_sparsity_target=target,
            prune_mask_freeze_scope=scope,
            prune_snip_grad_accum=len(folder.facts["snip"]["batches"]),
        ),
        run=RunConfig(start_from=str(folder.path)),
        quirks=QuirksConfig.of("faithful"),
    )


def pruner_of(folder: Folder, cfg: Config, weights: str = TRAINED) -> tuple[Network, Pruner]:
    """A pruner of a network with the folder's trained or first weights."""
    model = build(cfg.model, mask_spec(cfg.model, cfg.prune)).eval()
    load_original(model, folder.weights(weights), weights, masks_optional=True)
    pruner = make_pruner(model, cfg, max_step=1)
    assert pruner is not None
    return model, pruner


def xe_loss(folder: Folder, model: Network, name: str) -> Tensor:
    batch = folder.arrays(name)
    return caption_loss(teach(model, batch), batch["seqs"], batch["masks"])


def recorded_masks(folder: Folder, prefix: str) -> dict[str, Tensor]:
    every = folder.arrays("masks.npz")
    found = {name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if name.endswith("_pruning_mask")}


def assert_masks(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name].detach(), value.to(found[name].dtype)), name


def assert_counts(folder: Folder, found: Mapping[str, Tensor], row: Mapping[str, Any]) -> None:
    table = folder.tolerance["tables"]
    assert int(nnz(found, KIND)) == row["nnz"]
    assert float(total_sparsity(found, KIND)) == pytest.approx(row["sparsity"], abs=table)
    each = {name: float(value) for name, value in per_mask_sparsity(found, KIND).items()}
    assert each == pytest.approx(row["per_mask"], abs=table)


def rows(folder: Folder, key: str) -> Any:
    """One entry of the folder's ``expected.json``; the test is skipped where it has none."""
    expected = folder.json("expected.json")
    if key not in expected:
        pytest.skip(f"{folder.path} has no {key}")
    return expected[key]


@pytest.mark.parity
@of_kind("pruning_methods")
def test_masks_of_one_shot_pruning_are_the_recorded_ones_and_lotteries_go_back(folder: Folder) -> None:
    expected, one_shot, rewinds = (
        folder.json("expected.json"),
        folder.facts["one_shot"],
        folder.facts["rewind"],
    )
    recorded = folder.arrays("masks.npz")
    checked = []
    for method in one_shot["types"]:
        for target in one_shot["targets"]:
            key = f"{method}@{target}"
            model, pruner = pruner_of(folder, config(folder, method, target))
            said = pruner.prepare([], lambda batch: batch)
            assert f"prune_type {method}" in said[0]
            assert_masks(masks(model), recorded_masks(folder, f"{key}/"))
            assert_counts(folder, masks(model), expected[key])
            if key in rewinds["keys"]:
                with torch.no_grad():
                    found = teach(model, folder.arrays(rewinds["batch"]))
                wanted = recorded[f"{key}/logprobs_after_rewind"]
                assert_within(found, wanted, folder.tolerance["logprobs"], key)
                checked.append(key)
    assert set(checked) == set(rewinds["keys"])


@pytest.mark.parity
@of_kind("pruning_methods")
def test_mask_gradients_of_snip_are_the_recorded_ones(folder: Folder) -> None:
    model, pruner = pruner_of(folder, config(folder, "snip"), FIRST)
    found = pruner.pruning.mask_gradients(folder.facts["snip"]["batches"], partial(xe_loss, folder, model))
    for name, mask in masks(model).items():
        mask.grad = found[name]
    assert_gradients(folder, model, folder.arrays("masks.npz"), "snip/mask_grad/")
    total = sum(float(gradient.sum()) for gradient in found.values())
    assert total == pytest.approx(rows(folder, "snip_saliency_sum"), rel=1e-3, abs=folder.tolerance["tables"])


@pytest.mark.parity
@of_kind("pruning_methods")
def test_masks_of_snip_are_the_recorded_ones(folder: Folder) -> None:
    facts = folder.facts["snip"]
    gradients = recorded_masks(folder, "snip/mask_grad/")
    for target in facts["targets"]:
        wanted = recorded_masks(folder, f"snip@{target}/")
        assert_masks(snip(gradients, target, signed=True), wanted)
        model, pruner = pruner_of(folder, config(folder, "snip", target), FIRST)
        pruner.prepare(facts["batches"], partial(xe_loss, folder, model))
        # Our gradients differ by rounding, so that nearly equal ones may change places.
        exchanged = torch.cat([gradients[name][masks(model)[name] != mask] for name, mask in wanted.items()])
        if len(exchanged):
            assert exchanged.max() - exchanged.min() <= folder.tolerance["grad_abs"]
        assert int(nnz(masks(model), KIND)) == int(nnz(wanted, KIND))
        assert all(parameter.grad is None for parameter in model.parameters())
        sparsity = rows(folder, f"snip@{target}")
        assert pruner.sparsity() == pytest.approx(sparsity, abs=folder.tolerance["tables"])


def drifting(model: Network, amplitude: float, steps: range) -> Iterator[int]:
    """Steps, before each of which the weights were moved as they were in the recorded run."""
    for step in steps:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and not name.endswith("_pruning_mask"):
                    weight.mul_(1 + amplitude * math.sin(step + weight.numel()))
        yield step


@pytest.mark.parity
@of_kind("pruning_methods")
def test_a_gradual_run_is_the_recorded_one(folder: Folder) -> None:
    facts = folder.facts["gradual"]
    first = facts["first_step"]
    schedule = GradualSchedule(
        target=facts["target"],
        start=facts["start_step"],
        intervals=facts["prune_steps"],
        frequency=facts["prune_frequency"],
    )
    for method in facts["types"]:
        model, _ = pruner_of(folder, config(folder, "mag_uniform"))
        pruning = Gradual(model, schedule=schedule, scheme=GRADUAL[method])
        steps = drifting(model, facts["drift"]["amplitude"], range(first, first + facts["num_steps"]))
        for step, row in zip(steps, rows(folder, method), strict=True):
            asked = schedule.sparsity_at(step)
            assert step == row["step"]
            assert pruning.prune_at(step) == row["updated"]
            assert asked == pytest.approx(row["sparsity_asked"], abs=folder.tolerance["tables"])
            now = float(total_sparsity(pruning.masks, KIND))
            assert now == pytest.approx(row["sparsity_now"], abs=folder.tolerance["tables"])
        assert_masks(masks(model), recorded_masks(folder, f"{method}/final/"))


@pytest.mark.parity
@of_kind("pruning_methods")
def test_schedules_of_whole_runs_are_the_recorded_ones(folder: Folder) -> None:
    for row in rows(folder, "gradual_schedule_tables"):
        schedule = GradualSchedule.over_run(
            target=row["target"],
            max_step=row["max_train_step"],
            max_epochs=row["max_epochs"],
            frequency=PruneConfig().prune_gradual_frequency,
        )
        assert (schedule.start, schedule.intervals, schedule.end) == (
            row["start"],
            row["prune_steps"],
            row["end"],
        )
        for step, sparsity in row["table"]:
            assert schedule.sparsity_at(step) == pytest.approx(sparsity, abs=folder.tolerance["tables"])


@pytest.mark.parity
@of_kind("pruning_methods")
def test_weights_and_annealing_of_the_sparsity_loss_are_the_recorded_ones(folder: Folder) -> None:
    table = folder.tolerance["tables"]
    for row in rows(folder, "supermask_default_weight"):
        prune = PruneConfig(prune_type="supermask", prune_sparsity_target=row["target"])
        found = [prune.sparsity_weight(name) for name in ("up_down_lstm_prune", "relation_transformer_prune")]
        assert found == pytest.approx([row["up_down"], row["other"]], abs=table)
    for step, rate in rows(folder, "supermask_anneal_table"):
        assert anneal_rate(step, folder.facts["anneal_max_step"]) == pytest.approx(rate, abs=table)


@pytest.mark.parity
@of_kind("pruning_methods")
def test_rounding_and_its_gradients_are_the_recorded_ones(folder: Folder) -> None:
    recorded = rows(folder, "rounding_sigmoid")
    for bypass, key in ((False, "grad"), (True, "grad_bypass")):
        logits = torch.tensor(recorded["logits"], requires_grad=True)
        rounded = round_mask(logits)
        assert rounded.float().tolist() == recorded["mask"]
        out = masked_weight(torch.ones_like(logits), logits, rounded, bypass_sigmoid_grad=bypass)
        out.backward(torch.tensor(recorded["upstream"], dtype=out.dtype))
        assert logits.grad is not None
        tolerance = folder.tolerance
        assert logits.grad.tolist() == pytest.approx(
            recorded[key], abs=tolerance["grad_abs"], rel=tolerance["grad_rel"]
        )


@pytest.mark.parity
@of_kind("pruning_methods")
def test_means_of_drawn_masks_are_the_recorded_ones(folder: Folder) -> None:
    draws = folder.facts["bernoulli"]["draws"]
    recorded = rows(folder, f"bernoulli_mean_{draws}")
    torch.manual_seed(0)
    logits = torch.tensor(recorded["logits"])
    mean = sample_mask(logits.expand(draws, -1)).float().mean(0)
    assert_within(mean, torch.tensor(recorded["mean"]), recorded["tolerance"])


@pytest.mark.parity
@of_kind("pruning_methods")
def test_single_masks_are_the_recorded_ones(folder: Folder) -> None:
    for row in rows(folder, "compute_mask"):
        assert prune_smallest(torch.tensor(row["criterion"]), row["target"]).tolist() == row["mask"]


@pytest.mark.parity
@of_kind("pruning_methods")
def test_masks_in_a_frozen_scope_stay_and_do_not_count_as_active(folder: Folder) -> None:
    row = rows(folder, "scope_magnitude")
    model, pruner = pruner_of(folder, config(folder, row["prune_type"], row["target"], row["scope"]))
    pruner.prepare([], lambda batch: batch)
    assert set(pruner.active) == set(row["active"])
    table = folder.tolerance["tables"]
    assert float(total_sparsity(pruner.active, KIND)) == pytest.approx(row["active_sparsity"], abs=table)
    assert pruner.sparsity() == pytest.approx(row["all_sparsity"], abs=table)
    assert all(bool((mask == 1).all()) for name, mask in masks(model).items() if name not in pruner.active)
    assert list(weights_of(model)) == list(pruner.masks)


@pytest.mark.parity
@of_kind("pruning_methods")
def test_the_sparsity_loss_leaves_out_a_frozen_scope(folder: Folder) -> None:
    row = rows(folder, "scope_supermask_loss")
    cfg = config(folder, "supermask", row["target"], row["scope"])
    prune = replace(
        cfg.prune,
        prune_supermask_init=row["supermask_init"],
        prune_supermask_sparsity_weight=row["weight"],
    )
    cfg = replace(cfg, prune=prune)
    pruner = make_pruner(build(cfg.model, mask_spec(cfg.model, prune)), cfg, row["max_step"])
    assert pruner is not None
    assert isinstance(pruner.pruning, Supermask)
    found = pruner.loss(row["current_step"])
    assert found is not None
    assert float(found.scaled.detach()) == pytest.approx(row["scaled"], abs=folder.tolerance["tables"])
    assert set(pruner.active) == {
        name for name in pruner.masks if not name.startswith(parse_scope(row["scope"]))
    }
