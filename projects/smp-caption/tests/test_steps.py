"""Losses by hand, optimiser groups, and one training step."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.mask import MaskSpec, masks
from smp_caption.config import Config, OptimConfig, PruneConfig, QuirksConfig, RunConfig
from smp_caption.model import build
from smp_caption.pruner import make_pruner
from smp_caption.steps import MASK_GROUP, caption_loss, make_optimizer, make_schedule, train_step

from .toy import TOY, pictures

COSINE = OptimConfig(lr_scheduler="cosine", learning_rate=0.01, optim_epsilon=0.01)
SEQS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
MASKS = (SEQS > 0).float()


def batch() -> dict[str, Any]:
    return {**pictures(4), "seqs": SEQS, "masks": MASKS}


def dense(**changes: Any) -> Config:
    return Config(model=TOY, optim=COSINE, **changes)


def pruned(**changes: Any) -> Config:
    prune = PruneConfig(prune_type="supermask", prune_sparsity_target=0.9, **changes)
    return Config(model=replace(TOY, caption_model="up_down_lstm_prune"), optim=COSINE, prune=prune)


def log_probs(columns: int, words: int = 11) -> torch.Tensor:
    return torch.randn(2, columns, words, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@pytest.mark.parametrize("columns", [3, 4])
def test_cross_entropy_is_the_mean_over_real_tokens_without_bos(columns: int) -> None:
    logprobs = log_probs(columns)
    by_hand = [logprobs[0, 0, 5], logprobs[0, 1, 6], logprobs[0, 2, 3], logprobs[1, 0, 7], logprobs[1, 1, 3]]
    expected = -torch.stack(by_hand).mean()
    torch.testing.assert_close(caption_loss(logprobs, SEQS, MASKS), expected)
    stacked = caption_loss(logprobs, SEQS.view(1, 2, 4), MASKS.view(1, 2, 4))
    torch.testing.assert_close(stacked, expected)


@pytest.mark.parametrize("columns", [3, 4])
def test_label_smoothing_is_the_divergence_from_the_smoothed_target(columns: int) -> None:
    logprobs, e = log_probs(columns), 0.2
    total = torch.zeros(())
    for row, column, word in ((0, 0, 5), (0, 1, 6), (0, 2, 3), (1, 0, 7), (1, 1, 3)):
        q = torch.full((11,), e / 10)
        q[word] = 1 - e
        total += (q * (q.log() - logprobs[row, column])).sum()
    torch.testing.assert_close(caption_loss(logprobs, SEQS, MASKS, smoothing=e), total / 5)


def test_label_smoothing_of_a_longer_prediction_is_refused_under_the_originals_rule() -> None:
    with pytest.raises(UserError, match="original fails on 4 predictions for 3 targets"):
        caption_loss(log_probs(4), SEQS, MASKS, smoothing=0.1, cut_prediction=False)
    loss = caption_loss(log_probs(4)[:, :3], SEQS, MASKS, smoothing=0.1, cut_prediction=False)
    torch.testing.assert_close(loss, caption_loss(log_probs(4), SEQS, MASKS, smoothing=0.1))


def test_masks_are_a_group_of_their_own_behind_all_other_parameters() -> None:
    cfg = pruned(prune_mask_freeze_scope="core.att_lstm, logit")
    model = build(cfg.model, MaskSpec())
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    weights, logits = optimizer.param_groups
    named = dict(model.named_parameters())
    by_id = {id(p): name for name, p in named.items()}
    assert [by_id[id(p)] for p in weights["params"]] == [n for n in named if not n.endswith("_pruning_mask")]
    expected = [n for n in masks(model) if not n.startswith(("core.att_lstm", "logit"))]
    assert [by_id[id(p)] for p in logits["params"]] == expected
    assert (logits["lr"], logits["eps"], logits["weight_decay"]) == (100.0, 1e-2, 0.0)
    assert logits[MASK_GROUP] is True
    assert logits["betas"] == weights["betas"] == (0.9, 0.999)
    assert MASK_GROUP not in weights


def test_fixed_masks_are_not_trained() -> None:
    cfg = pruned()
    prune = replace(cfg.prune, prune_type="mask_freeze")
    model = build(cfg.model, MaskSpec(kind="fixed"))
    optimizer = make_optimizer(model, cfg.optim, prune)
    assert len(optimizer.param_groups) == 1
    assert not any(mask is p for mask in masks(model).values() for p in optimizer.param_groups[0]["params"])


def test_layers_that_are_shared_come_once_in_the_optimiser_and_in_order_of_registration() -> None:
    shared = {"share_layer_encoder": (0, 0, 1), "share_layer_decoder": (0, 0, 0)}
    sizes = {"d_model": 8, "dim_feedforward": 10, "num_heads": 2}
    cfg = replace(TOY, caption_model="relation_transformer_prune", **sizes, **shared)
    model = build(cfg, MaskSpec())
    optimizer = make_optimizer(model, COSINE, PruneConfig(prune_type="supermask"))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held) == len(list(model.parameters()))
    for group, wanted in zip(optimizer.param_groups, (False, True), strict=True):
        named = [p for name, p in model.named_parameters() if name.endswith("_pruning_mask") is wanted]
        assert all(p is q for p, q in zip(group["params"], named, strict=True))
    state = model.state_dict()
    depths = [n for n in state if ".layers.0." in n and n.replace("layers.0.", "layers.1.") in state]
    assert len(state) > len(held)
    assert depths


def test_a_pruner_is_asked_after_the_update_whose_number_it_gets_from_1() -> None:
    cfg = replace(pruned(), prune=PruneConfig(prune_type="mag_grad_blind"))
    model = build(cfg.model, MaskSpec(kind="fixed"))
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked = []

    class Spy:
        def drawing(self) -> AbstractContextManager[None]:
            return nullcontext()

        def loss(self, step: int) -> None:
            asked.append(("loss", step))

        def updated(self, step: int) -> bool:
            moved = any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
            asked.append(("updated" if moved else "too early", step))
            return False

    schedule = make_schedule(optimizer, cfg, 9)
    values = train_step(model, optimizer, schedule, batch(), cfg, epoch=0, update=3, pruner=Spy())
    assert asked == [("loss", 3), ("updated", 4)]
    assert set(values) == {"train/loss", "train/caption_loss", "train/learning_rate"}
    assert values["train/caption_loss"] == values["train/loss"]


def test_noam_brings_its_own_adam_and_leaves_masks_alone() -> None:
    cfg = replace(pruned(), optim=replace(COSINE, lr_scheduler="noam", noamopt_warmup=100))
    optimizer = make_optimizer(build(cfg.model, MaskSpec()), cfg.optim, cfg.prune)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    assert optimizer.param_groups[0]["eps"] == 1e-9
    schedule = make_schedule(optimizer, cfg, 1000)
    assert schedule.step() == pytest.approx(8**-0.5 * 100**-1.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(8**-0.5 * 100**-1.5)
    assert optimizer.param_groups[1]["lr"] == 100.0


def test_adam_in_one_kernel_gives_the_numbers_of_adam_in_many() -> None:
    cfg, models = pruned(), []
    for fused in (True, None):
        torch.manual_seed(0)
        model = build(cfg.model, MaskSpec())
        optimizer = make_optimizer(model, cfg.optim, cfg.prune)
        assert [group["fused"] for group in optimizer.param_groups] == [True, True]
        for group in optimizer.param_groups:
            group["fused"] = fused
        pruner = make_pruner(model, cfg, 3)
        schedule = make_schedule(optimizer, cfg, 3)
        for update in range(3):
            train_step(model.eval(), optimizer, schedule, batch(), cfg, epoch=0, update=update, pruner=pruner)
        models.append(model)
    for one, many in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, many)
    meta = build(cfg.model, MaskSpec()).to("meta")
    assert make_optimizer(meta, cfg.optim, cfg.prune).param_groups[0]["fused"] is None


def test_steps_learn_a_batch_and_report_loss_and_rate() -> None:
    torch.manual_seed(0)
    cfg = dense(run=RunConfig(seed=1))
    model = build(cfg.model, None)
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    schedule = make_schedule(optimizer, cfg, 200)
    losses = []
    for update in range(150):
        values = train_step(model, optimizer, schedule, batch(), cfg, epoch=0, update=update)
        assert set(values) == {"train/loss", "train/learning_rate"}
        losses.append(float(values["train/loss"]))
    assert losses[0] == pytest.approx(math.log(11), abs=0.5)
    assert losses[-1] < 0.5 * losses[0]
    assert values["train/learning_rate"] == pytest.approx(schedule.rate(150))


def test_step_of_a_pruned_model_adds_the_sparsity_loss_and_moves_masks() -> None:
    torch.manual_seed(0)
    cfg = pruned(prune_supermask_sparsity_weight=40.0)
    model = build(cfg.model, MaskSpec()).train()
    before = {name: mask.detach().clone() for name, mask in masks(model).items()}
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    pruner = make_pruner(model, cfg, 10)
    schedule = make_schedule(optimizer, cfg, 10)
    values = train_step(model, optimizer, schedule, batch(), cfg, epoch=0, update=5, pruner=pruner)
    caption, scaled = float(values["train/caption_loss"]), float(values["sparsity_loss/loss_scaled"])
    assert float(values["train/loss"]) == pytest.approx(caption + scaled)
    assert values["sparsity_loss/anneal_rate"] == pytest.approx(0.5)
    assert scaled == pytest.approx(40 * 0.5 * 0.9)
    assert all(bool((mask.detach() < before[name]).any()) for name, mask in masks(model).items())


def test_faithful_step_predicts_from_the_last_column_too() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(11))

        def forward(self, *inputs: torch.Tensor, last_column: bool) -> torch.Tensor:
            seen.append(last_column)
            return self.weight.expand(2, 3 + last_column, 11).log_softmax(-1)

    for preset in ("faithful", "fixed"):
        cfg, model = dense(quirks=QuirksConfig.of(preset)), Spy()
        optimizer = make_optimizer(model, cfg.optim, cfg.prune)
        train_step(model, optimizer, make_schedule(optimizer, cfg, 9), batch(), cfg, epoch=0, update=0)
    assert seen == [True, False]


def test_gradient_that_is_not_finite_changes_nothing() -> None:
    cfg = dense()
    model = build(cfg.model, None)
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    broken = batch() | {"att_feats": torch.full((1, 4, 7), math.nan)}
    with pytest.raises(UserError, match="nan"):
        train_step(model, optimizer, make_schedule(optimizer, cfg, 9), broken, cfg, epoch=0, update=0)
    assert not optimizer.state
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_values_are_clipped_one_by_one() -> None:
    cfg = dense(run=RunConfig())
    cfg = replace(cfg, optim=OptimConfig(lr_scheduler="step", optim="sgd", learning_rate=1.0, grad_clip=0.01))
    model = build(cfg.model, None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    train_step(model, optimizer, make_schedule(optimizer, cfg, 9), batch(), cfg, epoch=0, update=0)
    moved = {name: (value - before[name]).abs().max() for name, value in model.state_dict().items()}
    assert float(max(moved.values())) == pytest.approx(0.01, rel=1e-3)


def test_bf16_autocast_keeps_the_loss_in_single_precision() -> None:
    cfg = dense(run=RunConfig(amp="bf16"))
    model = build(cfg.model, None)
    optimizer = make_optimizer(model, cfg.optim, cfg.prune)
    values = train_step(model, optimizer, make_schedule(optimizer, cfg, 9), batch(), cfg, epoch=0, update=0)
    loss = values["train/loss"]
    assert isinstance(loss, torch.Tensor)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(math.log(11), abs=0.5)
