"""The root of recorded numbers: known kinds only, every kind read by some test."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from .parity_roots import DEFAULT_ROOT, KNOWN_KINDS, all_folders, of_kind, parity_root


def _kinds_read_by(path: Path) -> set[str]:
    """Kinds that a test module names in ``of_kind(...)``."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    arguments = [
        argument
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "of_kind"
        for argument in call.args
    ]
    return {argument.value for argument in arguments if isinstance(argument, ast.Constant)} & KNOWN_KINDS


@pytest.mark.parity
def test_root_has_folders_and_each_is_of_a_known_kind(pytestconfig: pytest.Config) -> None:
    root = parity_root(pytestconfig)
    found = all_folders(root)
    assert found, f"no folder of recorded numbers under {root}"
    unknown = {folder.path.name: folder.kind for folder in found if folder.kind not in KNOWN_KINDS}
    assert not unknown, f"folders of unknown kind under {root}: {unknown}"


def test_default_root_has_every_known_kind() -> None:
    assert {folder.kind for folder in all_folders(DEFAULT_ROOT)} == KNOWN_KINDS


def test_every_kind_is_read_by_some_test_module() -> None:
    modules = [path for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__)]
    read = set().union(*map(_kinds_read_by, modules))
    assert read == KNOWN_KINDS, f"no test reads {sorted(KNOWN_KINDS - read)}"


def test_marking_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kinds of recorded numbers: \\['strange'\\]"):
        of_kind("strange")


def test_folder_named_by_no_file_takes_its_name_as_kind(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "strange").mkdir()
    assert [folder.kind for folder in all_folders(tmp_path)] == ["metrics", "strange"]


def test_folder_beats_its_name_and_the_list_of_the_root_beats_both(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        (root / "one").mkdir(parents=True)
        (root / "one" / "config.json").write_text(json.dumps({"kind": "lr"}))
    (second / "config.json").write_text(json.dumps({"folders": {"one": {"kind": "segnet"}}}))
    assert all_folders(first)[0].kind == "lr"
    assert all_folders(second)[0].kind == "segnet"
