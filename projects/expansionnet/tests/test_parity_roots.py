"""The root of recorded numbers: known kinds only, every kind read by some test."""

from __future__ import annotations

import pytest

from testing.parity import check_default_root, check_every_kind_is_read, check_root

KINDS = frozenset(
    {
        "body_forward",
        "cider_reward",
        "data_loader",
        "decoding",
        "dropout_places",
        "e2e_tiny",
        "ensemble",
        "evaluation",
        "feature_generation",
        "image_preprocessing",
        "loss_label_smoothing",
        "masks",
        "onnx_copy",
        "radam",
        "schedules",
        "text",
        "train_scst",
        "train_xe",
    }
)


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    check_root(pytestconfig, __file__, KINDS)


def test_default_root_has_every_known_kind() -> None:
    check_default_root(__file__, KINDS)


def test_every_kind_is_read_by_some_test_module() -> None:
    check_every_kind_is_read(__file__, KINDS)
