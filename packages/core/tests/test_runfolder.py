"""Folders of runs: where a tour goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.errors import UserError
from prunelab.runfolder import tour_folder


def test_tours_are_numbered_and_resume_means_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tour"):
        tour_folder(tmp_path, resume=True)
    assert tour_folder(tmp_path).name == "tour-001"
    for name in ("tour-001", "tour-007", "tour-x"):
        (tmp_path / name).mkdir()
    assert tour_folder(tmp_path) == tmp_path / "tour-008"
    assert tour_folder(tmp_path, resume=True) == tmp_path / "tour-007"


def test_a_typed_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert tour_folder(tmp_path, "mine", resume=True) == Path("mine")
