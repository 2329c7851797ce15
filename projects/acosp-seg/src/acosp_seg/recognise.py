"""Which network a state dict is of, told from names and shapes; masks change neither."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from acosp_seg.config import Config, DataConfig, ModelConfig, TestConfig
from prunelab.errors import UserError

DATASET_OF = {150: "ade20k", 21: "voc2012", 19: "cityscapes", 11: "camvid", 10: "cifar10"}
"""Published data sets by their number of classes."""
IGNORED = {"camvid": 11}
"""Label of pixels without a class, where it is not 255."""
WINDOWS = {
    ("psp", "ade20k"): (512, 473, 473),
    ("psp", "voc2012"): (512, 473, 473),
    ("psp", "cityscapes"): (2048, 713, 713),
    ("segnet", "cityscapes"): (2048, 1024, 2048),
    ("segnet", "camvid"): (480, 360, 480),
    ("resnet18", "cifar10"): (32, 32, 32),
}
"""Sizes of published tests: base_size, test_h, test_w."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Where a network shows what it is."""

    arch: str
    first: str
    """Weight of its first convolution, whose filters are the base width."""
    last: str
    """Weight of its last layer, whose rows are the classes."""


MARKS = (
    Marks(arch="psp", first="layer0.0.weight", last="cls.4.weight"),
    Marks(arch="segnet", first="down1.conv1.cbr_unit.0.weight", last="up1.convs.1.cbr_unit.0.weight"),
    Marks(arch="resnet18", first="conv1.weight", last="fc.weight"),
)


def without_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names that it has without masks."""
    masked = {name.removesuffix(".1.mask") for name in state if name.endswith(".1.mask")}
    found = {}
    for name, value in state.items():
        owner = re.sub(r"\.[01]\.\w+$", "", name)
        if owner not in masked:
            found[name] = value
        elif name.startswith(f"{owner}.0."):
            found[f"{owner}.{name.removeprefix(f'{owner}.0.')}"] = value
    return found


def recognise(state: Mapping[str, Tensor], *, where: str) -> ModelConfig:
    """The network of a state dict, which may have masks.

    Args:
        state: weights by name, without ``module.``.
        where: the file, for messages.

    Raises:
        UserError: it is none of this project's networks.
    """
    plain = without_masks(state)
    for marks in MARKS:
        if marks.first in plain and marks.last in plain:
            return ModelConfig(
                arch=marks.arch,
                layers=50 if marks.arch == "psp" else None,
                classes=plain[marks.last].shape[0],
                width=plain[marks.first].shape[0],
            )
    names = ", ".join(list(state)[:3])
    raise UserError(f"{where}: tensors {names}, ..., expected those of PSPNet-50, SegNet or ResNet-18")


def config_of(model: ModelConfig) -> Config:
    """The configuration of a network alone: the published data set and sizes of its number of classes."""
    dataset = DATASET_OF.get(model.classes, "folder")
    if (model.arch, dataset) not in WINDOWS:
        dataset = "cifar10" if model.arch == "resnet18" else "folder"
    default = (480, 473, 473) if model.arch == "psp" else (480, 360, 480)
    base, height, width = WINDOWS.get((model.arch, dataset), default)
    return Config(
        model=model,
        data=DataConfig(
            dataset=dataset,
            data_root=f"/data/{dataset}" if dataset != "folder" else "",
            names_path="",
            colors_path="",
            ignore_label=IGNORED.get(dataset, 255),
        ),
        test=TestConfig(base_size=base, test_h=height, test_w=width, flip=model.arch != "resnet18"),
    )
