"""Fewer channels, the same results: torchvision's networks against their masked twins and torch-pruning."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torchvision
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.surgery import Channels, resize, shrink, trace

SIZE = 64


def network(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    if name == "vgg16_bn":  # with a head of another size: its own has 90 % of the weights
        trunk = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
        model = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, 10)).eval()
    else:
        model = getattr(torchvision.models, name)(num_classes=10, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of a trained network are not 0 and 1
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def convolution_weights(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))


def some(size: int, share: float, generator: torch.Generator) -> list[int]:
    order = torch.randperm(size, generator=generator)[: max(1, round(size * share))]
    return sorted(order.tolist())


def masked_by_inputs(model: nn.Module, keep: dict[str, dict[str, list[int]]]) -> nn.Module:
    """The network in which what a layer does not read has zero weights."""
    model = copy.deepcopy(model)
    for path, kept in keep.items():
        weight = model.get_submodule(path).weight.data
        gone = [c for c in range(weight.shape[1]) if c not in kept["in"]]
        weight[:, gone] = 0
    return model


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    assert (one - other).abs().max() <= tolerance * other.abs().max()


NETWORKS = [
    ("resnet18", {}),
    ("resnet50", {}),
    ("vgg16_bn", {}),
    ("mobilenet_v2", {}),
    ("densenet121", {}),
    ("googlenet", {"aux_logits": False, "init_weights": False}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_layers_that_read_less_give_a_smaller_network_with_the_same_results(
    name: str, options: dict[str, object]
) -> None:
    model = network(name, **options)
    generator = torch.Generator().manual_seed(1)
    keep = {
        path: {"in": some(m.in_channels, 0.5, generator)}
        for path, m in layers(model).items()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels > 3
    }
    x = torch.randn(2, 3, SIZE, SIZE, generator=generator)

    small = shrink(model, x, keep)

    with torch.no_grad():
        expected = masked_by_inputs(model, keep)(x)
        close(small.model(x), expected)
    assert convolution_weights(small.model) < 0.8 * convolution_weights(model)


def test_a_smaller_network_is_rebuilt_from_its_structure_as_json_and_its_weights() -> None:
    model = network("resnet18")
    generator = torch.Generator().manual_seed(1)
    keep = {"layer1.0.conv2": {"in": [3, 5, 60]}, "layer2.0.conv1": {"in": some(64, 0.5, generator)}}
    x = torch.randn(1, 3, SIZE, SIZE)
    small = shrink(model, x, keep)

    text = json.dumps(small.structure)
    fresh = resize(torchvision.models.resnet18(num_classes=10).eval(), json.loads(text))
    fresh.load_state_dict(small.model.state_dict(), strict=True)

    with torch.no_grad():
        assert torch.equal(fresh(x), small.model(x))


def test_only_consumers_that_disagree_pick_their_channels() -> None:
    model = network("resnet18")
    keep = {"layer1.0.conv2": {"in": [0, 1]}, "layer1.1.conv1": {"in": [5, 6]}}

    small = shrink(model, torch.randn(1, 3, SIZE, SIZE), keep)

    # conv2 alone reads conv1; layer1.1.conv1 shares its input with the shortcut, which needs all of it
    assert small.structure["layer1.0.conv1"] == {"out": [0, 1]}
    assert small.structure["layer1.0.conv2"] == {"in": [0, 1]}
    assert small.structure["layer1.1.conv1"] == {"in": [5, 6], "select": [5, 6]}
    assert set(small.structure) == {
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.conv2",
        "layer1.1.conv1",
    }


def test_numbers_of_channels_are_rounded_up_and_the_result_stays() -> None:
    model = network("mobilenet_v2")
    keep = {"features.2.conv.2": {"in": [1, 2, 9]}}
    x = torch.randn(1, 3, SIZE, SIZE)

    small = shrink(model, x, keep, round_to=8)

    assert small.model.get_submodule("features.2.conv.0.0").out_channels == 8
    with torch.no_grad():
        close(small.model(x), masked_by_inputs(model, keep)(x))


def test_a_linear_head_reads_all_features_of_a_kept_channel() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 9, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    small = shrink(model, x, {"0": {"out": [1, 4]}, "4": {"out": [0, 3]}})

    twin = copy.deepcopy(model)
    twin[4].weight.data.view(5, 6, 9)[:, [0, 2, 3, 5]] = 0
    twin[6].weight.data[:, [1, 2, 4]] = 0
    assert small.model[4].weight.shape == (2, 18)
    with torch.no_grad():
        close(small.model(x), twin(x))


def test_groups_of_a_convolution_shrink_alike_and_depthwise_ones_follow() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.grouped = nn.Conv2d(8, 12, 3, groups=2)
            self.depth = nn.Conv2d(12, 24, 3, groups=12)
            self.last = nn.ConvTranspose2d(24, 4, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.depth(self.grouped(self.first(x)).relu()))

    model = Net().eval()
    x = torch.randn(2, 3, 9, 9)
    keep = {"grouped": {"in": [1, 2, 5, 6], "out": [0, 2, 6, 8]}}
    small = shrink(model, x, keep)

    twin = copy.deepcopy(model)
    twin.grouped.weight.data[:, [0, 3]] = 0
    gone = [c for c in range(12) if c not in keep["grouped"]["out"]]
    twin.last.weight.data.view(12, 2, 4, 2, 2)[gone] = 0
    assert small.model.get_submodule("grouped").weight.shape == (4, 2, 3, 3)
    assert small.model.get_submodule("depth").weight.shape == (8, 1, 3, 3)
    with torch.no_grad():
        close(small.model(x), twin(x))
    with pytest.raises(UserError, match="same places in each"):
        shrink(model, x, {"grouped": {"in": [0, 1, 2]}})
    with pytest.raises(UserError, match="expected an out list"):
        shrink(model, x, {"depth": {"in": [0]}})


class Disagreeing(nn.Module):
    """Three readers of one tensor, and something that nobody can look into."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(8, 4)
        self.second = nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.first(x).relu()
        y = torch.sort(self.second(x), dim=1)[0]
        return self.wide(x), self.head(x.mean((2, 3))), self.third(y)


