"""Supermask pruning around a step: which masks move, what is on target, what a resume must agree on."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunelab.errors import UserError
from prunelab.mask import masked_layers, masks
from smp_caption import train
from smp_caption.captioner import Captioner
from smp_caption.config import Config, PruneConfig, QuirksConfig
from smp_caption.model import Network, build
from smp_caption.pruner import SupermaskPruner, crowded, mask_spec, write_sparsities
from smp_caption.steps import drawing
from smp_caption.tokenizer import Tokenizer

from .toy import TOY

NAME = "up_down_lstm_prune"
MODEL = replace(TOY, caption_model=NAME)
PRUNE = PruneConfig(prune_type="supermask", prune_sparsity_target=0.75, prune_supermask_sparsity_weight=6.0)


def pruned(**changes: object) -> tuple[Network, SupermaskPruner]:
    config = replace(PRUNE, **changes)
    model = build(MODEL, mask_spec(MODEL, config))
    return model, SupermaskPruner(model, NAME, config, max_step=10)


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


def test_only_supermasks_are_available_and_a_dense_model_has_none() -> None:
    assert mask_spec(replace(MODEL, caption_model="up_down_lstm"), PruneConfig()) is None
    spec = mask_spec(MODEL, replace(PRUNE, prune_supermask_init=2.0))
    assert spec is not None
    assert (spec.kind, spec.init) == ("supermask", 2.0)
    with pytest.raises(UserError, match="prune_type snip is not available: expected supermask"):
        mask_spec(MODEL, replace(PRUNE, prune_type="snip"))


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
    model, pruner = pruned(prune_mask_freeze_scope="embed, logit")
    assert set(pruner.masks) - set(pruner.active) == {
        "embed.0.weight_pruning_mask",
        "logit.weight_pruning_mask",
    }
    start, middle, end = (pruner.loss(step) for step in (0, 5, 10))
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
    per_call = SupermaskPruner(model, NAME, PRUNE, 10, per_call=True)
    with drawing(per_call):
        assert not torch.equal(layer.effective("weight_ih"), layer.effective("weight_ih"))
    with drawing(None):
        assert not torch.equal(layer.effective("weight_ih"), layer.effective("weight_ih"))


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_frozen_masks_are_rounded_or_drawn_as_their_own_quirk_says(
    sampled: bool, per_call: bool, tmp_path: Path
) -> None:
    quirks = replace(QuirksConfig(), frozen_masks_sampled=sampled, masks_per_call=per_call)
    prune = replace(PRUNE, prune_mask_freeze_scope="logit")
    cfg = Config(model=MODEL, prune=prune, quirks=quirks)
    mask = mask_spec(MODEL, prune)
    tokenizer = Tokenizer.__new__(Tokenizer)
    captioner = Captioner(model=build(MODEL, mask), config=MODEL, tokenizer=tokenizer, mask=mask)
    job = train._prepare(cfg, captioner, 10)
    assert job.pruner is not None
    assert job.pruner.per_call == per_call
    drawn = {
        path: layer.is_sampled("weight") for path, layer in masked_layers(captioner.model) if path == "logit"
    }
    assert drawn == {"logit": sampled}


def test_a_resumed_run_must_prune_as_the_saved_one_did() -> None:
    _, pruner = pruned()
    saved = pruner.state_dict()
    pruner.load_state_dict(saved)
    for key, value in (("max_step", 11), ("weight", 7.0), ("active", ["logit.weight_pruning_mask"])):
        with pytest.raises(UserError, match=f"the saved run prunes with {key}"):
            pruner.load_state_dict({**saved, key: value})


def test_sparsities_are_written_as_the_original_writes_them(tmp_path: Path) -> None:
    masks = {"a_pruning_mask": torch.tensor([1.0, -1.0, -1.0]), "b_pruning_mask": torch.ones(5)}
    write_sparsities(tmp_path / "sparsities.csv", masks)
    with (tmp_path / "sparsities.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["sparsity", "nnz", "a_pruning_mask", "b_pruning_mask"],
            ["0.25000", "6", "0.66667", "0.00000"],
        ]
