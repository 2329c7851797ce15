"""Which network weights are of, told from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from channel_prune.config import FOREIGN, NetConfig
from channel_prune.detect.anchors import LEAST_SIZE, RATIOS, anchor_layers
from channel_prune.files.weights import COUNTER, Weights
from channel_prune.model import build
from channel_prune.model.resnet_v2 import BLOCKS, BOTTLENECK_FROM
from prunelab.errors import UserError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Of weights by name: the original's with its layouts, or torch's."""
Reader: TypeAlias = Callable[[Shapes, str], NetConfig]
"""From shapes, and their file for messages, to the network."""

MULTIPLIERS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""Widths of MobileNets that are published."""
BUFFERS = ("running_mean", "running_var", COUNTER)
"""Ends of names that are no parameters."""


def recognise(weights: Weights, *, net: str = "") -> NetConfig:
    """The network that weights are of.

    Args:
        weights: a file that was read.
        net: its name where that is known, which a network of timm needs; empty: it is found out.

    Raises:
        UserError: it is no network that is known, or another one.
    """
    shapes, where = weights.shapes, str(weights.path)
    if net.startswith(FOREIGN):
        return _foreign(net, [shape for shape in shapes.values() if len(shape) in (2, 4)][-1][0])
    reader = next((read for marks, read in READERS if all(mark in shapes for mark in marks)), None)
    found = _of_torchvision(weights) if reader is None else reader(shapes, where)
    if net and found.name != net:
        raise UserError(f"{where}: weights of {found.name}, expected those of {net}")
    return found


# --------------------------------------------------------------------------------------------- own networks


def _divisor(base: int, width: int, where: str) -> int:
    """What a width was divided by."""
    if width < 1 or base % width:
        raise UserError(f"{where}: {width} channels in the first layer, expected {base} or a divisor of it")
    return base // width


def _resnet_v2(first: str, bias: str, kernels: str, axes: tuple[int, int]) -> Reader:
    """By the number of convolutions, and rows and outputs of the first kernel, which lie at ``axes``."""

    def read(shapes: Shapes, where: str) -> NetConfig:
        count = sum(bool(re.fullmatch(kernels, name)) for name in shapes)
        kernel, width = (shapes[first][axis] for axis in axes)
        large = kernel > 3
        if large:
            sizes = {
                1 + len(blocks) + (3 if size >= BOTTLENECK_FROM else 2) * sum(blocks): size
                for size, blocks in BLOCKS.items()
            }
        else:
            sizes = {6 * n + 4: 6 * n + 2 for n in range(1, 1 + count // 6)}
        if count not in sizes:
            what = "21, 37, 53, 104, 155 or 203" if large else "6n + 4"
            raise UserError(f"{where}: a ResNet of {count} convolutions, expected {what}")
        return NetConfig(
            name="resnet_v2",
            dataset_form="ilsvrc12" if large else "cifar",
            resnet_size=sizes[count],
            nb_classes=shapes[bias][0],
            image_size=224 if large else 32,
            width_divisor=_divisor(64 if large else 16, width, where),
        )

    return read


def _resnet_v1(shapes: Shapes, where: str) -> NetConfig:
    """By the number of convolutions and the width of the first one."""
    return NetConfig(
        name="resnet_v1",
        resnet_size=sum(len(shape) == 4 for shape in shapes.values()) + 1,
        nb_classes=shapes["linear.bias"][0],
        width_divisor=_divisor(16, shapes["conv1.weight"][0], where),
    )


def _mobilenet(name: str, features: int, logits: str, axes: tuple[int, int]) -> Reader:
    """By inputs and outputs of the last kernel, at ``axes``; inputs are ``features`` at full width."""

    def read(shapes: Shapes, where: str) -> NetConfig:
        width, classes = (shapes[logits][axis] for axis in axes)
        near = min(MULTIPLIERS, key=lambda multiplier: abs(multiplier * features - width))
        return NetConfig(
            name=name,
            dataset_form="ilsvrc12",
            mobilenet_depth_mult=near if abs(near * features - width) < 8 else width / features,
            nb_classes=classes,
            image_size=224,
        )

    return read


def _ssd(first: str, bias: str, heads: str) -> Reader:
    """By the number of feature layers, the outputs of a head of the first one, and the first width."""

    def read(shapes: Shapes, where: str) -> NetConfig:
        count = sum(bool(re.fullmatch(heads, name)) for name in shapes)
        sizes = [size for size in range(300, LEAST_SIZE - 1, -1) if len(anchor_layers(size)) == count]
        if not sizes:
            raise UserError(f"{where}: an SSD with {count} feature layers, expected 4 to 6")
        return NetConfig(
            name="ssd_vgg16",
            nb_classes=shapes[bias][0] // (len(RATIOS[0]) + 1),
            image_size=sizes[0],
            width_divisor=_divisor(64, shapes[first][0], where),
        )

    return read


V1_LOGITS, V2_LOGITS = (f"Mobilenet{version}/Logits/Conv2d_1c_1x1/weights" for version in ("V1", "V2"))
READERS: tuple[tuple[tuple[str, ...], Reader], ...] = (
    (
        ("resnet_model/conv2d/kernel", "resnet_model/dense/bias"),
        _resnet_v2(
            "resnet_model/conv2d/kernel",
            "resnet_model/dense/bias",
            r"resnet_model/conv2d(_\d+)?/kernel",
            axes=(0, 3),
        ),
    ),
    (
        ("conv.weight", "stages.0.0.bn1.weight", "dense.bias"),
        _resnet_v2("conv.weight", "dense.bias", r"(.*\.)?(conv\d?|shortcut)\.weight", axes=(2, 0)),
    ),
    (("conv1.weight", "layer3.0.conv1.weight", "linear.bias"), _resnet_v1),
    ((V1_LOGITS,), _mobilenet("mobilenet_v1", 1024, V1_LOGITS, axes=(2, 3))),
    ((V2_LOGITS,), _mobilenet("mobilenet_v2", 1280, V2_LOGITS, axes=(2, 3))),
    (("logits.weight", "body.2.expand.bn.weight"), _mobilenet("mobilenet_v2", 1280, "logits.weight", (1, 0))),
    (("logits.weight", "body.1.same.conv.weight"), _mobilenet("mobilenet_v1", 1024, "logits.weight", (1, 0))),
    (
        ("ssd300/conv1/conv1_1/bias", "ssd300/multibox_head/cls_0/bias"),
        _ssd(
            "ssd300/conv1/conv1_1/bias",
            "ssd300/multibox_head/cls_0/bias",
            r"ssd300/multibox_head/cls_\d+/bias",
        ),
    ),
    (
        ("conv1.conv1_1.bias", "multibox_head.cls_0.bias"),
        _ssd("conv1.conv1_1.bias", "multibox_head.cls_0.bias", r"multibox_head\.cls_\d+\.bias"),
    ),
)
"""Names that only one network has, and who reads the rest."""


# --------------------------------------------------------------------------------------------- torchvision


def _foreign(name: str, classes: int) -> NetConfig:
    return NetConfig(name=name, dataset_form="ilsvrc12", nb_classes=classes, image_size=224)


def _of_torchvision(weights: Weights) -> NetConfig:
    """The network of torchvision that has just these names and shapes, with its published classes."""
    from torchvision import models

    from channel_prune.model.foreign import torchvision_names

    count = sum(value.numel() for name, value in weights.state.items() if not name.endswith(BUFFERS))
    for name in torchvision_names() if weights.state else ():
        if any(entry.meta["num_params"] == count for entry in models.get_model_weights(name)):
            found = _foreign(f"torchvision:{name}", 1000)
            with torch.device("meta"):
                wanted = build(found).state_dict()
            if all(weights.shapes.get(key) == value.shape for key, value in wanted.items() if value.dim()):
                return found
    raise UserError(
        f"{weights.path}: weights {', '.join(list(weights.shapes)[:3])}, ..., expected those of a network "
        "here, or its name: --net torchvision:NAME or --net timm:NAME"
    )
