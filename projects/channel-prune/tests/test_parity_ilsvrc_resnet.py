"""The residual networks for ImageNet, at small width: outputs, losses and gradients of the original."""

from __future__ import annotations

import pytest
from torch import nn

from channel_prune.config import OptimConfig
from channel_prune.model.resnet_v2 import BLOCKS, BOTTLENECK_FROM, ResNetV2
from testing.parity import Folder, of_kind

from .recorded_classifiers import (
    Case,
    cases,
    check_counts,
    check_evaluation,
    check_norms,
    check_order_of_convolutions,
    check_training,
    filled,
)


def network(folder: Folder, case: Case) -> nn.Module:
    """The network of a case with its weights."""
    size = case.facts["resnet_size"]
    model = ResNetV2(
        BLOCKS[size],
        case.facts["nb_filters"],
        case.facts["nb_classes"],
        bottleneck=size >= BOTTLENECK_FROM,
        large=True,
    )
    check_norms(model, folder.facts["bn_decay"], folder.facts["bn_eps"])
    return filled(model, case)


@pytest.mark.parity
@of_kind("ilsvrc_resnet")
def test_variables_and_order_of_convolutions_are_the_originals(folder: Folder) -> None:
    for case in cases(folder):
        model = network(folder, case)
        check_counts(model, case)
        check_order_of_convolutions(model, case)


@pytest.mark.parity
@of_kind("ilsvrc_resnet")
def test_logits_losses_gradients_and_statistics_agree(folder: Folder) -> None:
    for case in cases(folder):
        model = network(folder, case)
        check_evaluation(model, case)
        check_training(model, case, OptimConfig(decay_norms=False))
