"""The networks: numbers of weights and layers, shapes, first values, and that they can be followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from channel_prune.config import NetConfig
from channel_prune.model import build
from channel_prune.model.names import original_names
from prunelab.errors import UserError
from prunelab.surgery import shrink, trace

LARGE = {"dataset_form": "ilsvrc12", "image_size": 224, "nb_classes": 1001}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(**sizes: Any) -> nn.Module:
    with torch.device("meta"):
        return build(NetConfig(**sizes))


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


def test_the_published_resnet_of_cifar_has_its_published_size() -> None:
    model = on_meta(name="resnet_v1", resnet_size=20)
    assert (parameters(model), convolutions(model)) == (269_722, 19)
    assert not original_names(model)


@pytest.mark.parametrize(("size", "convs"), [(8, 10), (20, 22), (32, 34), (44, 46), (56, 58)])
def test_resnets_of_small_pictures_have_the_originals_layers(size: int, convs: int) -> None:
    model = on_meta(name="resnet_v2", resnet_size=size)
    assert convolutions(model) == convs
    blocks = (size - 2) // 2
    assert len(original_names(model)) == convs + 4 * (2 * blocks + 1) + 2
    assert len(list(model.parameters())) == convs + 2 * (2 * blocks + 1) + 2
    if size == 20:
        # kernels 270,512, batch norms 1,376, classifier 650
        assert parameters(model) == 272_538
        assert (len(original_names(model)), len(list(model.parameters()))) == (100, 62)


@pytest.mark.parametrize("size", [18, 34, 50, 101, 152, 200])
def test_resnets_of_imagenet_have_torchvisions_kernels_and_a_projection_more(size: int) -> None:
    from torchvision import models
    from torchvision.models.resnet import Bottleneck, ResNet

    with torch.device("meta"):
        name = f"resnet{size}"
        theirs = getattr(models, name)() if size != 200 else ResNet(Bottleneck, [3, 24, 36, 3])
    ours = on_meta(resnet_size=size, **LARGE)
    extra = 0 if size >= 50 else 64 * 64  # theirs projects in the first stage only where shapes change
    kernels = [sum(p.numel() for p in model.parameters() if p.dim() == 4) for model in (ours, theirs)]
    assert kernels[0] == kernels[1] + extra
    assert convolutions(ours) == convolutions(theirs) + bool(extra)
    width = 512 if size < 50 else 2048
    assert parameters(ours) - kernels[0] - (width + 1) * 1001 == 2 * _normed(ours)


def _normed(model: nn.Module) -> int:
    return sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_sizes_of_the_imagenet_networks_are_those_added_up_by_hand() -> None:
    # ResNet-18: torchvision's 11,689,512, less its 4,800 channels of batch norm twice, plus ours, ...
    assert parameters(on_meta(resnet_size=18, **LARGE)) == 11_166_912 + 4096 + 7808 + 513_513
    # ... MobileNet-v1: the published 4,231,976 of 1000 classes, v2: 3,504,872, and one class more
    assert parameters(on_meta(name="mobilenet_v1", **LARGE)) == 4_231_976 + 1024 + 1
    assert parameters(on_meta(name="mobilenet_v2", **LARGE)) == 3_504_872 + 1280 + 1


@pytest.mark.parametrize(("version", "convs"), [(1, 15), (2, 36)])
def test_mobilenets_prune_all_but_depthwise_convolutions(version: int, convs: int) -> None:
    model: Any = on_meta(name=f"mobilenet_v{version}", **LARGE)
    order = model.prune_order()
    assert len(order) == convs
    assert order[-1] == "logits"
    assert all(model.get_submodule(path).groups == 1 for path in order)


SMALL = {
    "tiny": {"name": "tiny"},
    "resnet_v1": {"name": "resnet_v1", "resnet_size": 8, "width_divisor": 4},
    "resnet_v2": {"name": "resnet_v2", "resnet_size": 14, "width_divisor": 4},
    "resnet18": {"resnet_size": 18, "width_divisor": 16, **LARGE, "nb_classes": 10},
    "resnet50": {"resnet_size": 50, "width_divisor": 32, **LARGE, "nb_classes": 10},
    "mobilenet_v1": {"name": "mobilenet_v1", "mobilenet_depth_mult": 0.125},
    "mobilenet_v2": {"name": "mobilenet_v2", "width_divisor": 8},
}


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
def test_pictures_of_any_size_become_logits_and_the_tracer_follows(sizes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model: Any = build(NetConfig(**sizes)).eval()
    for side in (32, 45):
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 10)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    runs = [node.module for node in graph.nodes.values() if node.kind == "conv"]
    order = model.prune_order()
    assert [path for path in runs if path in order] == order


@pytest.mark.parametrize("name", ["tiny", "resnet_v1", "mobilenet_v1", "mobilenet_v2"])
def test_a_structure_gives_the_network_its_smaller_shapes(name: str) -> None:
    torch.manual_seed(0)
    cfg = NetConfig(**SMALL[name])
    model: Any = build(cfg).eval()
    picture = torch.randn(2, 3, 32, 32)
    path = model.prune_order()[-2]
    conv: nn.Conv2d = model.get_submodule(path)
    kept = list(range(0, conv.in_channels, 2))
    with torch.no_grad():
        conv.weight[:, [c for c in range(conv.in_channels) if c not in kept]] = 0
    small = shrink(model, picture, {path: {"in": kept}})
    again = build(cfg, small.structure).eval()
    again.load_state_dict(small.model.state_dict())
    torch.testing.assert_close(again(picture), model(picture), rtol=1e-4, atol=1e-5)
    assert parameters(again) < parameters(model)


def test_the_shortcut_without_weights_takes_every_second_pixel_between_zeros() -> None:
    from channel_prune.model.resnet_v1 import Shortcut

    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    out = Shortcut(1)(x)
    assert out.shape == (1, 4, 2, 2)
    assert not out[:, [0, 3]].any()
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])


def test_first_weights_are_drawn_as_tensorflow_draws_them() -> None:
    torch.manual_seed(0)
    model = build(NetConfig(resnet_size=20))
    kernel = model.get_parameter("stages.2.2.conv2.weight")
    fan_in = kernel[0].numel()
    assert kernel.std().item() == pytest.approx(math.sqrt(1 / fan_in), rel=0.02)
    assert kernel.abs().max() <= 2 * math.sqrt(1 / fan_in) / 0.8796
    dense = model.get_parameter("dense.weight")
    assert dense.abs().max() <= math.sqrt(6 / sum(dense.shape))
    assert not model.get_parameter("dense.bias").any()
    mobile = build(NetConfig(name="mobilenet_v1", mobilenet_depth_mult=0.25))
    assert _all_kernels(mobile).std().item() == pytest.approx(0.09 * 0.8796, rel=0.02)
    assert _all_kernels(mobile).abs().max() <= 0.18


def _all_kernels(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.dim() == 4])


def test_the_post_activation_form_of_imagenet_is_refused() -> None:
    with pytest.raises(UserError, match="dataset_form is 'ilsvrc12', expected 'cifar' for resnet_v1"):
        build(NetConfig(name="resnet_v1", resnet_size=18, dataset_form="ilsvrc12"))
