"""Training on in the slim network: what masked training does, step by step, in double precision."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from acosp import SoftTopKPruner
from acosp.inject import masked_convs, soft_to_hard_k
from acosp_seg.compact import (
    apply_slim,
    carry_optimizer,
    is_slim,
    masked_again,
    slim_for_training,
    structure_of,
)
from acosp_seg.config import ModelConfig, OptimConfig
from acosp_seg.model import Network, build
from acosp_seg.steps import make_optimizer, train_step
from prunelab.errors import UserError
from prunelab.surgery import compact

OPTIM = OptimConfig(base_lr=0.02, momentum=0.9, weight_decay=5e-4)
SIZES = {"segnet": (45, 37), "psp": (41, 33), "resnet18": (32, 32)}
BEFORE, AFTER = 2, 4


def hard_masked(arch: str) -> Network:
    torch.manual_seed(0)
    model = build(ModelConfig(arch=arch, layers=50 if arch == "psp" else None, classes=5, width=16))
    SoftTopKPruner(0.75, ending_epoch=1, min_remaining_elements=3).configure_model(model)
    soft_to_hard_k(model)
    return model.double().train()


def batch(arch: str, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    size = SIZES[arch]
    x = torch.randn(4, 3, *size, generator=generator).double()
    return x, torch.randint(0, 5, (4,) if arch == "resnet18" else (4, *size), generator=generator)


def train(model: Network, optimizer: torch.optim.Optimizer, arch: str, steps: range) -> list[Any]:
    found = []
    for step in steps:
        torch.manual_seed(step)  # of what dropout drops
        outcome = train_step(model, optimizer, *batch(arch, step), aux_weight=0.4)
        found.append([outcome.main.item(), outcome.aux.item()])
    return found


@pytest.mark.parametrize("arch", SIZES)
def test_losses_and_weights_are_those_of_masked_training(arch: str) -> None:
    model = hard_masked(arch)
    optimizer = make_optimizer(model, OPTIM)
    train(model, optimizer, arch, range(BEFORE))
    small = copy.deepcopy(model)
    # the optimiser holds parameters of the masked network: a slim copy takes its momentum by name
    before = dict(model.named_parameters())
    slim_for_training(small)
    after = make_optimizer(small, OPTIM)
    carried = carry_optimizer(optimizer, after, before, small)
    assert set(carried) == {name for name, _ in small.named_parameters()}
    assert sum(p.numel() for p in small.parameters()) < 0.4 * sum(p.numel() for p in model.parameters())

    steps = range(BEFORE, BEFORE + AFTER)
    expected, found = (train(m, o, arch, steps) for m, o in ((model, optimizer), (small, after)))

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    whole = masked_again(small)
    masks = {name: module.mask for name, module in masked_convs(model)}
    for name, value in whole.state_dict().items():
        wanted = model.state_dict()[name]
        owner = name.rpartition(".")[0].removesuffix(".0")
        if name.startswith(f"{owner}.0.") and owner in masks:
            wanted = wanted * masks[owner].view(-1, *(1,) * (wanted.dim() - 1))
        torch.testing.assert_close(value, wanted, rtol=1e-7, atol=1e-9)
    x = torch.randn(1, 3, *SIZES[arch]).double()
    with torch.no_grad():
        wanted = model.eval()(x)
        for network in (small.eval(), whole.eval(), compact(whole, x)):
            assert (network(x) - wanted).abs().max() <= 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("arch", SIZES)
def test_a_slim_network_is_rebuilt_from_plain_data_and_goes_on(arch: str) -> None:
    small = slim_for_training(hard_masked(arch))
    optimizer = make_optimizer(small, OPTIM)
    train(small, optimizer, arch, range(2))
    data, state = json.dumps(structure_of(small)), copy.deepcopy(small.state_dict())
    moments = copy.deepcopy(optimizer.state_dict())

    again = apply_slim(build(small.cfg).double(), json.loads(data)).train()
    again.load_state_dict(state, strict=True)
    other = make_optimizer(again, OPTIM)
    other.load_state_dict(moments)

    assert is_slim(again)
    assert train(again, other, arch, range(2, 4)) == train(small, optimizer, arch, range(2, 4))
    assert all(map(torch.equal, again.state_dict().values(), small.state_dict().values()))


def test_only_hard_masks_can_be_slimmed() -> None:
    model = build(ModelConfig(arch="segnet", layers=None, classes=5, width=8))
    with pytest.raises(UserError, match="the network is dense, expected hard masks"):
        slim_for_training(model)
    SoftTopKPruner(0.5, ending_epoch=1, min_remaining_elements=2).configure_model(model)
    with pytest.raises(UserError, match="the network is soft, expected hard masks"):
        slim_for_training(model)
    assert not is_slim(model)
