"""List files are read as recorded, and malformed ones refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.data.segmentation import read_list
from prunelab.errors import UserError
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("dataset")
def test_list_files_give_the_recorded_pairs_or_are_refused(folder: Folder, tmp_path: Path) -> None:
    cases = {name: case for name, case in folder.json("lists.json").items() if isinstance(case, dict)}
    assert cases
    for name, case in cases.items():
        split = case.get("split", "test" if name.startswith("test") else "train")
        (tmp_path / "list.txt").write_bytes(case["text"].encode())
        if "error" in case:
            with pytest.raises(UserError, match=r"list\.txt, line \d+"):
                read_list(tmp_path / "list.txt", "ROOT", split)
            continue
        found = read_list(tmp_path / "list.txt", "ROOT", split)
        assert [[s.image.as_posix(), s.label.as_posix()] for s in found] == case["result"], name


@pytest.mark.parity
@of_kind("dataset")
def test_an_unknown_split_is_refused(folder: Folder, tmp_path: Path) -> None:
    if "bad_split" not in folder.json("lists.json"):
        pytest.skip(f"{folder.path} has no bad split")
    (tmp_path / "list.txt").write_text("a b\n")
    with pytest.raises(UserError, match="split is 'other'"):
        read_list(tmp_path / "list.txt", "ROOT", "other")
