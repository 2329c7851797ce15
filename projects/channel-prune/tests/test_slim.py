"""Slim networks: equal to their masked twins, rebuilt from plain data, and trained alike."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.config import NetConfig
from channel_prune.model import build
from channel_prune.slim import Whole, masked, slim
from prunelab.errors import UserError

NETS = {
    "resnet_v2": NetConfig(width_divisor=4),
    "resnet_v2 of ImageNet": NetConfig(
        dataset_form="ilsvrc12", resnet_size=18, image_size=64, width_divisor=16
    ),
    "bottlenecks": NetConfig(dataset_form="ilsvrc12", resnet_size=50, image_size=64, width_divisor=16),
    "resnet_v1": NetConfig(name="resnet_v1", width_divisor=2),
    "mobilenet_v1": NetConfig(name="mobilenet_v1", image_size=64, mobilenet_depth_mult=0.25),
    "mobilenet_v2": NetConfig(name="mobilenet_v2", image_size=64, mobilenet_depth_mult=0.35),
    "ssd_vgg16": NetConfig(name="ssd_vgg16", nb_classes=4, image_size=160, width_divisor=16),
    "torchvision": NetConfig(name="torchvision:squeezenet1_1", image_size=64),
    "timm": NetConfig(name="timm:mobilenetv3_small_050", image_size=48),
}


def trained(cfg: NetConfig) -> nn.Module:
    """A network with statistics and shifts that are not those of a fresh one."""
    torch.manual_seed(0)
    model = build(cfg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def some_kept(model: nn.Module, example: Tensor, share: float = 0.5) -> dict[str, list[int]]:
    """Random channels for all convolutions but the first."""
    generator = torch.Generator().manual_seed(1)
    kept = {}
    for layer in prunable(model, example)[1:]:
        channels = layer.conv.in_channels
        order = torch.randperm(channels, generator=generator)[: max(1, int(channels * share))]
        kept[layer.name] = sorted(order.tolist())
    return kept


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = model(x)
    return list(found.values()) if isinstance(found, dict) else [found]


def far(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference, as a share of the largest number."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_a_slim_network_answers_as_the_masked_one_at_any_size(name: str) -> None:
    cfg = NETS[name]
    model = trained(cfg).double()
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size, dtype=torch.float64)
    kept = some_kept(model, example)

    small = slim(model, kept, example)

    assert small.difference is not None
    assert small.difference <= 1e-10
    x = torch.randn(2, 3, cfg.image_size + 13, cfg.image_size + 6, dtype=torch.float64)
    assert far(outputs(small.model, x), outputs(masked(model, kept), x)) <= 1e-10
    single = slim(model.float(), kept, example.float(), verify=False)
    assert single.difference is None
    x = x.float()
    assert far(outputs(single.model, x), outputs(masked(model, kept), x)) <= 1e-4
    parameters = [sum(p.numel() for p in net.parameters()) for net in (small.model, model)]
    assert parameters[0] < 0.7 * parameters[1]


@pytest.mark.parametrize("name", ["resnet_v2", "ssd_vgg16", "timm"])
def test_one_call_builds_a_slim_network_again(name: str) -> None:
    cfg = NETS[name]
    model = trained(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)
    small = slim(model, some_kept(model, example), example)

    again = build(cfg, json.loads(json.dumps(small.structure)))
    again.load_state_dict(small.model.state_dict(), strict=True)

    x = torch.randn(2, 3, cfg.image_size, cfg.image_size)
    for one, other in zip(outputs(again.eval(), x), outputs(small.model, x), strict=True):
        assert torch.equal(one, other)


def test_numbers_of_channels_are_rounded_up_and_answers_stay() -> None:
    cfg = NETS["mobilenet_v2"]
    model = trained(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)

    small = slim(model, some_kept(model, example), example, round_to=8)

    made = {path: kept["out"] for path, kept in small.structure.items() if "out" in kept}
    assert made
    assert all(len(channels) % 8 == 0 for channels in made.values())


def test_conv4_3_of_the_detector_keeps_all_its_channels_since_their_length_is_taken() -> None:
    cfg = NETS["ssd_vgg16"]
    model = trained(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)

    small = slim(model, some_kept(model, example, 0.2), example)

    made = {path: len(kept["out"]) for path, kept in small.structure.items() if "out" in kept}
    layers = {path: m for path, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    whole = {path for path in layers if path not in made}
    assert whole == {"conv4.conv4_3", *(path for path in layers if path.startswith("multibox_head"))}


def test_residual_sums_that_the_classifier_reads_stay_whole() -> None:
    cfg = NETS["resnet_v1"]
    model = trained(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)

    small = slim(model, some_kept(model, example, 0.2), example)

    ends = [path for path in small.structure if path.endswith("conv2")]
    assert ends
    assert all("out" not in small.structure[path] for path in ends)


def test_a_network_that_answers_otherwise_is_refused_in_one_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    model[0].register_forward_hook(lambda _layer, _inputs, y: y * y.shape[1])  # seen by no tracer

    with pytest.raises(UserError, match="Sequential: the slim network differs"):
        slim(model, {"1": [0, 1]}, torch.zeros(1, 3, 4, 4))


def test_a_grouped_convolution_is_refused_in_one_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2))

    with pytest.raises(UserError, match="keep-list of '1': its inputs are in 2 groups"):
        slim(model, {"1": [0, 1]}, torch.zeros(1, 3, 4, 4))


def test_training_a_slim_network_is_training_the_masked_one() -> None:
    cfg = NETS["resnet_v2"]
    model = trained(cfg).double()
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size, dtype=torch.float64)
    kept = some_kept(model, example)
    whole = masked(model, kept)
    small = slim(model, kept, example, round_to=4)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, 3, 32, 32, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 10, (3, 4), generator=generator)

    def train(network: nn.Module) -> nn.Module:
        network = copy.deepcopy(network).train()
        masks = Masks.from_zeros(prunable(network, example))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for pictures, labels in zip(x, y, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(network.train()(pictures), labels).backward()
            masks.mask_gradients()
            optimizer.step()
        return network.eval()

    form = Whole(copy.deepcopy(whole), small.structure)
    after, expected = train(small.model), train(whole)

    assert far(outputs(form.of(after), x[0]), outputs(expected, x[0])) <= 1e-9
    assert far(outputs(after, x[0]), outputs(expected, x[0])) <= 1e-9
    assert far(outputs(after, x[0]), outputs(small.model, x[0])) > 1e-2


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("name", ["bottlenecks", "mobilenet_v2", "ssd_vgg16", "timm"])
def test_a_slim_network_goes_back_into_the_full_shapes(name: str, round_to: int) -> None:
    cfg = NETS[name]
    model = trained(cfg)
    example = torch.zeros(1, 3, cfg.image_size, cfg.image_size)
    kept = some_kept(model, example)
    whole = masked(model, kept).to(memory_format=torch.channels_last)
    before = copy.deepcopy(whole.state_dict())
    small = slim(model, kept, example, round_to=round_to)
    form = Whole(whole, small.structure)
    assert all(torch.equal(value, before[key]) for key, value in form.of(small.model).state_dict().items())

    with torch.no_grad():
        for tensor in small.model.state_dict().values():
            tensor.mul_(2)  # zeros stay
    after = form.of(small.model).state_dict()

    changed = sum(int((after[key] != value).sum()) for key, value in before.items())
    assert changed >= sum(int((p != 0).sum()) for p in small.model.parameters())
    again = slim(form.model, kept, example, round_to=round_to).model
    lists = {key for key in again.state_dict() if key.endswith("select")}
    for key, value in again.state_dict().items():
        assert key in lists or torch.equal(value, small.model.state_dict()[key])
