"""Which weights decay."""

from __future__ import annotations

from torch import nn

from channel_prune.config import NetConfig, OptimConfig
from channel_prune.model import build
from channel_prune.model.decay import decay_factors, decay_groups


def test_a_resnet_decays_kernels_and_the_bias_of_its_classifier() -> None:
    model = build(NetConfig(name="tiny"))
    factors = decay_factors(model, OptimConfig())
    assert {name for name, factor in factors.items() if factor == 1} == {
        name for name in factors if ".bn" not in name and not name.startswith("bn.")
    }
    assert factors["dense.bias"] == 1
    assert decay_factors(model, OptimConfig(decay_biases=False))["dense.bias"] == 0


def test_a_mobilenet_decays_everything_as_the_original_does() -> None:
    model = build(NetConfig(name="mobilenet_v1", mobilenet_depth_mult=0.125))
    assert set(decay_factors(model, OptimConfig(decay_norms=True)).values()) == {1.0}


def test_a_detectors_scale_decays_a_tenth() -> None:
    model = build(NetConfig(name="ssd_vgg16", nb_classes=4, image_size=64, width_divisor=32))
    factors = decay_factors(model, OptimConfig())
    assert factors["conv4_3_scale.weights"] == 0.1
    assert factors["fc6.bias"] == factors["fc6.weight"] == 1


def test_groups_hold_every_parameter_once_in_the_order_of_the_network() -> None:
    model = build(NetConfig(name="tiny"))
    cfg = OptimConfig(loss_w_dcy=0.5)
    groups = decay_groups(model, cfg)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    factors = decay_factors(model, cfg)
    for group in groups:
        wanted = [p for name, p in model.named_parameters() if factors[name] * 0.5 == group["weight_decay"]]
        assert [id(p) for p in group["params"]] == [id(p) for p in wanted]


def test_norms_of_every_kind_are_norms() -> None:
    norms = [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.LayerNorm(4)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.Linear(4, 2))
    factors = decay_factors(model, OptimConfig(decay_biases=False))
    assert [name for name, factor in factors.items() if factor] == ["0.weight", "5.weight"]
