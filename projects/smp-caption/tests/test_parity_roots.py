"""The root of recorded numbers: known kinds only, none forgotten."""

from __future__ import annotations

import pytest

from smp_caption.model import AVAILABLE
from testing.parity import (
    all_folders,
    check_default_root,
    check_every_kind_is_read,
    check_root,
    parity_root,
)

KINDS = {
    "dense",
    "pruned",
    "layers",
    "metrics",
    "tokenizers",
    "schedules_losses",
    "pruning_methods",
    "scst",
    "data",
}


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    check_root(pytestconfig, __file__, KINDS)


@pytest.mark.parity
def test_every_model_of_the_root_can_be_built(pytestconfig: pytest.Config) -> None:
    for folder in all_folders(parity_root(pytestconfig, __file__)):
        if folder.kind in {"dense", "pruned"}:
            assert folder.about.get("caption_model") in AVAILABLE, folder.path


def test_default_root_has_every_known_kind() -> None:
    check_default_root(__file__, KINDS)


def test_every_kind_is_read_by_some_test_module() -> None:
    check_every_kind_is_read(__file__, KINDS)
