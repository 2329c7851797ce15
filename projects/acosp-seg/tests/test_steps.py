"""One step, its rates and sums, and what pruning does between steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acosp.soft_topk import SoftTopK
from acosp.structure import phase, structure
from acosp_seg import steps
from acosp_seg.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PruneConfig,
    QuirkConfig,
    TestConfig,
)
from acosp_seg.evaluate import Evaluator, Totals, figures, loss_of_batches, rule_of
from acosp_seg.model import build
from acosp_seg.model.network import Network
from acosp_seg.pruner import Pruning, rebuilt_optimizer, temperature
from prunelab.errors import UserError
from prunelab.metrics.segmentation import areas, areas_histc

SEGNET = Config(
    model=ModelConfig(arch="segnet", layers=None, classes=3, width=2),
    data=DataConfig(dataset="tiny", train_h=32, train_w=32),
    optim=OptimConfig(base_lr=0.1, weight_decay=0.01, aux_weight=0.0, epochs=10),
    prune=PruneConfig(sparsity=0.5, ending_epoch=4, min_remaining_elements=1),
)
PSP = replace(
    SEGNET,
    model=ModelConfig(arch="psp", classes=3, width=2, bins=(1, 2), dropout=0.0),
    data=DataConfig(dataset="tiny", train_h=17, train_w=17),
    test=TestConfig(test_h=17, test_w=17),
    optim=OptimConfig(base_lr=0.01, aux_weight=0.4),
)


def pictures(cfg: Config, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (count, cfg.data.train_h, cfg.data.train_w)
    x = torch.randn(size[0], 3, *size[1:], generator=generator)
    return x, torch.randint(0, 3, size, generator=generator)


def started(cfg: Config) -> tuple[Network, Pruning, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model, pruning = build(cfg.model), Pruning(cfg)
    assert pruning.begin(model, None) == []
    return model, pruning, steps.make_optimizer(model, cfg.optim)


def a_step(cfg: Config, model: Network, optimizer: torch.optim.Optimizer) -> steps.Outcome:
    return steps.train_step(model, optimizer, *pictures(cfg), aux_weight=cfg.optim.aux_weight)


@pytest.mark.parametrize("cfg", [SEGNET, PSP])
def test_a_step_is_the_gradient_step_of_main_and_weighted_auxiliary_loss(cfg: Config) -> None:
    model, _, optimizer = started(cfg)
    x, y = pictures(cfg)
    _, main, aux = model.losses(x, y)
    expected = {n: p.detach().clone() for n, p in model.named_parameters()}
    names, params = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(main + cfg.optim.aux_weight * aux, params, allow_unused=True)
    lr, decay = cfg.optim.base_lr, cfg.optim.weight_decay
    for name, grad in zip(names, grads, strict=True):
        factor = 10 if name.split(".")[0] in ("ppm", "cls", "aux") else 1
        assert grad is not None
        expected[name] -= lr * factor * (grad + decay * expected[name])
    outcome = a_step(cfg, model, optimizer)
    torch.testing.assert_close(dict(model.named_parameters()), expected, rtol=1e-4, atol=1e-6)
    expected_loss = (main + cfg.optim.aux_weight * aux).detach()
    torch.testing.assert_close(outcome.loss, expected_loss)
    assert (outcome.aux > 0) == (cfg is PSP)
    assert not outcome.main.requires_grad


def test_everything_decays_logits_and_batch_norm_too() -> None:
    model, _, optimizer = started(SEGNET)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}
    assert sum(isinstance(m, SoftTopK) for m in model.modules()) == 25


def test_classifiers_change_their_rate_once_an_epoch() -> None:
    optim = OptimConfig(lr_schedule="cosine_epoch", optimiser="adam", base_lr=0.01, epochs=4)
    used = [steps.learning_rate(optim, done, 3) for done in range(12)]
    each = [0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert used == pytest.approx([rate for rate in each for _ in range(3)])


def test_a_gradient_that_is_not_finite_leaves_weights_and_momentum_alone() -> None:
    model, _, optimizer = started(SEGNET)
    a_step(SEGNET, model, optimizer)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x, y = pictures(SEGNET)
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="gradient is nan"):
        steps.train_step(model, optimizer, x, y, aux_weight=0.0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_labels_are_taken_where_a_smaller_prediction_has_its_pixels() -> None:
    y = torch.arange(17 * 9).view(1, 17, 9)
    small = torch.zeros(1, 5, 3)
    assert torch.equal(steps.at_size(y, small), y[:, ::4, ::4])
    assert steps.at_size(y, y) is y
    cfg = replace(PSP, model=replace(PSP.model, zoom_factor=2))
    model, _, optimizer = started(cfg)
    outcome = a_step(cfg, model, optimizer)
    assert outcome.prediction.shape == outcome.target.shape == (2, 5, 5)


def test_mixed_precision_computes_losses_in_single_precision() -> None:
    model, _, optimizer = started(SEGNET)
    x, y = pictures(SEGNET)
    exact = float(model.losses(x, y)[1].detach())
    outcome = steps.train_step(model, optimizer, x, y, aux_weight=0.0, amp="bf16")
    assert outcome.loss.dtype == torch.float32
    assert float(outcome.loss) == pytest.approx(exact, rel=0.05)
    assert float(outcome.loss) != exact


# Sums


def test_sums_of_an_epoch_are_those_of_its_pixels_and_samples() -> None:
    totals = Totals(3, 255, areas, torch.device("cpu"))
    parts = [
        (torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 1, 1, 255]]), 1.0),
        (torch.tensor([[0, 0], [1, 1], [2, 2]]), torch.tensor([[0, 1], [1, 1], [255, 2]]), 3.0),
    ]
    batch = {}
    for guess, truth, loss in parts:
        one = torch.tensor(loss)
        batch = totals.add(steps.Outcome(prediction=guess, target=truth, main=one, aux=one / 2, loss=one))
    assert {n: float(v) for n, v in batch.items()} == pytest.approx(
        {
            "loss_train_batch": 3,
            "mIoU_train_batch": (1 / 2 + 2 / 3 + 1) / 3,
            "mAcc_train_batch": (1 + 2 / 3 + 1) / 3,
            "allAcc_train_batch": 4 / 5,
            "aux_loss_train_batch": 1.5,
        }
    )
    found = {n: float(v) for n, v in figures(totals.sums, "train")}
    assert found["loss_train"] == pytest.approx((1 + 3 * 3) / 4)
    assert found["allAcc_train"] == pytest.approx(6 / 8)
    assert found["mIoU_train"] == pytest.approx((2 / 3 + 3 / 5 + 1 / 2) / 3)
    assert loss_of_batches(totals.sums, per_sample=False) == 2
    assert loss_of_batches(totals.sums, per_sample=True) == 1
    again = Totals(3, 255, areas, torch.device("cpu"))
    again.load_state_dict(totals.state_dict())
    assert torch.equal(again.sums, totals.sums)
    totals.empty()
    assert not totals.sums.any()


def test_a_void_label_among_the_classes_is_counted_as_the_quirk_says() -> None:
    quirky = replace(SEGNET, quirks=QuirkConfig(void_below_classes=True))
    assert rule_of(quirky) is areas_histc
    assert rule_of(SEGNET) is areas


def test_validation_resizes_smaller_logits_and_leaves_the_network_alone() -> None:
    cfg = replace(PSP, model=replace(PSP.model, zoom_factor=1))
    model, *_ = started(cfg)
    batches = [pictures(cfg), pictures(cfg, 1)]
    evaluator = Evaluator(batches, cfg, torch.device("cpu"))
    model.eval()
    found = dict(evaluator.run(model))
    expected = []
    for x, y in batches:
        logits = F.interpolate(model(x), (17, 17), mode="bilinear", align_corners=True)
        expected += [float(F.cross_entropy(logits, y).detach())] * len(y)
    assert list(found) == ["loss_val", "mIoU_val", "mAcc_val", "allAcc_val"]
    assert found["loss_val"] == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert all(p.grad is None for p in model.parameters())


# Pruning


def test_the_floor_of_kept_channels_is_said_once() -> None:
    cfg = replace(SEGNET, prune=replace(SEGNET.prune, min_remaining_elements=8))
    lines = Pruning(cfg).begin(build(cfg.model), None)
    assert len(lines) == 1
    assert "layers keep more channels" in lines[0]


@pytest.mark.parametrize("lag", [True, False])
def test_a_run_that_begins_later_has_the_temperature_of_its_epoch(lag: bool) -> None:
    cfg = replace(SEGNET, quirks=QuirkConfig(temperature_lag=lag))
    found = []
    model, pruning, _ = started(cfg)
    for epoch in range(4):
        late = build(cfg.model)
        pruning.begin(late, None)
        pruning.temper(late, epoch)
        assert temperature(late) == temperature(model)
        found.append(temperature(model))
        pruning.end_epoch(model, epoch)
    wanted = [0, 0, 1, 2] if lag else [0, 1, 2, 3]
    assert found == pytest.approx([0.001 ** (e / 4) for e in wanted])


@pytest.mark.parametrize("refill", ["no", "train", "freeze"])
def test_hard_masks_end_the_logits_and_momentum_of_all_others_goes_on(refill: str) -> None:
    prune = replace(SEGNET.prune, refill_pruned=refill != "no")
    cfg = replace(SEGNET, prune=prune, quirks=QuirkConfig(refill_freezes=refill == "freeze"))
    model, pruning, optimizer = started(cfg)
    a_step(cfg, model, optimizer)
    steps.set_rates(optimizer, 0.05, [1.0] * 10)
    momentum = {id(p): optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()}
    assert not pruning.due(model, 3)
    assert pruning.due(model, 4)
    assert pruning.harden(model) == []
    assert not pruning.due(model, 5)
    rebuilt = rebuilt_optimizer(model, cfg, optimizer)
    kept = [p for group in rebuilt.param_groups for p in group["params"]]
    assert [id(p) for p in kept] == [id(p) for p in model_order(model)]
    assert all(torch.equal(rebuilt.state[p]["momentum_buffer"], momentum[id(p)]) for p in kept)
    assert {group["lr"] for group in rebuilt.param_groups} == {0.05}
    before = [p.detach().clone() for p in kept]
    assert phase(model) == ("hard" if refill == "no" else "dense")
    a_step(cfg, model, rebuilt)
    frozen = sum(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    assert frozen == (50 if refill == "freeze" else 0)


def model_order(model: Network) -> list[nn.Parameter]:
    trunk, new = model.groups()
    return [p for name in (*trunk, *new) for p in model.get_submodule(name).parameters()]


def test_masks_made_hard_before_any_training_keep_all_channels_with_one_warning() -> None:
    quirks = QuirkConfig.of("faithful")
    cfg = replace(SEGNET, prune=replace(SEGNET.prune, ending_epoch=0), quirks=quirks)
    model, pruning, _ = started(cfg)
    assert pruning.due(model, 0)
    lines = pruning.harden(model)
    assert len(lines) == 1
    assert lines[0].startswith("warning: 25 hard masks do not keep the wanted number")
    assert all(m.mask.all() for m in model.modules() if hasattr(m, "mask"))


def test_stored_masks_are_brought_up_to_the_logits_but_for_the_quirk() -> None:
    stored = {}
    for lag in (True, False):
        cfg = replace(SEGNET, quirks=QuirkConfig(stored_mask=lag))
        model, pruning, optimizer = started(cfg)
        a_step(cfg, model, optimizer)
        layer = next(m for m in model.modules() if isinstance(m, SoftTopK) and m.channels > 2)
        before = layer.mask.clone()
        pruning.refresh(model)
        stored[lag] = torch.equal(layer.mask, before)
        if not lag:
            torch.testing.assert_close(layer.mask, layer.soft_mask().detach())
    assert stored == {True: True, False: False}


def test_a_saved_structure_gives_a_dense_network_its_masks_again() -> None:
    model, pruning, _ = started(SEGNET)
    pruning.end_epoch(model, 2)
    plain = structure(model)
    other = build(SEGNET.model)
    assert Pruning(SEGNET).begin(other, plain) == []
    assert temperature(other) == temperature(model) != 1
    other.load_state_dict(model.state_dict())
    assert structure(other) == plain


def test_values_of_masks_have_names_and_a_dense_network_has_none() -> None:
    model, pruning, _ = started(SEGNET)
    values = pruning.figures(model, 0)
    assert values["pruning/down1.conv1.cbr_unit.0.1/temperature"] == 1
    assert values["pruning/mean_temperature"] == 1
    assert len(values) == 25 * 5 + 5 * 4
    dense = replace(SEGNET, prune=PruneConfig())
    model, pruning, _ = started(dense)
    assert pruning.figures(model, 0) == {}
    assert not pruning.due(model, 0)
    assert temperature(model) is None
