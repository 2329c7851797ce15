"""Convolutions that compute only the channels that stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from acosp.sparse_conv import ChannelSparseConv

CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "with bias": ({"out_channels": 6}, [0, 3, 4]),
    "without bias": ({"out_channels": 6, "bias": False}, [5]),
    "groups that keep equally many": ({"out_channels": 6, "groups": 2}, [0, 2, 3, 5]),
    "groups that keep differently many": ({"out_channels": 12, "groups": 4}, [0, 1, 3, 4, 5, 6, 11]),
    "groups that keep nothing": ({"out_channels": 12, "groups": 4, "bias": False}, [3, 9]),
    "one input a group": ({"out_channels": 8, "groups": 4}, [1, 2, 3, 7]),
    "reflected": ({"out_channels": 6, "padding_mode": "reflect"}, [1, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_masked_convolution(name: str) -> None:
    geometry, kept = CASES[name]
    if "groups" in geometry:
        geometry = geometry | {"stride": 2}
    conv = nn.Conv2d(4, kernel_size=3, padding=1, **geometry).double()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    mask = torch.zeros(conv.out_channels, dtype=torch.float64)
    mask[kept] = 1
    expected = conv(x) * mask.view(-1, 1, 1)
    expected.square().sum().backward()
    grad = conv.weight.grad
    sparse = ChannelSparseConv.from_mask(copy.deepcopy(conv), mask)
    found = sparse(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    torch.testing.assert_close(sparse.conv.weight.grad, grad[kept])
    assert sparse.conv.weight.shape[0] == sparse.conv.out_channels == len(kept)
    assert "indices" not in sparse.state_dict()


def test_transposed_convolutions_keep_columns() -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2)
    x = torch.randn(1, 4, 3, 3)
    expected = conv(x) * torch.tensor([0.0, 1, 0, 0, 1, 0]).view(-1, 1, 1)
    sparse = ChannelSparseConv(torch.tensor([1, 4]), conv)
    torch.testing.assert_close(sparse(x), expected)
    assert sparse.conv.weight.shape == (4, 2, 3, 3)
    torch.testing.assert_close(sparse(x[0]), expected[0])


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [-1], [6], [[1]]])
def test_indices_that_do_not_fit_are_refused(indices: list[Any]) -> None:
    with pytest.raises(ValueError, match="indices"):
        ChannelSparseConv(torch.tensor(indices), nn.Conv2d(4, 6, 1))


def test_a_transposed_convolution_with_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        ChannelSparseConv(torch.tensor([1]), nn.ConvTranspose2d(4, 6, 1, groups=2))
