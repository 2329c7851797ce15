"""SegNet computes what the original's does: outputs at odd sizes, and training with masks."""

from __future__ import annotations

import pytest

from testing.parity import Folder, of_kind

from .recorded_networks import assert_abs_sums, assert_eval, assert_hard, assert_soft, dense_network

pytestmark = pytest.mark.parity


@of_kind("segnet")
def test_weights_filled_by_the_rule_are_the_recorded_ones(folder: Folder) -> None:
    recorded = folder.json("expected.json")["dense_param_check"]
    assert_abs_sums("weights", dense_network(folder).state_dict(), recorded, rtol=1e-12)


@of_kind("segnet")
def test_dense_output_agrees(folder: Folder) -> None:
    assert_eval(folder, "dense_eval", dense_network(folder))


@of_kind("segnet")
def test_hard_masked_network_agrees_before_and_while_training(folder: Folder) -> None:
    assert_hard(folder)


@of_kind("segnet")
def test_soft_masked_network_agrees_while_training_and_once_hard(folder: Folder) -> None:
    assert_soft(folder)
