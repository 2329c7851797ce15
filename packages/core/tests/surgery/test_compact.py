"""A masked network and the smaller one made from it agree, at borders, at odd sizes, after unpooling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.export import to_onnx
from prunelab.surgery import Program, compact

from .nets import Attending, Mask, Mixed, Residual, Unpooling, trained

NETS: list[Callable[[], nn.Module]] = [Residual, Mixed, Attending, Unpooling]
SIZES = [(2, 3, 16, 20), (1, 3, 13, 19), (3, 3, 7, 9), (1, 3, 40, 8)]


def made(net: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return trained(net())


def difference(one: object, other: object) -> float:
    """Largest difference, relative to the largest value."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_compact_network_computes_what_the_masked_one_does(net: Callable[[], nn.Module], seed: int) -> None:
    model = made(net, seed).double()
    small = compact(model, torch.randn(SIZES[0]).double())

    with torch.no_grad():
        for size in SIZES:
            x = torch.randn(size).double()
            assert difference(small(x), model(x)) <= 1e-12
        single, small = model.float(), small.float()
        x = torch.randn(SIZES[1])
        assert difference(small(x), single(x)) <= 1e-5
    assert small.parameter_count < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("net", NETS)
def test_it_is_built_again_from_plain_data_and_weights(net: Callable[[], nn.Module]) -> None:
    small = compact(made(net, 0), torch.randn(SIZES[0]))
    text, state = json.dumps(small.structure), small.state_dict()

    again = Program(json.loads(text))
    again.load_state_dict(state, strict=True)

    x = torch.randn(SIZES[2])
    with torch.no_grad():
        assert all(map(torch.equal, tree_leaves(again(x)), tree_leaves(small(x))))
    assert all(len(value) < 20_000 for value in (text, small.describe()))


@pytest.mark.parametrize("net", NETS)
def test_gradients_flow_through_it_as_through_the_masked_network(net: Callable[[], nn.Module]) -> None:
    model = made(net, 1).double()
    small = compact(model, torch.randn(SIZES[0]).double())
    x = torch.randn(SIZES[1]).double()
    found = []
    for network in (model, small):
        source = x.clone().requires_grad_()
        sum(leaf.square().sum() for leaf in tree_leaves(network(source))).backward()
        assert source.grad is not None
        found.append(source.grad)
    assert difference(found[1], found[0]) <= 1e-10


def test_borders_follow_the_size_the_dtype_and_changed_weights() -> None:
    small = compact(made(Residual, 0), torch.randn(SIZES[0]))
    with torch.no_grad():
        x = torch.randn(2, 3, 15, 15)
        before = small(x)
        for name, weight in small.named_parameters():
            weight.mul_(2 if name.endswith("border") else 1)
        after = small(x)
        with torch.enable_grad():
            expected = small(x)  # with gradients nothing is remembered
    assert difference(after, expected) <= 1e-6
    assert difference(before, after) > 1e-3
    assert small.double()(x.double()).dtype == torch.float64


def test_a_network_without_masks_has_its_batch_norms_folded() -> None:
    torch.manual_seed(0)
    model = trained(torchvision.models.densenet121(num_classes=7)).double()
    x = torch.randn(1, 3, 64, 64).double()

    small = compact(model, x)

    with torch.no_grad():
        assert difference(small(x), model(x)) <= 1e-12


def test_filters_of_zeros_are_left_out_like_masked_ones() -> None:
    torch.manual_seed(0)
    model = trained(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    )
    with torch.no_grad():
        model[0].weight[[1, 5]] = 0
        x = torch.randn(2, 3, 9, 9)
        small = compact(model, x)
        assert small.get_parameter("steps._1.weight").shape == (6, 3, 3, 3)
        assert difference(small(x), model(x)) <= 1e-5


def test_a_layer_of_which_nothing_is_kept_leaves_its_constants() -> None:
    torch.manual_seed(0)
    model = trained(
        nn.Sequential(nn.Conv2d(3, 8, 3), Mask(8, 0), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1))
    )
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert difference(compact(model, x)(x), model(x)) <= 1e-5


@pytest.mark.parametrize("net", [Mixed, Unpooling])
def test_torch_compiles_and_exports_it(net: Callable[[], nn.Module]) -> None:
    small = compact(made(net, 0), torch.randn(SIZES[0]))
    x = torch.randn(SIZES[0])
    with torch.no_grad():
        expected = small(x)
        assert difference(torch.compile(small, backend="eager")(x), expected) <= 1e-5
        exported = torch.export.export(small, (x,))
        assert difference(exported.module()(x), expected) <= 1e-5


def test_onnx_takes_any_size(tmp_path: Path) -> None:
    small = compact(made(Unpooling, 0), torch.randn(SIZES[0]))
    names = [f"result{i}" for i in range(len(small.structure["outputs"]))]

    report = to_onnx(
        small,
        (torch.randn(2, 3, 16, 20),),
        tmp_path / "small.onnx",
        input_names=["image"],
        output_names=names,
        dynamic={"image": {0: "batch", 2: "height", 3: "width"}},
        sizes={"height": [13], "width": [27]},
    )

    assert report.difference <= 1e-5


class Sorts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(self.conv(x), dim=1)[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Sorts(), r"sort \(sort.*\) cannot be handled"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode is 'reflect'"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "no running stat"),
    ],
)
def test_what_cannot_be_followed_is_named_in_one_line(model: nn.Module, message: str) -> None:
    model = nn.Sequential(model).eval()
    with pytest.raises(UserError, match=message):
        compact(model, torch.randn(1, 3, 8, 8))


def test_a_broken_structure_is_refused() -> None:
    small = compact(made(Residual, 0), torch.randn(SIZES[0]))
    for change, message in [
        ({"op": "sort"}, "operation 'sort'"),
        ({"inputs": ["nowhere"]}, "reads 'nowhere'"),
    ]:
        structure = json.loads(json.dumps(small.structure))
        structure["steps"][1].update(change)
        with pytest.raises(UserError, match=message):
            Program(structure)


def test_a_result_computed_in_place_does_not_change_what_others_read() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.conv(x)
            z = F.relu(y)
            return z, y + z, y.flatten(1)

    model = Shared().eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert difference(compact(model, x)(x), model(x)) <= 1e-6
