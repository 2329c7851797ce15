"""The root of recorded numbers: known kinds only, none forgotten."""

from __future__ import annotations

import pytest

from smp_caption.model import AVAILABLE
from testing.parity import (
    Folder,
    all_folders,
    check_default_root,
    check_every_kind_is_read,
    check_root,
    default_root,
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

# (kind, caption_model or None) of the folders that no test reads yet, with the reason; empty in the end.
NOT_YET_COVERED: dict[tuple[str, str | None], str] = {
}


def waits(folder: Folder) -> bool:
    """Whether it is known that no test reads this folder yet."""
    model = folder.about.get("caption_model")
    return any((folder.kind, name) in NOT_YET_COVERED for name in (model, None))


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    check_root(pytestconfig, __file__, KINDS)


@pytest.mark.parity
def test_every_model_of_the_root_is_built_by_a_test_or_listed_as_waiting(pytestconfig: pytest.Config) -> None:
    for folder in all_folders(parity_root(pytestconfig, __file__)):
        if folder.kind in {"dense", "pruned"}:
            assert folder.about.get("caption_model") in AVAILABLE or waits(folder), folder.path


def test_default_root_has_every_known_kind() -> None:
    check_default_root(__file__, KINDS)


def test_every_kind_is_read_by_some_test_module_or_waits() -> None:
    check_every_kind_is_read(__file__, KINDS - {kind for kind, model in NOT_YET_COVERED if model is None})


def test_waiting_list_names_only_kinds_and_models_that_exist() -> None:
    found = {(f.kind, f.about.get("caption_model")) for f in all_folders(default_root(__file__))}
    found |= {(kind, None) for kind, _ in found}
    assert found >= set(NOT_YET_COVERED)
