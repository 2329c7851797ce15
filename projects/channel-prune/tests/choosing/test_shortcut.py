"""Ends of residual branches, in networks written in different ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from channel_prune.choosing.frontier import Route
from channel_prune.choosing.prunable import prunable
from channel_prune.choosing.shortcut import branches, factor
from channel_prune.config import NetConfig
from channel_prune.model import build
from prunelab.surgery import trace

EXAMPLE = torch.zeros(1, 3, 32, 32)


class Block(nn.Module):
    """A branch beside a shortcut that is computed after it."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.begin(x))
        return F.relu(self.norm(self.conv(x)) + F.pad(x[:, 1:], (0, 0, 0, 0, 1, 0)))


def test_the_last_convolution_of_a_branch_is_found_with_its_norm() -> None:
    found = branches(trace(Block(), EXAMPLE))
    assert list(found) == ["conv"]
    assert found["conv"].norm == "norm"


def test_a_shortcut_without_layers_is_computed_before_the_branch_ends() -> None:
    route = Route(Block(), EXAMPLE, ["begin", "conv"])
    assert list(route.branches) == ["conv"]
    order = [call.name for call in route.calls]
    assert order.index(route.others["conv"].name) < route.stops["conv"]


def test_of_two_branches_the_one_that_runs_later_makes_up_for_the_other() -> None:
    model = resnet18().eval()
    names = [layer.name for layer in prunable(model, EXAMPLE)]
    route = Route(model, EXAMPLE, names)
    expected = {f"layer{i}.{j}.conv2" for i in (1, 2, 3, 4) for j in (0, 1)}
    expected -= {f"layer{i}.0.conv2" for i in (2, 3, 4)}  # their shortcuts' layers run after them
    assert set(route.branches) == expected | {f"layer{i}.0.downsample.0" for i in (2, 3, 4)}
    assert route.normed == set(names)


@pytest.mark.parametrize("name", ["resnet_v1", "resnet_v2"])
def test_both_residual_networks_end_their_branches_so(name: str) -> None:
    model = build(NetConfig(name=name, resnet_size=8, width_divisor=4))
    names = [layer.name for layer in prunable(model, EXAMPLE)]
    route = Route(model, EXAMPLE, names)
    assert len(route.branches) == 3
    assert all((end.norm is None) == (name == "resnet_v2") for end in route.branches.values())


def test_a_difference_behind_a_norm_is_scaled_to_before_it() -> None:
    model = Block().eval()
    end = branches(trace(model, EXAMPLE))["conv"]
    nn.init.constant_(model.norm.weight, 2.0)
    model.norm.running_var.fill_(9.0)
    with torch.no_grad():
        model.norm.weight[3] = 0.0
    expected = torch.tensor([1.5, 1.5, 1.5, 0.0])
    torch.testing.assert_close(factor(model, end), expected, rtol=1e-5, atol=0)
