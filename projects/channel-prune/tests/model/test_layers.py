"""SAME padding, against sums that are written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from channel_prune.model.layers import SameConv, SameMaxPool, SamePad, same_padding
from prunelab.surgery import trace


def padded(x: Tensor, kernel: int, stride: int, dilation: int, value: float) -> Tensor:
    """The input as TensorFlow's documentation describes it, by copying it into a larger one."""
    reach = (kernel - 1) * dilation + 1
    sides = []
    for size in x.shape[2:]:
        rest = size % stride
        total = max(reach - (stride if rest == 0 else rest), 0)
        sides.append((total // 2, total))
    (top, rows), (left, columns) = sides
    out = x.new_full((*x.shape[:2], x.shape[2] + rows, x.shape[3] + columns), value)
    out[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return out


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (19, 10), (5, 4), (1, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (1, 2, 1), (3, 1, 6), (2, 1, 1)]
)
def test_convolution_equals_one_over_the_input_that_was_padded_by_hand(
    size: tuple[int, int], kernel: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    layer = SameConv(2, 3, kernel, stride=stride, dilation=dilation, bias=True).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    whole = padded(x, kernel, stride, dilation, 0.0)
    expected = torch.nn.functional.conv2d(
        whole, layer.conv.weight, layer.conv.bias, stride=stride, dilation=dilation
    )
    got = layer(x)
    assert got.shape[2:] == tuple(-(-n // stride) for n in size)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (75, 38), (2, 3)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3)])
def test_maximum_of_negative_numbers_is_not_the_padding(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    x = -torch.rand(1, 2, *size) - 1
    expected = torch.nn.functional.max_pool2d(padded(x, kernel, stride, 1, -math.inf), kernel, stride)
    assert torch.equal(SameMaxPool(kernel, stride)(x), expected)


def test_numbers_of_rows_are_those_of_the_known_networks() -> None:
    assert same_padding(112, 3, 2) == (0, 1)
    assert same_padding(35, 3, 2) == (1, 1)
    assert same_padding(19, 3, 2) == (1, 1)
    assert same_padding(75, 2, 2) == (0, 1)
    assert same_padding(19, 3, 1, 6) == (6, 6)


def test_depthwise_convolution_has_a_kernel_a_channel() -> None:
    layer = SameConv(4, 4, 3, stride=2, groups=4)
    assert layer.conv.weight.shape == (4, 1, 3, 3)
    assert layer(torch.zeros(1, 4, 6, 7)).shape == (1, 4, 3, 4)


def test_sizes_follow_the_input_after_tracing() -> None:
    net = torch.nn.Sequential(SameConv(2, 3, 3, stride=2), SameMaxPool(3, 2))
    traced = torch.fx.symbolic_trace(net)
    for size in (16, 17, 18, 19):
        x = torch.randn(1, 2, size, size)
        assert torch.equal(traced(x), net(x))
    assert {node.kind for node in trace(net, torch.zeros(1, 2, 16, 16)).nodes.values()} >= {
        "conv",
        "max_pool",
    }


def test_kernel_smaller_than_its_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel 2 with dilation 1 is smaller than stride 3"):
        SamePad(2, 3)
