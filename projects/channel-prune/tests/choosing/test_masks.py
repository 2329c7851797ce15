"""Masks: found in zeros, put on gradients, counted."""

from __future__ import annotations

import torch
from torch import nn

from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[2].weight[:, [1, 3]] = 0
    return model


def test_masks_are_found_in_zeros() -> None:
    model = net()
    masks = Masks.from_zeros(prunable(model, torch.zeros(1, 3, 5, 5)), model)
    assert masks.kept == {"0": [0, 1, 2], "2": [0, 2]}
    assert masks.state["2"].shape == (1, 4, 1, 1)


def test_pruned_weights_stay_zero_through_momentum_and_decay() -> None:
    model = net()
    masks = Masks.from_zeros(prunable(model, torch.zeros(1, 3, 5, 5)), model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 5, 5)).square().mean().backward()
        masks.mask_gradients()
        optimizer.step()
    assert torch.count_nonzero(model[2].weight[:, [1, 3]]) == 0
    assert torch.count_nonzero(model[2].weight[:, [0, 2]]) == 4


def test_shares_count_zeros_of_kernels_and_of_all_that_is_trained() -> None:
    model = net()
    layers = prunable(model, torch.zeros(1, 3, 5, 5))
    shares = Masks.from_zeros(layers, model).shares()
    zeros = 4 + 4  # kernels, and the batch norm's bias
    trained = sum(p.numel() for p in model.parameters())
    assert abs(float(shares["pr_krn"]) - 4 / 116) < 1e-6
    assert abs(float(shares["pr_trn"]) - zeros / trained) < 1e-6
    alone = Masks.from_zeros(layers).shares()
    assert float(alone["pr_trn"]) == float(alone["pr_krn"])
