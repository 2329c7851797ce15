"""Both MobileNets at small width: outputs, losses and gradients of the original."""

from __future__ import annotations

import pytest
from torch import nn

from channel_prune.config import NetConfig, OptimConfig
from channel_prune.model import build
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
    facts = case.facts
    version = facts["mobilenet_version"]
    model = build(
        NetConfig(
            name=f"mobilenet_v{version}",
            mobilenet_depth_mult=facts["mobilenet_depth_mult"],
            nb_classes=facts["nb_classes"],
            image_size=facts["image_size"],
        )
    )
    check_norms(model, folder.facts["bn_decay"][str(version)], folder.facts["bn_eps"])
    return filled(model, case)


@pytest.mark.parity
@of_kind("mobilenet")
def test_variables_and_order_of_convolutions_are_the_originals(folder: Folder) -> None:
    for case in cases(folder):
        model = network(folder, case)
        check_counts(model, case)
        check_order_of_convolutions(model, case)


@pytest.mark.parity
@of_kind("mobilenet")
def test_logits_losses_gradients_and_statistics_agree(folder: Folder) -> None:
    for case in cases(folder):
        model = network(folder, case)
        check_evaluation(model, case)
        check_training(model, case, OptimConfig(decay_norms=True))
