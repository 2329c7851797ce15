"""Finding folders of recorded numbers: their kinds, the root that a project reads, the checks of a root."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from testing import parity


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


class Config:
    """Stands for pytest's configuration."""

    def __init__(self, parity_root: Path | None = None) -> None:
        self.parity_root = parity_root

    def getoption(self, name: str) -> str | None:
        return str(self.parity_root) if name == "parity_root" and self.parity_root else None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with recorded numbers of two kinds and one test module, deep in its tests."""
    tests = tmp_path / "projects/paper/tests"
    write(tests / "fixtures/parity/net/config.json", {"size": 3})
    write(tests / "fixtures/parity/rates/config.json", {})
    write(tests / "model/test_net.py", '@of_kind("net", "rates")\ndef test(folder): ...\n')
    return write(tests / "test_parity_roots.py", "")


def test_folder_named_by_no_file_takes_its_name_as_kind(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "strange").mkdir()
    assert [folder.kind for folder in parity.all_folders(tmp_path)] == ["metrics", "strange"]


def test_the_list_of_the_root_beats_the_folders_files_and_these_beat_its_name(tmp_path: Path) -> None:
    for name in ("own", "listed"):
        write(tmp_path / name / "config.json", {"kind": "data", "size": 4})
    write(tmp_path / "recorded/expected.json", {"setup": {"kind": "dense", "steps": 2}, "loss": [1.0]})
    write(tmp_path / "config.json", {"folders": {"listed": {"kind": "scst"}}})
    found = {folder.path.name: (folder.kind, folder.facts) for folder in parity.all_folders(tmp_path)}
    assert found == {
        "listed": ("scst", {"kind": "data", "size": 4}),
        "own": ("data", {"kind": "data", "size": 4}),
        "recorded": ("dense", {"kind": "dense", "steps": 2}),
    }


def test_a_test_may_read_only_folders_of_which_something_is_said(tmp_path: Path) -> None:
    write(tmp_path / "small/config.json", {"kind": "net", "size": "s"})
    write(tmp_path / "large/config.json", {"kind": "net"})
    write(tmp_path / "other/config.json", {"size": "s"})
    write(tmp_path / "config.json", {"folders": {"large": {"size": "l"}}})

    def chosen(mark: Any) -> list[str]:
        wanted = mark(lambda folder: None).wanted_folder
        return [folder.path.name for folder in parity.all_folders(tmp_path) if wanted(folder)]

    assert chosen(parity.of_kind("net")) == ["large", "small"]
    assert chosen(parity.of_kind("net", size="s")) == ["small"]
    assert chosen(parity.of_kind("net", "other", size=("s", "l"))) == ["large", "other", "small"]


def test_files_of_a_folder_are_found_by_pattern(tmp_path: Path) -> None:
    write(tmp_path / "net/config.json", {"tolerance": {"loss": 1e-6}})
    write(tmp_path / "net/list.json", [1, 2])
    np.savez(tmp_path / "net/inputs.npz", x=np.arange(3))
    torch.save({"w": torch.ones(2)}, tmp_path / "net/best.pth")
    (folder,) = parity.all_folders(tmp_path)
    assert folder.tolerance == {"loss": 1e-6}
    assert folder.json("li*.json") == [1, 2]
    assert folder.numpy("*.npz")["x"].tolist() == folder.arrays("inputs*")["x"].tolist() == [0, 1, 2]
    assert folder.weights("*.pth")["w"].tolist() == [1, 1]
    assert [file.name for file in folder.find("*.json")] == ["config.json", "list.json"]
    with pytest.raises(pytest.skip.Exception, match=r"net has no outputs\.npz"):
        folder.file("outputs.npz")
    with pytest.raises(AssertionError, match=r"\*\.json matches \['config\.json', 'list\.json'\]"):
        folder.file("*.json")


def test_the_root_is_the_projects_own_or_the_one_given_or_the_projects_part_of_it(
    project: Path, tmp_path: Path
) -> None:
    deep = project.parent / "model/test_net.py"
    own = project.parent / "fixtures/parity"
    assert parity.parity_root(Config(), project) == parity.parity_root(Config(), deep) == own
    given = tmp_path / "given"
    assert parity.parity_root(Config(given), deep) == given
    (given / "paper").mkdir(parents=True)
    assert parity.parity_root(Config(given), deep) == given / "paper"


def test_checks_pass_for_a_whole_root(project: Path) -> None:
    parity.check_root(Config(), project, {"net", "rates", "more"})
    parity.check_default_root(project, {"net", "rates"})
    parity.check_every_kind_is_read(project, {"net", "rates"})
    assert parity.all_folders(parity.default_root(project))


def test_checks_fail_for_an_empty_root_an_unknown_kind_and_one_that_no_test_reads(
    project: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="no folder of recorded numbers under"):
        parity.check_root(Config(tmp_path / "nothing"), project, {"net"})
    with pytest.raises(AssertionError, match=r"of kinds that paper does not know: \{'rates': 'rates'\}"):
        parity.check_root(Config(), project, {"net"})
    with pytest.raises(AssertionError):
        parity.check_default_root(project, {"net", "rates", "more"})
    with pytest.raises(AssertionError, match=r"read by no test: \{'more'\}; unknown: \{'rates'\}"):
        parity.check_every_kind_is_read(project, {"net", "more"})


def test_a_test_runs_once_for_each_folder_that_it_reads(project: Path) -> None:
    rows: list[tuple[str, list[str]]] = []

    def run(test: Any) -> None:
        parity.parametrize(
            SimpleNamespace(
                function=test,
                config=Config(),
                definition=SimpleNamespace(path=project),
                parametrize=lambda name, found, ids: rows.append((name, [f.kind for f in found] + ids)),
            )
        )

    run(lambda folder: None)  # names no kinds
    run(parity.of_kind("rates", "more")(lambda folder: None))
    assert rows == [("folder", ["rates", "rates"])]
