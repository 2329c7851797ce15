"""The captioners against numbers recorded from the original system: forward, losses, gradients, steps,
exports."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX, draw_once, masks, use_samples
from prunelab.mask.sparsity import average, nnz, per_mask_sparsity, sparsity_loss, total_sparsity
from prunelab.optim import Schedule, guarded_step
from smp_caption.config import RELATION_TRANSFORMERS, Config, OptimConfig, PruneConfig
from smp_caption.files.original import load_optimizer
from smp_caption.files.original_states import binary_mask_state, pruned_state, sparse_state
from smp_caption.model import Network, RelationTransformer
from smp_caption.steps import caption_loss, make_optimizer, make_schedule
from testing.parity import Folder, of_kind

from .parity_models import (
    assert_gradients,
    assert_within,
    images,
    inputs_of,
    model_config,
    model_of,
    recorded_model,
    teach,
)


def cross_entropy(log_probs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return caption_loss(log_probs, batch["seqs"], batch["masks"])


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_log_probs_loss_and_gradients_agree(folder: Folder) -> None:
    model, batch = recorded_model(folder), inputs_of(folder)
    recorded, expected = folder.arrays("expected.npz"), folder.json("expected.json")
    log_probs = teach(model, batch)
    assert_within(log_probs, recorded["logprobs"], folder.tolerance["logprobs"])
    loss = cross_entropy(log_probs, batch)
    assert abs(loss.item() - expected["xe_loss"]) <= folder.tolerance["loss"]
    loss.backward()
    assert_gradients(folder, model, recorded, "grad/")


@pytest.mark.parity
@of_kind("dense", "pruned", caption_model=RELATION_TRANSFORMERS)
def test_embedded_regions_and_the_encoders_output_agree(folder: Folder) -> None:
    recorded, inputs = folder.arrays("expected.npz"), images(inputs_of(folder))
    model = recorded_model(folder)
    assert isinstance(model, RelationTransformer)
    found = {"att_embed_out": model.embed_regions(inputs)[0].att_feats, "memory": model.encode(inputs).memory}
    compared = [name for name in found if name in recorded]
    if not compared:
        pytest.skip(f"{folder.path} records neither")
    for name in compared:
        assert_within(found[name], recorded[name], folder.tolerance["memory"], name)


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_label_smoothing_is_refused_as_recorded_and_mended_as_recorded(folder: Folder) -> None:
    recorded = folder.json("expected.json").get("label_smoothing")
    if recorded is None:
        pytest.skip(f"{folder.path} records no label smoothing")
    batch, smoothing = inputs_of(folder), recorded["smoothing"]
    with torch.no_grad():
        log_probs = teach(recorded_model(folder), batch)
    pair = (batch["seqs"], batch["masks"])
    fixed = caption_loss(log_probs, *pair, smoothing=smoothing)
    assert abs(fixed.item() - recorded["loss_fixed"]) <= folder.tolerance["loss"]
    if recorded.get("error"):
        with pytest.raises(UserError, match="label_smoothing"):
            caption_loss(log_probs, *pair, smoothing=smoothing, cut_prediction=False)
    else:
        original = caption_loss(log_probs, *pair, smoothing=smoothing, cut_prediction=False)
        assert abs(original.item() - recorded["loss"]) <= folder.tolerance["loss"]


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_leaving_out_the_last_column_changes_neither_the_others_nor_the_loss(folder: Folder) -> None:
    model, batch = recorded_model(folder), inputs_of(folder)
    whole, short = teach(model, batch), teach(model, batch, last_column=False)
    assert short.shape[1] == batch["seqs"].shape[-1] - 1
    torch.testing.assert_close(short, whole[:, : short.shape[1]])
    torch.testing.assert_close(cross_entropy(short, batch), cross_entropy(whole, batch))


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_captions_as_a_third_dimension_are_the_same_captions(folder: Folder) -> None:
    model, batch = recorded_model(folder), inputs_of(folder)
    rows = batch["seqs"].view(len(batch["att_feats"]), -1, batch["seqs"].shape[1])
    assert torch.equal(teach(model, batch | {"seqs": rows}), teach(model, batch))
    assert rows.shape[1] == folder.facts["captions_per_image"]


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_number_of_parameters_and_masks_agree(folder: Folder) -> None:
    model, expected = model_of(folder), folder.json("expected.json")
    count = sum(p.numel() for p in model.parameters())
    if "num_parameters" in expected:
        assert count == expected["num_parameters"]
    if folder.kind == "pruned":
        stats, found = folder.json("init_stats.json"), masks(model)
        assert list(found) == stats["mask_names"]
        assert [n for n, _ in model.named_parameters() if n not in found] == stats["weight_names"]
        in_masks = sum(m.numel() for m in found.values())
        assert in_masks == stats["total_mask_params"]
        assert count - in_masks == stats["total_weight_params"]
        values = torch.cat([mask.detach().flatten() for mask in found.values()]).unique()
        assert values.tolist() == stats["mask_init_values"]
        assert total_sparsity(found, "supermask").item() == stats["init_sparsity"]


@pytest.mark.parity
@of_kind("pruned")
def test_sparsities_and_the_sparsity_loss_agree(folder: Folder) -> None:
    model, expected = recorded_model(folder), folder.json("expected.json")
    found, tolerance = masks(model), folder.tolerance
    assert abs(total_sparsity(found, "supermask").item() - expected["all_mask_sparsity"]) <= tolerance["loss"]
    assert nnz(found, "supermask").item() == expected["nnz"]
    assert abs(average(found).item() - expected["all_mask_avg"]) <= tolerance["loss"]
    each = per_mask_sparsity(found, "supermask")
    assert list(each) == list(expected["per_mask_sparsity"])
    for name, value in expected["per_mask_sparsity"].items():
        assert abs(float(each[name]) - value) <= tolerance["loss"], name
    facts = expected["sparsity_loss"]
    loss = sparsity_loss(
        found,
        target=facts["target"],
        weight=facts["weight"],
        step=facts["current_step"],
        max_step=facts["max_step"],
    )
    assert abs(float(loss.loss) - facts["raw"]) <= tolerance["loss"]
    assert abs(loss.anneal_rate - facts["anneal_rate"]) <= tolerance["loss"]
    assert abs(loss.scaled.item() - facts["scaled"]) <= tolerance["loss"]
    loss.scaled.backward()
    assert_gradients(folder, model, folder.arrays("expected.npz"), "sparsity_grad/")


@pytest.mark.parity
@of_kind("pruned")
def test_training_mode_with_the_recorded_samples_agrees(folder: Folder) -> None:
    recorded, expected = folder.arrays("expected.npz"), folder.json("expected.json")
    batch = inputs_of(folder)
    samples = {n.removeprefix("sampled/"): v for n, v in recorded.items() if n.startswith("sampled/")}
    model = recorded_model(folder).train()
    assert list(samples) == list(masks(model))
    with use_samples(model, samples):
        log_probs = teach(model, batch)
        assert_within(log_probs, recorded["train_logprobs"], folder.tolerance["logprobs"])
        loss = cross_entropy(log_probs, batch)
        assert abs(loss.item() - expected["train_mode_fixed_sample_xe_loss"]) <= folder.tolerance["loss"]
        loss.backward()
    assert_gradients(folder, model, recorded, "train_grad/")


@pytest.mark.parity
@of_kind("pruned")
def test_masks_drawn_at_every_call_follow_the_recorded_path_where_the_logits_leave_no_choice(
    folder: Folder,
) -> None:
    recorded, batch = folder.arrays("expected.npz"), inputs_of(folder)
    model = recorded_model(folder).train()
    with torch.no_grad():
        for name, mask in masks(model).items():
            mask.copy_((recorded[f"sampled/{name}"].float() * 2 - 1) * 1e4)
    log_probs = teach(model, batch)  # no context: every call draws anew
    assert_within(log_probs, recorded["train_logprobs"], folder.tolerance["logprobs"])
    with draw_once(model):
        assert_within(teach(model, batch), recorded["train_logprobs"], folder.tolerance["logprobs"])


def optimiser_of(folder: Folder, model: Network) -> tuple[torch.optim.Optimizer, Schedule]:
    """The optimiser and schedule that the folder's configuration names."""
    model_cfg, plain = model_config(folder)
    known = {field.name for field in fields(OptimConfig)}
    optim = OptimConfig(**{name: value for name, value in plain.items() if name in known})
    assert optim.lr_scheduler == folder.facts["lr_scheduler"]
    prune = PruneConfig()
    if folder.kind == "pruned":
        prune = PruneConfig(prune_type="supermask", prune_supermask_lr=folder.facts["mask_lr"])
    optimiser = make_optimizer(model, optim, prune)
    for key, field in (("mask_lr", "lr"), ("mask_eps", "eps"), ("mask_weight_decay", "weight_decay")):
        if key in folder.facts:
            assert optimiser.param_groups[-1][field] == folder.facts[key]
    cfg = Config(model=model_cfg, optim=optim, prune=prune)
    return optimiser, make_schedule(optimiser, cfg, plain["max_train_step"])


