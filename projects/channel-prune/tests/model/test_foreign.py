"""Classifiers of other packages, by name."""

from __future__ import annotations

import sys

import pytest
import torch

from channel_prune.config import NetConfig
from channel_prune.model import build
from prunelab.errors import UserError


def foreign(name: str, **sizes: int) -> torch.nn.Module:
    with torch.device("meta"):
        return build(NetConfig(name=name, **{"nb_classes": 7, **sizes}))


def test_classifiers_of_both_packages_get_the_classes_that_are_asked_for() -> None:
    assert foreign("torchvision:resnet18").get_parameter("fc.weight").shape == (7, 512)
    assert foreign("timm:resnet10t").get_parameter("fc.weight").shape == (7, 512)


def test_a_network_with_second_heads_answers_with_one_tensor_in_training() -> None:
    torch.manual_seed(0)
    model = build(NetConfig(name="torchvision:googlenet", nb_classes=3))
    assert model.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("torchvision:resnet81", "torchvision has no classifier 'resnet81'; did you mean resnet"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classifier"),
        ("timm:resnet10tt", "timm has no network 'resnet10tt'; did you mean resnet10t"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_ones(name: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        foreign(name)


def test_widths_of_other_packages_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="width_divisor is 2, expected 1 for torchvision:resnet18"):
        foreign("torchvision:resnet18", width_divisor=2)


def test_without_timm_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed, expected .* channel-prune\[timm\]"):
        foreign("timm:resnet10t")
