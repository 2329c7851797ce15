"""The detector: sizes, tracing, pruning order, weights of the backbone."""

from __future__ import annotations

import pytest
import torch

from channel_prune.config import NetConfig, OptimConfig
from channel_prune.detect.anchors import anchors_of
from channel_prune.model import build
from channel_prune.model.decay import decay_factors
from channel_prune.model.ssd import Ssd, ssd_vgg16
from prunelab.surgery import trace


def small(size: int = 64, classes: int = 4, divisor: int = 16) -> Ssd:
    torch.manual_seed(0)
    cfg = NetConfig(name="ssd_vgg16", image_size=size, nb_classes=classes, width_divisor=divisor)
    return ssd_vgg16(cfg).eval()


def test_published_network_has_its_parameters_and_anchors() -> None:
    with torch.device("meta"):
        model = build(NetConfig(name="ssd_vgg16", image_size=300, nb_classes=21))
    assert sum(p.numel() for p in model.parameters()) == 26_285_486
    assert len(anchors_of(300)) == 8732


@pytest.mark.parametrize("size", [33, 64, 96, 128, 161, 300])
def test_a_picture_of_any_size_has_an_answer_for_every_anchor(size: int) -> None:
    model = small(size, divisor=32)
    with torch.no_grad():
        found = model(torch.randn(2, 3, size, size))
    count = len(anchors_of(size))
    assert found["loc"].shape == (2, count, 4)
    assert found["cls"].shape == (2, count, 4)


def test_torch_fx_follows_the_network_and_gives_the_same() -> None:
    model = small()
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for name, value in model(x).items():
            assert torch.equal(traced(x)[name], value)


def test_surgery_names_every_convolution_in_the_order_of_pruning() -> None:
    model = small()
    graph = trace(model, torch.zeros(1, 3, 64, 64))
    convs = [node.module for node in graph.nodes.values() if node.kind == "conv"]
    assert set(convs) == set(model.prune_order())
    order = model.prune_order()
    assert order[0] == "conv1.conv1_1"
    assert order[-2:] == ["multibox_head.loc_3", "multibox_head.cls_3"]
    assert order.index("fc6") > order.index("conv5.conv5_3")
    assert order.index("additional_layers.conv8.conv8_2") < order.index("multibox_head.loc_0")


def test_a_feature_layer_of_length_one_is_multiplied_by_its_scale() -> None:
    scale = small().conv4_3_scale
    x = torch.randn(2, 32, 3, 3)
    x[0, :, 0, 0] = 0  # no length to divide by
    found = scale(x)
    length = found.square().sum(dim=1).sqrt()
    assert length[0, 0, 0] == 0
    length[0, 0, 0] = 5
    # 20 divided by the root of the divisor of all widths
    torch.testing.assert_close(length, torch.full_like(length, 5.0))


def test_the_scale_decays_a_tenth_as_much() -> None:
    model = small()
    factors = decay_factors(model, OptimConfig())
    assert factors.pop("conv4_3_scale.weights") == 0.1
    assert set(factors.values()) == {1.0}
    assert any(name.endswith("bias") for name in factors)


def test_batch_norms_stand_behind_all_convolutions_but_the_heads() -> None:
    cfg = NetConfig(name="ssd_vgg16", image_size=64, nb_classes=4, width_divisor=16, batch_norm=True)
    model = ssd_vgg16(cfg).eval()
    convs = model.prune_order()
    inner = {name.rpartition(".")[2] for name in convs if not name.startswith("multibox_head")}
    assert set(model.norms) == inner
    assert model.get_submodule("conv1.conv1_1").bias is None
    assert model.get_submodule("multibox_head.loc_0").bias is not None
    assert model.original_names() == {}
    assert decay_factors(model, OptimConfig())["conv4_3_scale.weights"] == 0.1
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, other = model(x), small()(x)
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in other.items()}
    graph = trace(model, x[:1])
    assert sum(node.kind == "norm" for node in graph.nodes.values()) == len(inner)