def train_step(
    folder: Folder, model: Network, optimiser: torch.optim.Optimizer, schedule: Schedule, row: dict[str, Any]
) -> None:
    """One step on the recorded batch, compared with its recorded row."""
    tolerance, facts, found = folder.tolerance, folder.facts, masks(model)
    batch = inputs_of(folder)
    loss = caption = cross_entropy(teach(model, batch), batch)
    if found:
        sparsity = sparsity_loss(
            found,
            target=model_config(folder)[1]["prune_sparsity_target"],
            weight=facts["sparsity_weight"],
            step=facts["sparsity_first_step"] + row["step"] - 1,
            max_step=facts["sparsity_max_step"],
        )
        loss = caption + sparsity.scaled
        assert abs(float(sparsity.loss) - row["sparsity_loss_raw"]) <= tolerance["loss"], row
        assert abs(sparsity.scaled.item() - row["sparsity_loss_scaled"]) <= tolerance["loss"], row
        assert abs(sparsity.anneal_rate - row["anneal_rate"]) <= tolerance["loss"], row
    assert abs(caption.item() - row["caption_loss"]) <= tolerance["loss"], row
    assert abs(loss.item() - row["loss"]) <= tolerance["loss"], row
    optimiser.zero_grad()
    loss.backward()
    rate = schedule.step(at=facts["epoch"] if facts["lr_scheduler"] == "step" else None)
    assert abs(rate - row["lr"]) <= 1e-9
    guarded_step(optimiser, model.parameters(), clip=("value", facts["grad_clip"]))


