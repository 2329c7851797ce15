"""Full-width networks at every published ratio: the compact one computes what the masked one does."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from acosp import SoftTopKPruner
from acosp.inject import hard_to_conv, soft_to_hard_k
from acosp_seg.config import ModelConfig
from acosp_seg.model import Network, build
from prunelab.surgery import Program, compact
from testing.parity import Folder, of_kind

from .recorded_networks import assert_eval, inputs, network

CLASSES = {"segnet": 11, "psp": 19, "resnet18": 10}
SIZES = {"segnet": [(1, 3, 45, 61), (2, 3, 32, 35)], "psp": [(1, 3, 41, 57), (2, 3, 33, 25)]}
RATIOS = (2, 4, 8, 16)
PARAMETERS = {  # in millions, by network and ratio
    "segnet": {2: 7.66, 4: 1.95, 8: 0.50, 16: 0.131},
    "psp": {2: 18.8, 4: 7.09, 8: 2.32, 16: 0.687},
}
DEFAULT = {("segnet", 4), ("segnet", 16), ("psp", 16), ("resnet18", 2), ("resnet18", 16)}
GRID = [
    pytest.param(arch, ratio, marks=() if (arch, ratio) in DEFAULT else pytest.mark.slow)
    for arch, ratio in itertools.product(CLASSES, RATIOS)
]


def masked(arch: str, ratio: int, seed: int = 0, **options: int) -> Network:
    """A network with random hard masks, and statistics and shifts of batch norm as after a training."""
    torch.manual_seed(seed)
    layers = 50 if arch == "psp" else None
    model = build(ModelConfig(arch=arch, layers=layers, classes=CLASSES[arch], **options))
    SoftTopKPruner(1 - 1 / ratio, ending_epoch=1).configure_model(model)
    soft_to_hard_k(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def off(found: Tensor, expected: Tensor) -> Tensor:
    """Differences relative to the largest value."""
    return (found - expected).abs() / expected.abs().max()


@pytest.mark.parametrize(("arch", "ratio"), GRID)
def test_a_compact_network_equals_the_masked_one(arch: str, ratio: int) -> None:
    model = masked(arch, ratio).double()
    sizes = SIZES.get(arch, [(2, 3, 32, 32), (1, 3, 27, 38)])
    small = compact(model, torch.zeros(sizes[0]).double())

    with torch.no_grad():
        for size in sizes:
            x = torch.randn(size).double()
            assert off(small(x), model(x)).max() <= 1e-10
        single = small.float()
        x = torch.randn(sizes[0])
        found, expected = single(x), model.float()(x)
    wrong = off(found, expected) > 1e-4
    assert wrong.double().mean() <= 1e-5  # a maximum of two nearly equal values may move by a pixel
    wanted = PARAMETERS.get(arch, {}).get(ratio)
    if wanted is not None:
        assert small.parameter_count / 1e6 == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("arch", CLASSES)
def test_a_compact_network_needs_nothing_of_the_one_it_came_from(arch: str) -> None:
    model = masked(arch, 2, width=16)
    small = compact(model, torch.zeros(1, 3, 33, 33))

    again = Program(small.structure)
    again.load_state_dict(small.state_dict(), strict=True)

    x = torch.randn(2, 3, 41, 49)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
        assert not any("mask" in name for name in small.state_dict())


@pytest.mark.parametrize("arch", CLASSES)
def test_masks_that_went_into_the_weights_give_the_same_compact_network(arch: str) -> None:
    model = masked(arch, 2, width=16)
    x = torch.zeros(1, 3, 33, 33)
    first = compact(model, x)
    hard_to_conv(model)

    second = compact(model, x)

    assert second.parameter_count == first.parameter_count
    x = torch.randn(2, 3, 33, 41)
    with torch.no_grad():
        assert off(second(x), first(x)).max() <= 1e-5


@pytest.mark.parity
@of_kind("segnet", "pspnet50")
def test_the_recorded_outputs_come_from_the_compact_network_too(folder: Folder) -> None:
    model = network(folder, "hard").eval()
    small = compact(model, inputs(folder)[0])
    assert small.parameter_count < 0.5 * sum(p.numel() for p in model.parameters())
    assert_eval(folder, "hard_eval", small)
