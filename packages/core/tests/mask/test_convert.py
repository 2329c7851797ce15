"""Masks for any module: a torchvision network, tied weights, and back to plain layers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from torch import nn

from prunelab import mask
from prunelab.errors import UserError


def test_a_torchvision_network_is_pruned_in_three_lines() -> None:
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=3).eval()
    keys = list(model.state_dict())
    pictures = torch.randn(1, 3, 64, 64)
    before = model(pictures)

    mask.convert(model, mask.MaskSpec(kind="fixed"))
    assert torch.equal(model(pictures), before)
    mask.assign(model, mask.magnitude(mask.weights_of(model), 0.9, "uniform"))
    state = mask.apply_masks(model)

    assert list(state) == keys
    assert float(mask.total_sparsity(mask.masks(model), "fixed")) == pytest.approx(0.9, abs=1e-3)
    pruned = model(pictures)
    assert not torch.equal(pruned, before)
    assert mask.strip(model) is model
    assert not list(mask.masked_layers(model))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))
    assert torch.equal(model(pictures), pruned)


def test_conversion_keeps_objects_hooks_and_weights_and_obeys_the_filter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LSTMCell(4, 2), nn.Embedding(5, 2), nn.ReLU())
    weight, calls = model[0].weight, []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    mask.convert(model, mask.MaskSpec(), only=lambda path, _: path != "2")
    assert list(mask.masks(model)) == [
        "0.weight_pruning_mask",
        "1.weight_ih_pruning_mask",
        "1.weight_hh_pruning_mask",
    ]
    assert model[0].weight is weight
    model[0](torch.randn(1, 3))
    assert calls == [1]
    assert type(mask.strip(model)[1]) is nn.LSTMCell


def test_the_root_module_itself_can_be_converted() -> None:
    layer = mask.convert(nn.Linear(3, 2), mask.MaskSpec())
    assert list(mask.masks(layer)) == ["weight_pruning_mask"]
    assert set(mask.apply_masks(layer)) == {"weight", "bias"}


def test_tied_weights_share_one_mask_and_stay_tied() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    model[1].weight = model[0].weight
    mask.convert(model, mask.MaskSpec())
    assert model[0].weight_pruning_mask is model[1].weight_pruning_mask
    assert list(mask.masks(model)) == ["0.weight_pruning_mask"]
    with torch.no_grad():
        model[0].weight_pruning_mask[2:] = -1.0
    mask.strip(model)
    assert model[0].weight is model[1].weight
    assert bool((model[1].weight[2:] == 0).all())
    assert bool((model[1].weight[:2] != 0).all())


def test_applied_masks_leave_no_negative_zero_and_the_model_untouched() -> None:
    torch.manual_seed(0)
    for kind in ("supermask", "fixed"):
        layer = mask.MaskedLinear(20, 20, mask=mask.MaskSpec(kind=kind))
        values = torch.rand(20, 20).round()
        mask.assign(
            layer, {"weight_pruning_mask": values if kind == "fixed" else torch.where(values > 0, 1.0, -1.0)}
        )
        before = copy.deepcopy(layer.state_dict())
        state = mask.apply_masks(layer, keep_masks=True)
        assert list(state) == ["weight", "bias", "weight_pruning_mask"]
        assert torch.equal(state["weight_pruning_mask"], values)
        assert torch.equal(state["weight"], layer.weight * values)
        assert not bool(torch.signbit(state["weight"][values == 0]).any())
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
        assert "weight_pruning_mask" not in mask.apply_masks(layer)


def test_a_converted_network_trains_its_masks() -> None:
    torch.manual_seed(0)
    model = mask.convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)), mask.MaskSpec())
    with mask.draw_once(model):
        model(torch.randn(5, 1, 4, 4)).square().sum().backward()
    for parameter in mask.masks(model).values():
        assert parameter.grad is not None
        assert bool(parameter.grad.abs().sum() > 0)


def test_a_hard_mask_equals_the_stripped_network() -> None:
    torch.manual_seed(0)
    model = mask.convert(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), mask.MaskSpec())
    for parameter in mask.masks(model).values():
        parameter.data = torch.where(torch.rand_like(parameter) < 0.5, math.inf, -math.inf)
    x = torch.randn(4, 6)
    trained = model.train()(x)
    assert torch.equal(trained, model.eval()(x))
    assert torch.equal(trained, mask.strip(model)(x))


def test_what_cannot_be_masked_is_said() -> None:
    with pytest.raises(UserError, match="has no layer to mask"):
        mask.convert(nn.ReLU(), mask.MaskSpec())
    rescaling = nn.Embedding(3, 2, max_norm=1.0)
    with pytest.raises(UserError, match=r"embedding option max_norm=1\.0 cannot be masked"):
        mask.convert(rescaling, mask.MaskSpec())
    assert type(rescaling) is nn.Embedding
    layer = mask.MaskedLinear(3, 2, mask=mask.MaskSpec())
    with pytest.raises(UserError, match="mask 'other' is not in the model"):
        mask.assign(layer, {"other": torch.ones(1)})
    with pytest.raises(UserError, match=r"has shape \(1,\): expected \(2, 3\)"):
        mask.assign(layer, {"weight_pruning_mask": torch.ones(1)})
