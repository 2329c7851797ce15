"""Networks are recognised by names and shapes of their weights, whatever the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from channel_prune.config import NetConfig
from channel_prune.files.recognise import recognise
from channel_prune.files.weights import Weights
from channel_prune.model import build
from channel_prune.model.names import original_names, to_tensorflow
from prunelab.errors import UserError

LARGE = {"dataset_form": "ilsvrc12", "image_size": 224}
NETS = {
    "resnet_v2-20": NetConfig(name="resnet_v2", resnet_size=20),
    "resnet_v2-56": NetConfig(name="resnet_v2", resnet_size=56, nb_classes=7, width_divisor=4),
    "resnet_v2-18": NetConfig(name="resnet_v2", resnet_size=18, nb_classes=1001, **LARGE),
    "resnet_v2-34": NetConfig(name="resnet_v2", resnet_size=34, width_divisor=16, **LARGE),
    "resnet_v2-50": NetConfig(name="resnet_v2", resnet_size=50, width_divisor=16, **LARGE),
    "resnet_v2-101": NetConfig(name="resnet_v2", resnet_size=101, width_divisor=32, **LARGE),
    "resnet_v1-20": NetConfig(name="resnet_v1", resnet_size=20),
    "mobilenet_v1": NetConfig(name="mobilenet_v1", nb_classes=1001, **LARGE),
    "mobilenet_v1-0.35": NetConfig(name="mobilenet_v1", mobilenet_depth_mult=0.35, nb_classes=11, **LARGE),
    "mobilenet_v2-1.4": NetConfig(name="mobilenet_v2", mobilenet_depth_mult=1.4, nb_classes=1001, **LARGE),
    "mobilenet_v2-0.125": NetConfig(name="mobilenet_v2", mobilenet_depth_mult=0.125, nb_classes=5, **LARGE),
    "ssd_vgg16": NetConfig(name="ssd_vgg16", nb_classes=21, image_size=300, width_divisor=8),
}


def weights_of(net: NetConfig, *, original: bool) -> Weights:
    """A file's content, without values."""
    with torch.device("meta"):
        model = build(net)
    state = model.state_dict()
    if not original:
        return Weights(path=Path("file.pth"), what="", state=state)
    arrays = {}
    for key, name in original_names(model).items():
        depthwise = "depthwise" in name
        arrays[name] = to_tensorflow(torch.zeros(state[key].shape), depthwise=depthwise)
    return Weights(path=Path("file.npz"), what="", arrays=arrays)


@pytest.mark.parametrize("original", [False, True], ids=["torch", "original"])
@pytest.mark.parametrize("name", NETS)
def test_a_network_is_told_from_its_names_and_shapes(name: str, original: bool) -> None:
    if name.startswith("resnet_v1") and original:
        assert not original_names(build(NETS[name]))
        return
    assert recognise(weights_of(NETS[name], original=original)) == NETS[name]


def test_published_weights_of_torchvision_are_recognised_by_themselves() -> None:
    wanted = NetConfig(name="torchvision:shufflenet_v2_x0_5", nb_classes=1000, **LARGE)
    assert recognise(weights_of(wanted, original=False)) == wanted


def test_a_named_network_of_another_package_gets_the_classes_of_its_last_layer() -> None:
    wanted = NetConfig(name="torchvision:resnet18", nb_classes=6, **LARGE)
    assert recognise(weights_of(wanted, original=False), net="torchvision:resnet18") == wanted


def state(**shapes: tuple[int, ...]) -> Weights:
    tensors = {name.replace("__", "."): torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return Weights(path=Path("file.pth"), what="", state=tensors)


@pytest.mark.parametrize(
    ("weights", "net", "line"),
    [
        (state(a=(3,), b=(2, 2)), "", "file.pth: weights a, b, ..., expected those of a network here"),
        (
            weights_of(NETS["resnet_v1-20"], original=False),
            "tiny",
            "weights of resnet_v1, expected those of tiny",
        ),
        (
            state(conv__weight=(24, 3, 3, 3), stages__0__0__bn1__weight=(24,), dense__bias=(10,)),
            "",
            "a ResNet of 1 convolutions, expected 6n",
        ),
        (
            state(conv__weight=(24, 3, 7, 7), stages__0__0__bn1__weight=(24,), dense__bias=(10,)),
            "",
            "a ResNet of 1 convolutions, expected 21, 37",
        ),
        (
            state(conv1__weight=(24, 3, 3, 3), layer3__0__conv1__weight=(96, 3, 3, 3), linear__bias=(10,)),
            "",
            "24 channels in the first layer, expected 16 or a divisor of it",
        ),
        (
            state(conv1__conv1_1__bias=(64,), multibox_head__cls_0__bias=(84,)),
            "",
            "an SSD with 1 feature layers, expected 4 to 6",
        ),
    ],
)
def test_what_is_no_known_network_is_told(weights: Weights, net: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        recognise(weights, net=net)
