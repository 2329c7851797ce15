"""Criteria, counts, the sparsity loss and the gradual schedule, against recorded numbers and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunelab import mask
from prunelab.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mask"


def facts(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def arrays(name: str, prefix: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {k.removeprefix(prefix): torch.from_numpy(file[k]) for k in file.files if k.startswith(prefix)}


def weights() -> dict[str, Tensor]:
    return {f"{name}_pruning_mask": w for name, w in arrays("criteria", "weights/").items()}


def assert_masks(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected) or set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value.to(found[name].dtype)), name


@pytest.mark.parity
@pytest.mark.parametrize("scheme", ["blind", "uniform", "dist"])
def test_magnitude_masks_are_the_recorded_ones(scheme: Any) -> None:
    recorded = facts("criteria")
    for target in recorded["setup"]["one_shot"]["targets"]:
        found = mask.magnitude(weights(), target, scheme)
        assert_masks(found, arrays("criteria", f"mag_{scheme}@{target}/"))
        row = recorded[f"mag_{scheme}@{target}"]
        assert int(mask.nnz(found, "fixed")) == row["nnz"]
        assert float(mask.total_sparsity(found, "fixed")) == pytest.approx(row["sparsity"], abs=1e-6)


@pytest.mark.parity
def test_signed_snip_masks_are_the_recorded_ones() -> None:
    recorded = facts("criteria")
    gradients = arrays("criteria", "snip/mask_grad/")
    total = sum(float(g.sum()) for g in gradients.values())
    assert total == pytest.approx(recorded["snip_saliency_sum"], rel=1e-4)
    for target in recorded["setup"]["snip"]["targets"]:
        found = mask.snip(gradients, target, signed=True)
        assert_masks(found, arrays("criteria", f"snip@{target}/"))


@pytest.mark.parity
@pytest.mark.parametrize("scheme", ["blind", "uniform"])
def test_a_gradual_run_ends_with_the_recorded_masks(scheme: Any) -> None:
    recorded = facts("criteria")
    setup = recorded["setup"]["gradual"]
    schedule = mask.GradualSchedule(
        target=setup["target"],
        start=setup["start_step"],
        intervals=setup["prune_steps"],
        frequency=setup["prune_frequency"],
    )
    drifting, found = weights(), {name: torch.ones_like(w) for name, w in weights().items()}
    for row in recorded[f"mag_grad_{scheme}"]:
        step = row["step"]
        for weight in drifting.values():
            weight *= 1 + setup["drift"]["amplitude"] * math.sin(step + weight.numel())
        asked = schedule.sparsity_at(step)
        assert (asked is not None) == row["updated"]
        if asked is not None:
            assert asked == pytest.approx(row["sparsity_asked"], abs=1e-6)
            found = mask.magnitude(drifting, asked, scheme)
        assert float(mask.total_sparsity(found, "fixed")) == pytest.approx(row["sparsity_now"], abs=1e-6)
    assert_masks(found, arrays("criteria", f"mag_grad_{scheme}/final/"))


@pytest.mark.parity
def test_counts_and_sparsity_loss_are_the_recorded_ones() -> None:
    recorded = facts("supermask")
    logits = {name: m.requires_grad_() for name, m in arrays("supermask", "logits/").items()}
    assert int(mask.nnz(logits, "supermask")) == recorded["nnz"]
    whole = float(mask.total_sparsity(logits, "supermask"))
    assert whole == pytest.approx(recorded["all_mask_sparsity"], abs=1e-6)
    assert float(mask.average(logits)) == pytest.approx(recorded["all_mask_avg"], abs=1e-6)
    for name, value in mask.per_mask_sparsity(logits, "supermask").items():
        assert float(value) == pytest.approx(recorded["per_mask_sparsity"][name], abs=1e-6)

    given_ = recorded["sparsity_loss"]
    loss = mask.sparsity_loss(
        logits,
        target=given_["target"],
        weight=given_["weight"],
        step=given_["current_step"],
        max_step=given_["max_step"],
    )
    assert float(loss.loss) == pytest.approx(given_["raw"], abs=1e-6)
    assert loss.anneal_rate == pytest.approx(given_["anneal_rate"], abs=1e-6)
    assert float(loss.scaled.detach()) == pytest.approx(given_["scaled"], abs=1e-5)
    loss.scaled.backward()
    for name, gradient in arrays("supermask", "sparsity_grad/").items():
        torch.testing.assert_close(logits[name].grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parity
def test_schedule_and_annealing_tables_are_the_recorded_ones() -> None:
    recorded = facts("criteria")
    for row in recorded["gradual_schedule_tables"]:
        frequency = (row["end"] - row["start"]) // row["prune_steps"]
        schedule = mask.GradualSchedule(
            target=row["target"], start=row["start"], intervals=row["prune_steps"], frequency=frequency
        )
        assert schedule.end == row["end"]
        for step, value in row["table"]:
            assert schedule.sparsity_at(step) == pytest.approx(value, abs=1e-6)
        run = mask.GradualSchedule.over_run(
            target=row["target"], max_step=row["max_train_step"], max_epochs=row["max_epochs"]
        )
        if frequency == 1000 and run.start == row["start"]:
            assert run.intervals >= row["prune_steps"]
    for step, rate in recorded["supermask_anneal_table"]:
        found = mask.anneal_rate(step, recorded["setup"]["anneal_max_step"])
        assert found == pytest.approx(rate, abs=1e-6)


@pytest.mark.parity
def test_rounding_and_single_masks_are_the_recorded_ones() -> None:
    recorded = facts("criteria")
    row = recorded["rounding_sigmoid"]
    for key, bypass in (("grad", False), ("grad_bypass", True)):
        logits = torch.tensor(row["logits"], requires_grad=True)
        ones = torch.ones_like(logits)
        out = mask.masked_weight(ones, logits, mask.round_mask(logits), bypass_sigmoid_grad=bypass)
        assert out.tolist() == row["mask"]
        out.backward(torch.tensor(row["upstream"], dtype=torch.float32))
        torch.testing.assert_close(logits.grad, torch.tensor(row[key]), rtol=1e-4, atol=1e-6)
    for row in recorded["compute_mask"]:
        assert mask.prune_smallest(torch.tensor(row["criterion"]), row["target"]).tolist() == row["mask"]
    row = recorded["bernoulli_mean_20000"]
    drawn = mask.sample_mask(torch.tensor(row["logits"]).expand(20_000, -1)).float().mean(0)
    torch.testing.assert_close(drawn, torch.tensor(row["mean"]), rtol=0, atol=row["tolerance"])


@pytest.mark.parity
def test_frozen_scopes_are_the_recorded_ones() -> None:
    recorded = facts("criteria")
    row = recorded["scope_magnitude"]
    active = mask.active(weights(), mask.parse_scope(row["scope"]))
    assert set(active) == set(row["active"])
    found = mask.magnitude(active, row["target"], row["prune_type"].removeprefix("mag_"))
    assert float(mask.total_sparsity(found, "fixed")) == pytest.approx(row["active_sparsity"], abs=1e-6)
    everything = {name: found.get(name, torch.ones_like(w)) for name, w in weights().items()}
    assert float(mask.total_sparsity(everything, "fixed")) == pytest.approx(row["all_sparsity"], abs=1e-6)

    row = recorded["scope_supermask_loss"]
    logits = {name: torch.full_like(w, row["supermask_init"]) for name, w in weights().items()}
    loss = mask.sparsity_loss(
        mask.active(logits, mask.parse_scope(row["scope"])),
        target=row["target"],
        weight=row["weight"],
        step=row["current_step"],
        max_step=row["max_step"],
    )
    assert float(loss.scaled) == pytest.approx(row["scaled"], abs=1e-5)


def test_blind_and_uniform_differ_as_worked_out_by_hand() -> None:
    tensors = {"a": torch.tensor([1.0, -2.0, 3.0, -4.0]), "b": torch.tensor([[10.0, -20.0]])}
    assert_masks(
        mask.magnitude(tensors, 0.5, "blind"), {"a": torch.tensor([0, 0, 0, 1]), "b": torch.ones(1, 2)}
    )
    uniform = mask.magnitude(tensors, 0.5, "uniform")
    assert_masks(uniform, {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([[0, 1]])})
    # a: mean -0.5, std 2.693; distances 1.5, 1.5, 3.5, 3.5 -> .557 .557 1.3 1.3; b: 1 and 1
    dist = mask.magnitude(tensors, 0.5, "dist")
    assert dist["a"].tolist() == [0, 0, 1, 1]
    assert sorted(dist["b"].flatten().tolist()) == [0, 1]


def test_a_constant_tensor_ranks_lowest_in_dist() -> None:
    tensors = {"same": torch.full((4,), 7.0), "varied": torch.tensor([1.0, 2.0, 3.0, 5.0])}
    assert mask.magnitude(tensors, 0.5, "dist")["same"].tolist() == [0, 0, 0, 0]


def test_snip_by_size_and_by_sign_differ_as_worked_out_by_hand() -> None:
    gradients = {"a": torch.tensor([-4.0, 1.0]), "b": torch.tensor([2.0, -0.5])}
    assert_masks(mask.snip(gradients, 0.5), {"a": torch.tensor([1, 0]), "b": torch.tensor([1, 0])})
    # the sum is -1.5: divided by it the order turns round, and 2 and 1 become the smallest
    signed = mask.snip(gradients, 0.5, signed=True)
    assert_masks(signed, {"a": torch.tensor([1, 0]), "b": torch.tensor([0, 1])})


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_the_floor_of_the_target_is_pruned_and_the_smallest_go_first(
    values: list[float], target: float
) -> None:
    criterion = torch.tensor(values)
    found = mask.prune_smallest(criterion, target)
    assert int((found == 0).sum()) == int(target * len(values))
    kept, gone = criterion[found == 1], criterion[found == 0]
    assert not gone.numel() or not kept.numel() or float(gone.max()) <= float(kept.min())
    assert 0 <= float(mask.total_sparsity({"m": found}, "fixed")) <= 1


def test_the_sparsity_loss_pulls_from_both_sides_and_ends_at_its_full_weight() -> None:
    logits = torch.tensor([1.0, 2.0, -1.0, 0.0], requires_grad=True)  # sparsity one half
    for target, sign in ((0.75, 1.0), (0.25, -1.0)):
        logits.grad = None
        loss = mask.sparsity_loss({"m": logits}, target=target, weight=8.0, step=10, max_step=10)
        assert float(loss.loss) == 0.25
        assert loss.anneal_rate == 0
        loss.scaled.backward()
        s = torch.sigmoid(logits.detach())
        # a larger logit makes the mask denser: where it is too dense already, the gradient is positive
        torch.testing.assert_close(logits.grad, sign * 8.0 / 4 * s * (1 - s))
    start = mask.sparsity_loss({"m": logits}, target=0.75, weight=8.0, step=0, max_step=10)
    assert float(start.scaled.detach()) == 0
    bypassed = mask.sparsity_loss(
        {"m": logits}, target=0.75, weight=8.0, step=10, max_step=10, bypass_sigmoid_grad=True
    )
    logits.grad = None
    bypassed.scaled.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [2.0] * 4


def test_masks_that_take_no_gradient_are_left_alone_by_the_loss() -> None:
    one, two = torch.ones(3, requires_grad=True), torch.ones(5)
    mask.sparsity_loss({"a": one, "b": two}, target=0.5, weight=1.0, step=1, max_step=1).scaled.backward()
    assert one.grad is not None
    assert two.grad is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask.magnitude({"a": torch.ones(2)}, 1.0, "blind"), r"target 1.0 is out of range"),
        (lambda: mask.magnitude({"a": torch.ones(2)}, -0.1, "blind"), r"target -0.1 is out of range"),
        (lambda: mask.magnitude({"a": torch.ones(2)}, 0.5, "other"), "scheme 'other' is unknown"),  # type: ignore[arg-type]
        (lambda: mask.magnitude({"a": torch.tensor([math.nan])}, 0.5, "blind"), "weight of a is not finite"),
        (lambda: mask.magnitude({}, 0.5, "blind"), "no weights to rank"),
        (lambda: mask.snip({"a": torch.zeros(3)}, 0.5), "sum to 0"),
        (lambda: mask.nnz({}, "fixed"), "no mask entries"),
        (
            lambda: mask.sparsity_loss({"a": torch.ones(1)}, target=0.5, weight=1.0, step=0, max_step=0),
            "max_step 0 is out of range",
        ),
        (lambda: mask.GradualSchedule(target=0.5, start=1, intervals=0), "0 intervals"),
        (
            lambda: mask.GradualSchedule.over_run(target=0.9, max_step=2000, max_epochs=15),
            "no room for an interval of 1000 steps",
        ),
    ],
)
def test_what_cannot_be_done_is_said(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
