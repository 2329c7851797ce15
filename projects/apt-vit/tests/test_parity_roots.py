"""The root of recorded numbers: known kinds only, every kind read by some test."""

from __future__ import annotations

import pytest

from testing.parity import check_default_root, check_every_kind_is_read, check_root

KINDS = frozenset(
    {
        "action_sampling",
        "dropout_on",
        "flops",
        "forward_other_layers",
        "forward_small",
        "greedy_ties",
        "infer_loop",
        "init",
        "named_config_shapes",
        "npz_convert",
        "npz_convert_hybrid",
        "npz_convert_keep_head",
        "posembed",
        "preprocess",
        "schedules",
        "train_loop_cosine",
        "train_loop_zero_head",
        "train_step",
    }
)


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    check_root(pytestconfig, __file__, KINDS)


def test_default_root_has_every_known_kind() -> None:
    check_default_root(__file__, KINDS)


def test_every_kind_is_read_by_some_test_module() -> None:
    check_every_kind_is_read(__file__, KINDS)
