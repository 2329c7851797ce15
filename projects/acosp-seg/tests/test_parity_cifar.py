"""ResNet-18 for CIFAR-10 and its recipe (Adam, cosine, masks) agree with the recorded ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from acosp import SoftTopKPruner
from acosp.soft_topk import SoftTopK
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from testing.parity import Folder, of_kind

from .filling import fill
from .recorded_networks import assert_abs_sums

pytestmark = pytest.mark.parity


def _network(folder: Folder) -> tuple[Network, SoftTopKPruner]:
    facts = folder.facts
    pruner = SoftTopKPruner(
        facts["sparsity"],
        facts["ending_epoch"],
        starting_epoch=facts["starting_epoch"],
        min_remaining_elements=facts["min_remaining_elements"],
    )
    model = build(ModelConfig(arch="resnet18", layers=None, classes=facts["classes"]))
    pruner.configure_model(model)
    fill(model, prefix=folder.facts.get("fill_prefix", ""))
    return model, pruner


def _gradients(model: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of mask logits, and of everything else."""
    state = model.state_dict()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    logits = {name for name in found if f"{name.removesuffix('weight')}mask" in state}
    return {n: found[n] for n in logits}, {n: g for n, g in found.items() if n not in logits}


@of_kind("cifar_resnet18")
def test_fresh_output_and_kept_channels_agree(folder: Folder) -> None:
    model, data = _network(folder)[0].eval(), folder.arrays("data.npz")
    with torch.no_grad():
        output = model(data["x"])
    rtol = folder.tolerance["first_rtol"]
    torch.testing.assert_close(output, data["eval_fresh"], rtol=rtol, atol=rtol * float(output.abs().max()))
    kept = {name: module.k for name, module in model.named_modules() if isinstance(module, SoftTopK)}
    assert kept == folder.json("expected.json")["k"]


@of_kind("cifar_resnet18")
def test_training_agrees(folder: Folder) -> None:
    facts, bound, expected = folder.facts, folder.tolerance, folder.json("expected.json")
    data = folder.arrays("data.npz")
    model, pruner = _network(folder)
    assert facts["optimizer"] == "adam"
    assert facts["lr_schedule"] == "cosine"
    optimizer = torch.optim.Adam(model.parameters(), facts["base_lr"], weight_decay=facts["weight_decay"])
    model.train()
    history = []
    for epoch in range(facts["epochs_run"]):
        rate = 0.5 * facts["base_lr"] * (1 + math.cos(math.pi * epoch / facts["lr_epochs"]))
        for group in optimizer.param_groups:
            group["lr"] = rate
        temperature = next(m.current_temperature for m in model.modules() if isinstance(m, SoftTopK))
        logits = model(data["x"])
        loss = model.criterion(logits, data["y"])
        optimizer.zero_grad()
        loss.backward()
        if epoch == 0:
            rtol = bound["first_rtol"]
            ours, largest = logits.detach(), float(logits.detach().abs().max())
            torch.testing.assert_close(ours, data["train_logits0"], rtol=rtol, atol=rtol * largest)
            recorded = expected["grad_check"]
            for found, limit in zip(
                _gradients(model), ("logit_grad_abs_sum_rtol", "grad_abs_sum_rtol"), strict=True
            ):
                assert_abs_sums(limit, found, {n: recorded[n] for n in found}, rtol=bound[limit])
            assert sum(map(len, _gradients(model))) == len(recorded)
        optimizer.step()
        if epoch == 0:
            recorded = expected["param_check_after_1"]
            assert_abs_sums("weights", model.state_dict(), recorded, rtol=bound["param_abs_sum_rtol"])
        history.append([rate, loss.item(), temperature])
        pruner.update_mask_layers(model, epoch)
    rates, losses, temperatures = np.array(expected["lr_loss_temperature"]).T
    ours = np.array(history).T
    np.testing.assert_allclose(ours[0], rates, rtol=1e-12)
    np.testing.assert_allclose(ours[2], temperatures, rtol=1e-12)
    np.testing.assert_allclose(ours[1][0], losses[0], rtol=bound["first_rtol"])
    np.testing.assert_allclose(ours[1][1:], losses[1:], rtol=bound["later_loss_rtol"])
