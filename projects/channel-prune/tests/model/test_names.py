"""Variables of the original: names, scopes and layouts, both ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from channel_prune.config import NetConfig
from channel_prune.model import build
from channel_prune.model.names import from_original, original_names, to_original, to_torch

NETS = {
    "resnet_v2": NetConfig(name="resnet_v2", resnet_size=8, width_divisor=4),
    "mobilenet_v1": NetConfig(name="mobilenet_v1", mobilenet_depth_mult=0.125),
    "mobilenet_v2": NetConfig(name="mobilenet_v2", mobilenet_depth_mult=0.125),
    "ssd_vgg16": NetConfig(name="ssd_vgg16", nb_classes=4, image_size=64, width_divisor=32),
}


@pytest.mark.parametrize("name", NETS)
def test_weights_come_back_as_they_were_under_any_scope(name: str) -> None:
    torch.manual_seed(0)
    model = build(NETS[name])
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    arrays = to_original(model)
    assert len(arrays) == len(state) == len(original_names(model))
    for scope, suffix in (("", ""), ("model/", ""), ("pruned_model/", ":0")):
        back = from_original({f"{scope}{key}{suffix}": value for key, value in arrays.items()}, model)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], value) for key, value in state.items())


def test_layouts_are_tensorflows() -> None:
    model = build(NETS["mobilenet_v1"])
    arrays = to_original(model)
    assert arrays["MobilenetV1/Conv2d_0/weights"].shape == (3, 3, 3, 8)
    assert arrays["MobilenetV1/Conv2d_2_depthwise/depthwise_weights"].shape == (3, 3, 8, 1)
    assert arrays["MobilenetV1/Logits/Conv2d_1c_1x1/biases"].shape == (10,)
    dense = to_original(build(NETS["resnet_v2"]))["resnet_model/dense/kernel"]
    assert dense.shape == (16, 10)
    kernel = np.arange(3 * 5 * 2 * 4).reshape(3, 5, 2, 4)
    assert to_torch(kernel)[3, 1, 2, 4] == kernel[2, 4, 1, 3]
    assert to_torch(kernel, depthwise=True)[1, 3, 2, 4] == kernel[2, 4, 1, 3]


def test_layers_are_numbered_in_the_order_of_their_creation() -> None:
    names = original_names(build(NETS["resnet_v2"]))
    assert names["conv.weight"] == "resnet_model/conv2d/kernel"
    assert names["stages.0.0.shortcut.weight"] == "resnet_model/conv2d_1/kernel"
    assert names["stages.0.0.conv1.weight"] == "resnet_model/conv2d_2/kernel"
    assert names["stages.1.0.bn1.running_var"] == "resnet_model/batch_normalization_2/moving_variance"
    assert names["dense.bias"] == "resnet_model/dense/bias"


def test_what_belongs_to_the_training_is_left_out_and_strangers_keep_their_names() -> None:
    model = build(NETS["resnet_v2"])
    arrays = to_original(model) | {
        "pruned_model/global_step": np.array(3),
        "resnet_model/conv2d/kernel/Momentum": np.zeros((3, 3, 3, 4)),
        "beta1_power": np.array(0.9),
        "stranger": np.zeros(2),
    }
    back = from_original(arrays, model)
    assert set(back) - set(model.state_dict()) == {"stranger"}
