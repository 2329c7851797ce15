"""A network around foreign weights: what a model folder says, found out from what the weights are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from channel_prune.config import Config, NetConfig
from channel_prune.detect.dataset import BACKGROUND
from channel_prune.files.saved import Saved
from channel_prune.files.weights import Loaded, Weights, fill
from channel_prune.lowering import lower_values
from channel_prune.model import build
from channel_prune.preprocess import preprocess_of
from prunelab.data import cifar, voc

IMAGENET = 1000
"""Classes of ILSVRC-12."""


def adopt(weights: Weights, net: NetConfig) -> tuple[Saved, Loaded]:
    """Build a network around foreign weights; what is not in the file keeps its first values.

    Raises:
        UserError: shapes differ, or none of the names belongs to the network.
    """
    cfg = config_of(net)
    model = build(net)
    loaded = fill(model, weights, strict=False)
    saved = Saved(
        model=model.eval(),
        net=net,
        preprocess=preprocess_of(cfg),
        classes=classes_of(cfg),
        dataset=cfg.data.dataset,
        detect=cfg.detect,
        notes=dict(weights.notes),
    )
    return saved, loaded


def config_of(net: NetConfig) -> Config:
    """The published configuration of a network: its data set, and how pictures get to it."""
    values: dict[str, Any] = {name: value for name, value in vars(net).items() if name != "weights"}
    if net.name == "resnet_v2":
        values["dataset"] = "cifar10" if net.dataset_form == "cifar" else "ilsvrc12"
    return lower_values(values, preset="fixed")


def classes_of(cfg: Config) -> tuple[str, ...]:
    """Names of the outputs of a published network; numbers where its data set has other classes."""
    offset = cfg.data.label_offset
    count = cfg.net.nb_classes - offset
    names: Sequence[str] = {"cifar10": cifar.CLASSES, "voc": voc.CLASSES}.get(cfg.data.dataset, ())
    if cfg.data.dataset == "ilsvrc12" and count == IMAGENET:
        from torchvision.models import ResNet18_Weights  # slow to import

        names = ResNet18_Weights.DEFAULT.meta["categories"]
    if len(names) != count:
        names = [f"class {number}" for number in range(count)]
    return (*((BACKGROUND,) if offset else ()), *names)
