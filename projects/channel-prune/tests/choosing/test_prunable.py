"""Which layers are pruned, in which order, and how much of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from channel_prune.choosing.prunable import prunable, ratios
from channel_prune.config import NetConfig, PruneConfig
from channel_prune.model import build
from prunelab.errors import UserError

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Backwards(nn.Module):
    """Runs its layers in another order than it lists them."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.last = nn.Conv2d(6, 4, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.first = nn.Conv2d(3, 6, 3)
        self.middle = nn.Conv2d(6, 6, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.depthwise(self.first(x))))


def test_layers_come_in_the_order_in_which_they_run_without_depthwise_ones() -> None:
    model = Backwards()
    assert [layer.name for layer in prunable(model, EXAMPLE)] == ["first", "middle", "last"]
    assert [layer.name for layer in prunable(model, EXAMPLE, ["last", "first"])] == ["last", "first"]
    assert model.training


def test_the_networks_own_order_and_the_originals_names_count() -> None:
    model = build(NetConfig(name="resnet_v2", resnet_size=8, width_divisor=4))
    layers = prunable(model, torch.zeros(1, 3, 32, 32))
    assert layers[0].original == "resnet_model/conv2d/kernel"
    assert [layer.original for layer in layers[1:3]] == [f"resnet_model/conv2d_{i}/kernel" for i in (1, 2)]


@pytest.mark.parametrize(
    ("make", "order", "message"),
    [
        (lambda: Backwards(groups=2), None, "middle: a convolution of 2 groups and 6 channels; expected one"),
        (
            Backwards,
            ["lats"],
            "'lats' is no convolution of Backwards; it runs first, depthwise, middle, last",
        ),
        (lambda: nn.Sequential(nn.ReLU()), None, "Sequential has no convolution that can be pruned"),
    ],
)
def test_what_cannot_be_pruned_is_named(make, order, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prunable(make(), EXAMPLE, order)


def test_a_layer_that_runs_twice_is_refused() -> None:
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match="0 runs 2 times in one pass"):
        prunable(nn.Sequential(conv, conv), EXAMPLE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0, 0.5, 0.5]),
        ({"skip_frst_layer": False}, [0.5, 0.5, 0.5]),
        ({"skip_last_layer": True}, [0.0, 0.5, 0.0]),
        ({"skip_op_names": "middle"}, [0.0, 0.0, 0.5]),
        ({"skip_op_names": "midd,st", "skip_match": "substring"}, [0.0, 0.0, 0.0]),
        ({"skip_op_names": "", "skip_match": "substring"}, [0.0, 0.0, 0.0]),
        ({"ratio_list": (0.1, 0.2, 0.3), "skip_op_names": "nothing"}, [0.1, 0.2, 0.3]),
    ],
)
def test_ratios_follow_the_flags(options: dict, expected: list[float]) -> None:
    layers = prunable(Backwards(), EXAMPLE)
    assert ratios(layers, PruneConfig(**options)) == expected


def test_a_name_is_a_part_or_any_piece_of_the_originals_name() -> None:
    layers = prunable(
        build(NetConfig(name="resnet_v2", resnet_size=20, width_divisor=4)), torch.zeros(1, 3, 32, 32)
    )
    names = [str(layer.original) for layer in layers]
    pieces = ratios(layers, PruneConfig(skip_op_names="conv2d_1", skip_match="substring"))
    parts = ratios(layers, PruneConfig(skip_op_names="conv2d_1", skip_match="parts"))
    assert [r == 0 for r in pieces[1:]] == ["conv2d_1" in name for name in names[1:]]
    assert [r == 0 for r in parts[1:]] == ["/conv2d_1/" in name for name in names[1:]]
    everything = ratios(layers, PruneConfig(skip_op_names="pruned_model", skip_match="substring"))
    assert set(everything) == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"skip_op_names": "midle"},
            "skip_op_names: 'midle' is in the name of no layer; they are first, mid",
        ),
        ({"ratio_list": (0.5,)}, "ratio_list has 1 ratios, expected 3, one for each of first, middle, last"),
    ],
)
def test_flags_that_fit_no_layer_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ratios(prunable(Backwards(), EXAMPLE), PruneConfig(**options))
