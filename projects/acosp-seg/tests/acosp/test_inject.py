"""Masks in networks: where they stand, how they become hard, and how they leave."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from acosp import SoftTopKPruner, UnprunableConv2d
from acosp.inject import hard_to_conv, masked_convs, replace, soft_to_channel_sparse, soft_to_hard_k
from acosp.masking import MaskingSequential
from acosp.soft_topk import ChannelMaskLayer, SigmoidSoftTopK
from acosp.structure import phase


def masked(model: nn.Module, sparsity: float = 0.5, least: int = 1) -> nn.Module:
    SoftTopKPruner(sparsity, 4, min_remaining_elements=least).configure_model(model)
    return model


class Net(nn.Module):
    """Plain, transposed, grouped and flagged convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2)
        self.flagged = nn.Conv2d(8, 8, 1)
        self.flagged.unprunable = True
        self.head = UnprunableConv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flagged(self.up(self.inner(self.first(x)).relu())))


def test_masks_stand_behind_prunable_convolutions_in_the_order_of_registration() -> None:
    torch.manual_seed(3)
    model = Net()
    state = torch.get_rng_state()
    masked(model)
    assert [name for name, _ in masked_convs(model)] == ["first", "inner.0", "up"]
    torch.set_rng_state(state)
    for _, module in masked_convs(model):
        assert torch.equal(module[1].weight, torch.empty(module[1].channels).normal_(0, 1))
    keys = [key for key in model.state_dict() if key.startswith(("first", "inner.0"))]
    assert keys == [
        "first.0.weight",
        "first.0.bias",
        "first.1.weight",
        "first.1.mask",
        "inner.0.0.weight",
        "inner.0.1.weight",
        "inner.0.1.mask",
    ]


def test_a_masked_convolution_shows_its_mask_and_its_convolutions_operations() -> None:
    model = masked(Net())
    model.first[0].__flops__ = 7
    assert model.first.__flops__ == 7
    assert model.first.mask is model.first[1].mask


def test_a_second_injection_changes_nothing() -> None:
    model = masked(Net())
    before = list(model.state_dict())
    masked(model)
    assert list(model.state_dict()) == before


def test_a_shared_convolution_gets_one_mask_at_all_its_places() -> None:
    model = nn.Module()
    model.one = model.two = nn.Conv2d(3, 4, 1)
    model.inner = nn.Sequential(model.one)
    masked(model)
    assert isinstance(model.one, MaskingSequential)
    assert model.one is model.two is model.inner[0]


def test_a_bare_convolution_cannot_be_masked_in_place() -> None:
    with pytest.raises(ValueError, match="put it into a module"):
        masked(nn.Conv2d(3, 4, 1))


def test_names_are_whole_paths() -> None:
    names: list[str] = []
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU()))

    def note(name: str, module: nn.Module) -> nn.Module:
        names.append(name)
        return module

    replace(model, lambda module: isinstance(module, nn.ReLU), note)
    assert names == ["0.0", "0.1", "1.0"]


def test_a_network_that_nobody_made_for_pruning_trains_and_hardens() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5)
    pruner = SoftTopKPruner(starting_epoch=0, ending_epoch=3, final_sparsity=0.5)
    pruner.configure_model(model)
    assert len(list(masked_convs(model))) == 20
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    losses = []
    for epoch in range(4):
        if epoch == pruner.ending_epoch:
            soft_to_hard_k(model)
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        pruner.update_mask_layers(model, epoch)
    assert losses[-1] < losses[0]
    assert phase(model) == "hard"
    kept = {name: int(module.mask.sum()) for name, module in masked_convs(model)}
    assert all(count == model.get_submodule(name)[0].out_channels // 2 for name, count in kept.items())


def hardened(model: nn.Module, x: Tensor) -> nn.Module:
    masked(model)
    model.train()(x)
    soft_to_hard_k(model)
    return model.eval()


def test_hard_masks_replace_soft_ones_in_their_place_and_mode() -> None:
    model = masked(Net()).train()
    model.first.eval()
    soft_to_hard_k(model)
    assert all(type(module[1]) is ChannelMaskLayer for _, module in masked_convs(model))
    assert not model.first[1].training
    assert model.up[1].training
    assert set(model.first.mask.tolist()) == {0.0, 1.0}
    alone = nn.Sequential(SigmoidSoftTopK(8, 4))  # without a convolution
    soft_to_hard_k(alone)
    assert type(alone[0]) is ChannelMaskLayer


def test_the_published_way_to_harden_keeps_all_channels_of_an_untrained_network_and_warns_once() -> None:
    model = masked(Net())
    with pytest.warns(UserWarning, match=r"3 hard masks .* first.1: 8, not 4") as caught:
        soft_to_hard_k(model, stored_mask=True)
    assert len(caught) == 1
    assert all(module.mask.all() for _, module in masked_convs(model))


def test_without_soft_masks_nothing_happens() -> None:
    model = Net()
    before = list(model.state_dict())
    soft_to_hard_k(model)
    hard_to_conv(model)
    soft_to_channel_sparse(model)
    assert list(model.state_dict()) == before


def test_masks_multiplied_into_weights_give_the_same_outputs() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = hardened(Net(), x)
    expected = model(x)
    parameters = dict(model.named_parameters())
    hard_to_conv(model)
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == list(Net().state_dict())
    assert model.first.weight is parameters["first.0.weight"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_soft_masks_too_can_be_multiplied_in() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = masked(Net())
    model.train()(x)
    expected = model.eval()(x)
    hard_to_conv(model)
    torch.testing.assert_close(model(x), expected)


def test_refilling_gives_pruned_filters_new_weights_that_train() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = hardened(Net(), x)
    mask, before = model.first.mask.bool(), model.first[0].weight.detach().clone()
    torch.manual_seed(1)
    fresh = nn.init.xavier_normal_(torch.empty_like(before))
    torch.manual_seed(1)
    hard_to_conv(model, reinitialize=True)
    assert torch.equal(model.first.weight[mask], before[mask])
    torch.testing.assert_close(model.first.weight[~mask], fresh[~mask])
    assert model.first.bias[~mask].eq(0).all()
    model(x).square().sum().backward()
    assert model.first.weight.grad[~mask].ne(0).any()


def test_the_published_refill_freezes() -> None:
    model = hardened(Net(), torch.randn(2, 3, 6, 6))
    hard_to_conv(model, reinitialize=True, freeze=True)
    assert not model.first.weight.requires_grad
    assert not model.up.bias.requires_grad
    assert model.head.weight.requires_grad


def test_channel_sparse_convolutions_give_the_same_outputs() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 1, bias=False), nn.ConvTranspose2d(12, 8, 2)
    )
    soft = masked(model)
    soft.train()(x)
    hard = copy.deepcopy(soft)
    soft_to_hard_k(hard)
    expected = hard.eval()(x)
    soft_to_channel_sparse(soft)
    torch.testing.assert_close(soft.eval()(x), expected)
    soft_to_channel_sparse(hard)
    torch.testing.assert_close(hard(x), expected)
    assert phase(hard) == "sparse"
    assert list(hard.state_dict()) == [
        "0.conv.weight",
        "0.conv.bias",
        "2.conv.weight",
        "3.conv.weight",
        "3.conv.bias",
    ]


def test_sparse_convolutions_of_an_untrained_network_warn_in_the_published_way() -> None:
    model = masked(nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.warns(UserWarning, match="first, 0: 8, not 4"):
        soft_to_channel_sparse(model, stored_mask=True)
    assert model[0].conv.out_channels == 8
