"""Pruning around a step: which masks move and when, what is on target, what a resume must agree on."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import assign, magnitude, masked_layers, masks, snip, weights_of
from smp_caption.config import PRUNE_TYPES, Config, OptimConfig, PruneConfig, QuirksConfig, RunConfig
from smp_caption.files.original import write_state
from smp_caption.model import Inputs, Network, build
from smp_caption.pruner import KEPT, ONCE, Pruner, crowded, make_pruner, mask_spec, write_sparsities
from smp_caption.steps import caption_loss, drawing

from .toy import TOY, pictures

NAME = "up_down_lstm_prune"
MODEL = replace(TOY, caption_model=NAME)
PRUNE = PruneConfig(prune_type="supermask", prune_sparsity_target=0.75, prune_supermask_sparsity_weight=6.0)
FIRST = "model_init.pth"
SCOPE = "embed, logit"
FROZEN = {"embed.0.weight_pruning_mask", "logit.weight_pruning_mask"}


def config(
    prune_type: str = "supermask", *, start: Path | None = None, quirks: Any = None, **changes: Any
) -> Config:
    return Config(
        model=MODEL,
        optim=OptimConfig(max_epochs=5),
        prune=replace(PRUNE, prune_type=prune_type, prune_gradual_frequency=3, **changes),
        run=RunConfig(start_from=str(start or "")),
        quirks=replace(QuirksConfig(), **(quirks or {})),
    )


def pruner_of(cfg: Config, max_step: int = 40) -> tuple[Network, Pruner]:
    torch.manual_seed(0)
    model = build(MODEL, mask_spec(cfg.model, cfg.prune))
    pruner = make_pruner(model, cfg, max_step)
    assert pruner is not None
    return model, pruner


def pruned(prune_type: str = "supermask", **changes: Any) -> tuple[Network, Pruner]:
    return pruner_of(config(prune_type, **changes))


def batches(count: int) -> list[dict[str, Tensor]]:
    """Pictures of different captions in each batch."""
    generator = torch.Generator().manual_seed(5)
    seqs = [torch.randint(3, MODEL.vocab_size, (2, 5), generator=generator) for _ in range(count)]
    return [{**pictures(2, 3), "seqs": rows, "masks": torch.ones_like(rows)} for rows in seqs]


def loss_of(model: Network, batch: dict[str, Tensor]) -> Tensor:
    return caption_loss(model(Inputs.of(batch), batch["seqs"]), batch["seqs"], batch["masks"])


def prepare(model: Network, pruner: Pruner, some: Sequence[dict[str, Tensor]] = ()) -> list[str]:
    return pruner.prepare(some, lambda batch: loss_of(model, batch))


@pytest.mark.parametrize(
    ("name", "target", "given", "weight"),
    [
        (NAME, 0.8, -1.0, 5.0),
        (NAME, 0.95, -1.0, 10.0),
        (NAME, 0.9875, -1.0, 40.0),
        ("relation_transformer_prune", 0.95, -1.0, 30.0),
        (NAME, 0.95, 80.0, 80.0),
        (NAME, 0.95, 0.0, 0.0),
    ],
)
def test_the_weight_of_the_sparsity_loss_is_given_or_follows_from_the_target(
    name: str, target: float, given: float, weight: float
) -> None:
    prune = replace(PRUNE, prune_sparsity_target=target, prune_supermask_sparsity_weight=given)
    assert prune.sparsity_weight(name) == pytest.approx(weight)
    cfg = Config(model=replace(MODEL, caption_model=name), prune=prune)
    assert cfg.sparsity_weight == prune.sparsity_weight(name)


def test_masks_are_trained_logits_for_supermasks_fixed_for_all_others_and_none_for_a_dense_model() -> None:
    dense = Config(model=TOY)
    assert mask_spec(dense.model, dense.prune) is None
    assert make_pruner(build(TOY), dense, 10) is None
    for prune_type in PRUNE_TYPES:
        spec = mask_spec(MODEL, replace(PRUNE, prune_type=prune_type, prune_supermask_init=2.0))
        assert spec is not None
        expected = ("supermask", 2.0, True) if prune_type == "supermask" else ("fixed", 1.0, False)
        assert (spec.kind, spec.first_value, spec.asks_gradient) == expected


@pytest.mark.parametrize("prune_type", ONCE)
def test_one_shot_pruning_ranks_the_start_weights_and_a_lottery_then_goes_back(
    prune_type: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first = build(TOY).state_dict()
    write_state(tmp_path / FIRST, first)
    model, pruner = pruner_of(config(prune_type, start=tmp_path))
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = magnitude(weights_of(model), 0.75, ONCE[prune_type])
    said = prepare(model, pruner)
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in wanted.items())
    size = sum(mask.numel() for mask in wanted.values())
    start = f"prune_type {prune_type}: {100 * pruner.sparsity():.2f} % of {size} weights with masks are 0"
    assert said[0] == start
    now = {name: value for name, value in model.state_dict().items() if name in first}
    if prune_type.startswith("lottery_"):
        assert said[1] == f"weights back to those of {tmp_path / FIRST}"
        assert all(torch.equal(now[name], value) for name, value in first.items())
    else:
        assert all(torch.equal(value, trained[name]) for name, value in now.items())
    assert pruner.on_target()
    assert not pruner.updated(8)
    assert pruner.loss(3) is None


def test_masks_that_prune_nearly_everything_are_warned_of() -> None:
    model, pruner = pruned("mag_blind", prune_sparsity_target=0.5)
    with torch.no_grad():
        model.core.attention.alpha_net.weight.mul_(1e-6)
    assert prepare(model, pruner)[1:] == [
        "warning: core.attention.alpha_net.weight_pruning_mask prunes more than 99.9 % of its weights"
    ]


@pytest.mark.parametrize("signed", [False, True])
def test_snip_reads_as_many_batches_as_it_shall_in_training_mode(signed: bool) -> None:
    cfg = config("snip", prune_snip_grad_accum=2, quirks={"signed_snip": signed})
    model, pruner = pruner_of(cfg)
    model.eval()
    some, modes = batches(3), []

    def loss(batch: dict[str, Tensor]) -> Tensor:
        modes.append(model.training)
        return loss_of(model, batch)

    gradients = pruner.pruning.mask_gradients(some[:2], loss)
    said = pruner.prepare(iter(some), loss)
    assert modes == [True] * 4
    assert not model.training
    assert said[0] == f"gradients of 2 batches rank the weights{' (with their sign)' if signed else ''}"
    assert all(torch.equal(pruner.masks[name], m) for name, m in snip(gradients, 0.75, signed=signed).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(mask.requires_grad for mask in pruner.masks.values())
    loss_of(model, some[0]).backward()
    assert all(mask.grad is None for mask in pruner.masks.values())
    with pytest.raises(UserError, match="prune_snip_grad_accum is 2: expected at most 1"):
        pruner.prepare(some[:1], loss)


def test_gradual_pruning_follows_its_schedule_over_the_first_half_of_the_run() -> None:
    model, pruner = pruned("mag_grad_uniform")  # 40 steps, 5 epochs: from step 8, 4 times 3 steps
    assert prepare(model, pruner) == []
    found = {}
    for step in range(41):
        if pruner.updated(step):
            found[step] = pruner.sparsity()
    wanted = {8 + 3 * i: 0.75 - 0.75 * (1 - i / 4) ** 3 for i in range(5)}
    assert list(found) == list(wanted)
    assert list(found.values()) == pytest.approx(list(wanted.values()), abs=0.01)
    assert pruner.on_target()


@pytest.mark.parametrize(
    ("prune_type", "max_step", "advice"),
    [
        ("mag_grad_blind", 40, "prune_gradual_frequency 1 would do"),
        ("mag_grad_uniform", 1000, "frequency 6 would"),
    ],
)
def test_a_run_too_short_for_its_schedule_is_refused_with_advice(
    prune_type: str, max_step: int, advice: str
) -> None:
    cfg = config(prune_type)
    cfg = replace(cfg, prune=replace(cfg.prune, prune_gradual_frequency=1000))
    with pytest.raises(
        UserError, match=f"prune_type {prune_type}: .*{max_step} steps and 5 epochs .*{advice}"
    ):
        pruner_of(cfg, max_step)
    every_step = replace(cfg.prune, prune_gradual_frequency=1)
    short = replace(cfg, optim=OptimConfig(max_epochs=2), prune=every_step)
    with pytest.raises(UserError, match=r"3 steps and 2 epochs .* >= 1$"):
        pruner_of(short, 3)


@pytest.mark.parametrize("prune_type", KEPT)
def test_kept_masks_never_change_and_are_on_target_but_under_the_originals_rule(
    prune_type: str, tmp_path: Path
) -> None:
    write_state(tmp_path / FIRST, build(TOY).state_dict())
    for original in (False, True):
        cfg = config(prune_type, start=tmp_path, quirks={"target_of_all_masks": original})
        model, pruner = pruner_of(cfg)
        assign(model, magnitude(weights_of(model), 0.5, "uniform"))
        before = pruner.sparsity()
        prepare(model, pruner)
        assert not any(pruner.updated(step) for step in range(41))
        assert pruner.sparsity() == before == pytest.approx(0.5, abs=0.01)
        assert pruner.on_target() != original


@pytest.mark.parametrize("prune_type", ["supermask", "mag_uniform", "mag_grad_uniform", "snip"])
def test_frozen_masks_stay_and_count_for_the_target_only_under_the_originals_rule(prune_type: str) -> None:
    for original in (False, True):
        cfg = config(prune_type, prune_mask_freeze_scope=SCOPE, quirks={"target_of_all_masks": original})
        model, pruner = pruner_of(cfg)
        prepare(model, pruner, batches(1))
        if prune_type == "supermask":
            assign(
                model,
                {
                    n: 2 * m - 1
                    for n, m in magnitude(weights_of(model), 0.75, "uniform").items()
                    if n in pruner.active
                },
            )
        pruner.updated(20)
        assert set(pruner.masks) - set(pruner.active) == FROZEN
        first = 5.0 if prune_type == "supermask" else 1.0
        assert all(bool((pruner.masks[name] == first).all()) for name in FROZEN)
        assert pruner.on_target() != original


def test_a_run_is_on_target_where_its_nonzeros_are_within_five_percent() -> None:
    model, pruner = pruned()
    size = sum(mask.numel() for mask in pruner.masks.values())
    wanted = round(0.25 * size)

    def keep(count: int) -> bool:
        left = count
        with torch.no_grad():
            for mask in pruner.masks.values():
                here = min(left, mask.numel())
                mask.view(-1)[:here], mask.view(-1)[here:] = 1.0, -1.0
                left -= here
        return pruner.on_target()

    exact = 0.25 * size
    for count in (wanted, int(exact * 1.05), -int(-exact * 0.95)):
        assert keep(count) == (abs(exact - count) / exact <= 0.05)
    assert keep(wanted)
    assert pruner.sparsity() == pytest.approx(1 - wanted / size)
    assert not keep(int(exact * 1.06) + 1)
    assert not keep(int(exact * 0.94) - 1)
    assert not keep(size)
    assert model.training


def test_figures_name_every_mask_and_their_common_mean() -> None:
    _, pruner = pruned()
    with torch.no_grad():
        pruner.masks["logit.weight_pruning_mask"].fill_(-3.0)
    found = {name: float(value) for name, value in pruner.scalars()}
    assert set(found) == {"prune/sparsity/all", "prune/all_mask_avg"} | {
        f"prune/sparsity/{name}" for name in pruner.masks
    }
    assert found["prune/sparsity/logit.weight_pruning_mask"] == 1.0
    size, hidden = sum(mask.numel() for mask in pruner.masks.values()), MODEL.vocab_size * MODEL.rnn_size
    assert found["prune/sparsity/all"] == pytest.approx(hidden / size)
    assert found["prune/all_mask_avg"] == pytest.approx((5.0 * (size - hidden) - 3.0 * hidden) / size)
    assert crowded(pruner.masks) == ["logit.weight_pruning_mask"]


def test_the_sparsity_loss_grows_over_the_run_and_moves_only_active_masks() -> None:
    model, pruner = pruned(prune_mask_freeze_scope=SCOPE)
    start, middle, end = (pruner.loss(step) for step in (0, 20, 40))
    assert start is not None
    assert middle is not None
    assert end is not None
    assert start.scaled.item() == 0
    assert middle.scaled.item() == pytest.approx(0.75 * 6.0 / 2)
    assert end.scaled.item() == pytest.approx(0.75 * 6.0)
    end.scaled.backward()
    assert {name for name, mask in masks(model).items() if mask.grad is not None} == set(pruner.active)


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("encoder", "freeze scope 'encoder' fits no mask"),
        ("embed,fc_embed,att_embed,logit,ctx2att,core", "'embed,.*core' freezes every mask"),
    ],
)
def test_a_scope_that_freezes_nothing_or_everything_is_refused(scope: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        pruned(prune_mask_freeze_scope=scope)


def test_masks_are_drawn_once_a_step_or_as_the_original_does_at_each_call() -> None:
    model, pruner = pruned(prune_supermask_init=0.0)
    layer = model.core.att_lstm
    with drawing(pruner):
        assert torch.equal(layer.effective("weight_ih"), layer.effective("weight_ih"))
    per_call = make_pruner(model, config(quirks={"masks_per_call": True}), 10)
    with drawing(per_call):
        assert not torch.equal(layer.effective("weight_ih"), layer.effective("weight_ih"))
    with drawing(None):
        assert not torch.equal(layer.effective("weight_ih"), layer.effective("weight_ih"))


@pytest.mark.parametrize("sampled", [False, True])
def test_frozen_masks_are_rounded_or_drawn_as_their_own_quirk_says(sampled: bool) -> None:
    cfg = config(prune_mask_freeze_scope="logit", quirks={"frozen_masks_sampled": sampled})
    model, _ = pruner_of(cfg)
    drawn = {path: layer.is_sampled(layer.masked_names[0]) for path, layer in masked_layers(model)}
    assert {path for path, is_drawn in drawn.items() if not is_drawn} == (set() if sampled else {"logit"})


@pytest.mark.parametrize(
    ("prune_type", "other"),
    [
        (
            "supermask",
            {"max_step": 11, "weight": 7.0, "active": ["logit.weight_pruning_mask"], "target": 0.5},
        ),
        ("mag_grad_blind", {"prune_type": "mag_grad_uniform", "frequency": 4, "max_step": 11}),
        ("snip", {"target": 0.5, "active": []}),
    ],
)
def test_a_resumed_run_must_prune_as_the_saved_one_did(prune_type: str, other: dict[str, Any]) -> None:
    _, pruner = pruned(prune_type)
    saved = pruner.state_dict()
    pruner.load_state_dict(saved)
    for key, value in other.items():
        with pytest.raises(UserError, match=f"the saved run prunes with {key}"):
            pruner.load_state_dict({**saved, key: value})


def test_a_gradual_run_that_is_resumed_prunes_on_as_if_it_had_never_stopped() -> None:
    def run(model: Network, pruner: Pruner, steps: range) -> None:
        for step in steps:
            with torch.no_grad():
                for weight in weights_of(model).values():
                    weight.mul_(1 + 0.02 * math.sin(step + weight.numel()))
            pruner.updated(step)

    whole, again = pruned("mag_grad_blind"), pruned("mag_grad_blind")
    run(*whole, range(1, 41))
    run(*again, range(1, 13))
    saved = again[0].state_dict(), again[1].state_dict()
    model, pruner = pruned("mag_grad_blind")
    model.load_state_dict(saved[0])
    pruner.load_state_dict(saved[1])
    run(model, pruner, range(13, 41))
    assert all(map(torch.equal, model.state_dict().values(), whole[0].state_dict().values()))


@pytest.mark.parametrize("pruned_value", [-1.0, 0.0])
def test_sparsities_of_either_kind_are_written_as_the_original_writes_them(
    pruned_value: float, tmp_path: Path
) -> None:
    tensors = {
        "a_pruning_mask": torch.tensor([1.0, pruned_value, pruned_value]),
        "b_pruning_mask": torch.ones(5),
    }
    write_sparsities(tmp_path / "sparsities.csv", tensors)
    with (tmp_path / "sparsities.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["sparsity", "nnz", "a_pruning_mask", "b_pruning_mask"],
            ["0.25000", "6", "0.66667", "0.00000"],
        ]