def test_readers_pick_their_channels_and_what_is_not_understood_keeps_all() -> None:
    torch.manual_seed(0)
    model = Disagreeing().eval()
    x = torch.randn(2, 3, 5, 5)
    reads = {"wide": [0, 1], "head": [1, 2], "second": [2, 5], "third": [3]}
    small = shrink(model, x, {path: {"in": channels} for path, channels in reads.items()})

    twin = copy.deepcopy(model)
    for path, channels in reads.items():
        weight = twin.get_submodule(path).weight.data
        axis = 0 if path == "wide" else 1
        weight.index_fill_(axis, torch.tensor([c for c in range(8) if c not in channels]), 0)
    with torch.no_grad():
        for one, other in zip(small.model(x), twin(x), strict=True):
            close(one, other)
    assert small.structure["first"] == {"out": [0, 1, 2, 5]}
    assert small.structure["head"] == {"in": [1, 2], "select": [1, 2]}
    assert "second" in small.structure
    assert "out" not in small.structure["second"]
    again = resize(Disagreeing(), small.structure)
    again.load_state_dict(small.model.state_dict(), strict=True)
    for structure, message in [
        ({"nobody": {"out": [0]}}, "'nobody'"),
        ({"first": {"out": [9]}}, "channel 9"),
    ]:
        with pytest.raises(UserError, match=message):
            resize(Disagreeing(), structure)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("resnet18", "layer2.0.conv2"),
        ("resnet50", "layer1.1.conv2"),
        ("vgg16_bn", "0.40"),
        ("mobilenet_v2", "features.4.conv.2"),
        ("densenet121", "features.denseblock2.denselayer3.conv2"),
    ],
)
def test_removing_a_group_gives_the_shapes_of_torch_pruning(name: str, root: str) -> None:
    import torch_pruning

    model = network(name)
    x = torch.randn(1, 3, SIZE, SIZE)
    module = model.get_submodule(root)
    gone = [0, 3, 4, module.out_channels - 1]
    small = shrink(model, x, {root: {"out": [c for c in range(module.out_channels) if c not in gone]}})

    theirs = copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=x)
    group = graph.get_pruning_group(
        theirs.get_submodule(root), torch_pruning.prune_conv_out_channels, idxs=gone
    )
    group.prune()

    ours, expected = small.model.state_dict(), theirs.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    assert all(torch.equal(v, expected[k]) for k, v in ours.items())


def test_coupled_layers_are_found_as_groups() -> None:
    graph = trace(network("resnet18"), torch.randn(1, 3, SIZE, SIZE))

    groups = Channels(graph).groups()

    assert ["conv1", "layer1.0.conv2", "layer1.1.conv2"] in groups
    assert ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"] in groups
    assert ["layer2.0.conv1"] in groups


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv7": {"in": [0]}}, "'conv7'"),
        ({"conv1": {"out": [64]}}, "channel 64"),
        ({"conv1": {"out": []}}, "nothing"),
        ({"fc": {"out": [0]}}, "a result of the network"),
    ],
)
def test_a_wrong_keep_list_is_told_in_one_line(keep: dict[str, dict[str, list[int]]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shrink(network("resnet18"), torch.randn(1, 3, 32, 32), keep)


def test_a_network_that_asks_for_values_is_refused_in_one_line() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Asks cannot be traced"):
        trace(Asks(), torch.randn(1, 3, 4, 4))
