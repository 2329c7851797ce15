"""The root of recorded numbers: known kinds only, none forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .parity_roots import (
    DEFAULT_ROOT,
    KNOWN_KINDS,
    NOT_YET_COVERED,
    all_folders,
    folders,
    not_yet_covered,
    parity_root,
)


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    root = parity_root(pytestconfig)
    found = all_folders(root)
    assert found, f"no folder of recorded numbers under {root}"
    unknown = {folder.path.name: folder.kind for folder in found if folder.kind not in KNOWN_KINDS}
    assert not unknown, f"folders of unknown kind under {root}: {unknown}"


@pytest.mark.parity
def test_every_model_of_the_root_is_built_by_a_test_or_listed_as_waiting(pytestconfig: pytest.Config) -> None:
    covered = {"up_down_lstm", "up_down_lstm_prune"}
    for folder in all_folders(parity_root(pytestconfig)):
        if folder.kind in {"dense", "pruned"}:
            assert folder.caption_model in covered or not_yet_covered(folder), folder.path


def test_default_root_has_every_known_kind() -> None:
    assert {folder.kind for folder in all_folders(DEFAULT_ROOT)} == KNOWN_KINDS


def test_waiting_list_names_only_kinds_and_models_that_exist() -> None:
    for kind, model in NOT_YET_COVERED:
        assert folders(DEFAULT_ROOT, kind, model), (kind, model)


def test_folder_named_by_no_file_takes_its_name_as_kind(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "strange").mkdir()
    assert [folder.kind for folder in all_folders(tmp_path)] == ["metrics", "strange"]


def test_list_of_the_root_beats_the_folder_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text(json.dumps({"kind": "data"}))
    assert all_folders(tmp_path)[0].kind == "data"
    (tmp_path / "config.json").write_text(json.dumps({"folders": {"one": {"kind": "scst"}}}))
    assert all_folders(tmp_path)[0].kind == "scst"
