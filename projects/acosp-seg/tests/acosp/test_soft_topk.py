"""Mask layers one by one: what is stored when, hard masks, temperatures, masks computed together."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acosp import soft_masks, soft_topk
from acosp.soft_masks import SoftMask
from acosp.soft_topk import (
    ChannelMaskLayer,
    MaskGroup,
    SigmoidSoftTopK,
    SoftTopK,
    kept_channels,
    temperature_at,
)


def test_counts_follow_double_precision_and_never_exceed_the_channels() -> None:
    assert [kept_channels(c, 0.75) for c in (64, 128, 512)] == [16, 32, 128]
    assert kept_channels(10, 0.7, 1) == 4  # ceil(3.0000000000000004)
    assert kept_channels(64, 0.9375) == 8
    assert kept_channels(5, 0.5) == 5


def test_the_temperature_falls_exponentially_and_ends() -> None:
    def at(epoch: int) -> float:
        return temperature_at(epoch, starting_epoch=2, ending_epoch=10, initial=1, final=0.001)

    assert at(0) == at(2) == 1
    assert at(6) == pytest.approx(0.001**0.5)
    assert at(10) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="epoch is 11, but soft masks end at epoch 10"):
        at(11)


def test_a_learned_layer_lists_its_logits_first_and_a_fixed_one_its_mask_first() -> None:
    assert list(SigmoidSoftTopK(16, 8).state_dict()) == ["weight", "mask"]
    assert list(SigmoidSoftTopK(16, 8, learnable_weights=False).state_dict()) == ["mask", "weight"]
    assert [name for name, _ in SigmoidSoftTopK(16, 8).named_parameters()] == ["weight"]


def test_logits_are_one_draw_from_the_global_state() -> None:
    torch.manual_seed(5)
    expected = torch.empty(16).normal_()
    torch.manual_seed(5)
    assert torch.equal(SigmoidSoftTopK(16, 8).weight, expected)
    state = torch.get_rng_state()
    assert not SigmoidSoftTopK(16, 8, drawn=False).weight.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_uses_the_mask_of_the_last_training_forward() -> None:
    layer = SigmoidSoftTopK(16, 8)
    x = torch.randn(2, 16, 3, 3)
    layer.eval()
    assert torch.equal(layer(x), x)
    layer.train()
    trained = layer(x).detach()
    with torch.no_grad():
        layer.weight.neg_()
    layer.on_epoch_end(1)
    layer.eval()
    torch.testing.assert_close(layer(x), trained)
    layer.train()
    assert not torch.allclose(layer(x), trained)


def test_where_all_channels_stay_the_mask_is_one_and_nothing_is_learned() -> None:
    layer = SigmoidSoftTopK(8, 8)
    x = torch.randn(1, 8, 2, 2, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, x)
    assert layer.weight.grad is None
    assert layer.get_logs() == {"x_0": 0, "temperature": 1, "chosen": 1, "pruned": 0, "undecided": 0}


def test_a_trained_layer_can_be_copied_saved_and_switched_to_evaluation_directly() -> None:
    layers = nn.ModuleList([SigmoidSoftTopK(16, 4), SigmoidSoftTopK(16, 4)])
    MaskGroup(layers)
    layers[0].current_mask()
    again = copy.deepcopy(layers)
    assert torch.equal(again[0].mask, layers[0].mask)
    assert again[0]._group is not layers[0]._group
    assert again[0]._group.layers == list(again)
    torch.save(layers, io.BytesIO())  # without an error
    assert not layers[0].eval().training


def test_an_unknown_layer_must_say_how_its_mask_comes_about() -> None:
    with pytest.raises(NotImplementedError):
        SoftTopK(4, 2).current_mask()
    with pytest.raises(NotImplementedError):
        SoftTopK(4, 2).hard_mask()


def test_k_must_fit_the_width() -> None:
    with pytest.raises(ValueError, match="k is 9, expected 1 to 8"):
        SigmoidSoftTopK(8, 9)


def test_hard_masks_keep_exactly_k_and_equals_are_ranked_by_their_logits() -> None:
    layer = SigmoidSoftTopK(8, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 5, 5, 5, 5, 0, 0, 0]))
    expected = torch.tensor([0.0, 1, 1, 1, 0, 0, 0, 0])
    assert torch.equal(layer.hard_mask(), expected)  # no forward yet: by the logits
    assert layer.hard_mask(stored=True).sum() == 8
    layer.current_mask()
    assert torch.equal(layer.hard_mask(), expected)
    assert layer.hard_mask(stored=True).sum() == 4
    layer.mask.copy_(torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 1]))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(8.0))
    assert torch.equal(layer.hard_mask().nonzero().flatten(), torch.tensor([3, 4, 7]))


def test_a_fixed_mask_multiplies_channels_and_keeps_short_types() -> None:
    layer = ChannelMaskLayer(torch.tensor([1.0, 0, 0.5]))
    x = torch.ones(3, 2, 2, dtype=torch.bfloat16)  # unbatched
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert y[:, 0, 0].tolist() == [1, 0, 0.5]
    assert layer.get_logs() == pytest.approx({"chosen": 1 / 3, "pruned": 1 / 3, "undecided": 1 / 3})


# --- together ---


class Counted:
    """How often masks were computed, and of how many layers each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []

        def count(logits: list[Tensor], k: int, temperature: float) -> list[SoftMask]:
            self.sizes.append(len(logits))
            return soft_masks.soft_masks(logits, k, temperature)

        monkeypatch.setattr(soft_topk, "soft_masks", count)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def make_layers() -> list[SigmoidSoftTopK]:
    layers = [SigmoidSoftTopK(width, width // 2) for width in (16, 16, 24, 16, 24)]
    MaskGroup(layers)
    return layers


def expect_fresh(layer: SigmoidSoftTopK) -> None:
    (soft,) = soft_masks.soft_masks([layer.weight], layer.k, layer.current_temperature)
    torch.testing.assert_close(layer.current_mask().detach(), soft.mask)


def test_one_computation_for_each_width_serves_a_whole_forward(counted: Counted) -> None:
    layers = make_layers()
    for _ in range(2):
        for layer in layers:
            layer.current_mask()
    assert counted.sizes == [3, 2, 3, 2]


def test_masks_computed_ahead_are_dropped_when_logits_temperature_or_mode_change() -> None:
    layers = make_layers()
    layers[0].current_mask()
    with torch.no_grad():
        layers[1].weight.add_(torch.randn(16))
    layers[2].current_temperature = 0.3
    layers[3].eval().train()
    layers[4].weight = nn.Parameter(torch.randn(24))
    for layer in layers[1:]:
        expect_fresh(layer)


def test_layers_stay_independent_on_the_way_back() -> None:
    layers = make_layers()
    first, second, third = (layer.current_mask() for layer in layers[:3])
    first.square().sum().backward()
    second.square().sum().backward()
    again = layers[2].current_mask()
    (third.square().sum() + again.square().sum()).backward()
    for layer in layers[:2]:
        alone = copy.deepcopy(layer)
        alone.weight.grad = None
        alone.current_mask().square().sum().backward()
        assert torch.equal(layer.weight.grad, alone.weight.grad)


def test_masks_work_inside_recomputed_segments() -> None:
    layers = make_layers()[:2]
    x = torch.randn(1, 16, 2, 2, requires_grad=True)
    nn.Sequential(*layers)(x).square().sum().backward()
    expected = [layer.weight.grad.clone() for layer in layers]
    for layer in layers:
        layer.weight.grad = None
    y = x
    for layer in layers:
        y = checkpoint(layer, y, use_reentrant=False)
    y.square().sum().backward()
    for layer, grad in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.weight.grad, grad)


def test_masks_can_be_used_where_no_gradient_is_recorded() -> None:
    layers = make_layers()
    with torch.no_grad():
        layers[0].current_mask()
    with torch.inference_mode():
        layers[1](torch.randn(1, 16, 2, 2))
    layers[2].current_mask().sum().backward()
    assert layers[2].weight.grad is not None