@pytest.mark.parity
@of_kind("dense", "pruned")
def test_optimiser_steps_end_at_the_recorded_parameters_and_optimiser_state(folder: Folder) -> None:
    model, expected = recorded_model(folder), folder.json("expected.json")
    tolerance, skipped = folder.tolerance, set(folder.facts["after_steps_not_compared"])
    optimiser, schedule = optimiser_of(folder, model)
    assert len(expected["train_steps"]) == folder.facts["num_steps"]
    for row in expected["train_steps"]:
        train_step(folder, model, optimiser, schedule, row)
    after = folder.arrays("after_steps.npz")
    parameters = dict(model.named_parameters())
    assert {name.removeprefix("param/") for name in after} == set(parameters)
    for name, parameter in parameters.items():
        is_mask = name.endswith(MASK_SUFFIX)
        bound = tolerance["mask_logits_after_steps" if is_mask else "after_steps"]
        if name not in skipped:
            assert_within(parameter, after[f"param/{name}"], bound, name)
    if not folder.find("optimizer_last.pth"):
        return
    recorded, own = folder.weights("optimizer_last.pth"), optimiser.state_dict()
    for group, same in zip(own["param_groups"], recorded["param_groups"], strict=True):
        assert group | {"fused": None} == same | {"fused": None}  # which kernel computes it, not what
    assert own["state"].keys() == recorded["state"].keys()
    for index, state in recorded["state"].items():
        for name, value in state.items():
            assert_within(own["state"][index][name], value, tolerance["optimizer_state"], f"{index} {name}")
    fresh, _ = optimiser_of(folder, model)
    load_optimizer(fresh, folder.path / "optimizer_last.pth")
    for index, state in fresh.state_dict()["state"].items():
        assert all(torch.equal(state[name], value) for name, value in recorded["state"][index].items())


@pytest.mark.parity
@of_kind("pruned")
def test_exports_equal_the_recorded_files(folder: Folder) -> None:
    model = recorded_model(folder)
    exports = {
        "*_pruned.pth": pruned_state(model),
        "*_pruned_sparse.pth": sparse_state(model),
        "*_bin_mask.pth": binary_mask_state(model),
    }
    compared = 0
    for pattern, own in exports.items():
        if not folder.find(pattern):
            continue
        recorded = folder.weights(pattern)
        assert type(own) is type(recorded), pattern
        assert list(own) == list(recorded), pattern
        for name, value in recorded.items():
            assert own[name].layout == value.layout, (pattern, name)
            assert own[name].dtype == value.dtype, (pattern, name)
            assert torch.equal(own[name].to_dense(), value.to_dense()), (pattern, name)
            if value.is_sparse:
                assert own[name]._nnz() == value._nnz(), (pattern, name)
        compared += 1
    assert compared
    expected, (weights, *_) = folder.json("expected.json"), exports.values()
    if "all_weight_sparsity_after_prune" in expected:
        masked = [weights[name.removesuffix(MASK_SUFFIX)] for name in masks(model)]
        kept = sum(int(weight.count_nonzero()) for weight in masked)
        found = 1 - kept / sum(weight.numel() for weight in masked)
        assert abs(found - expected["all_weight_sparsity_after_prune"]) <= folder.tolerance["loss"]


@pytest.mark.parity
@of_kind("pruned")
def test_pruned_weights_in_the_dense_class_give_the_log_probs_of_the_pruned_class(folder: Folder) -> None:
    batch, dense = inputs_of(folder), model_of(folder, dense_class=True)
    dense.load_original(folder.weights("*_pruned_sparse.pth"))
    expected = folder.json("expected.json")["max_abs_diff_pruned_vs_dense_class_logprobs"]
    bound = folder.tolerance["logprobs"] + expected
    assert_within(teach(dense, batch), folder.arrays("expected.npz")["logprobs"], bound)


@pytest.mark.parity
@of_kind("pruned")
def test_files_with_masks_are_refused_by_the_dense_class_with_a_hint(folder: Folder) -> None:
    dense = model_of(folder, dense_class=True)
    with pytest.raises(UserError, match="holds masks"):
        dense.load_original(folder.weights("*_best.pth"))
