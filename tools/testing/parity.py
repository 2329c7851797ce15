"""Finding the folders of recorded numbers, and checking that a root of them is whole.

A root is a folder of folders. What a folder holds is its *kind*: the root's ``config.json`` says it, else the
folder's own (``config.json``, or ``setup`` in its ``expected.json``), else the folder's name. A test names
the kinds that it reads and takes a ``folder``; it runs once for each folder of these kinds::

    from testing.parity import Folder, of_kind

    @pytest.mark.parity
    @of_kind("segnet")
    def test_outputs_agree(folder: Folder) -> None: ...

The root is the project's own copy, ``tests/fixtures/parity``, or the one named by ``--parity-root``. Each
project has a ``test_parity_roots.py`` that lists its kinds and calls the checks at the end of this file.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class Folder:
    """One folder of recorded numbers; the same object for all tests, so that caches may hold it."""

    path: Path
    kind: str
    facts: dict[str, Any]
    """Sizes, steps, seeds, tolerances: ``setup`` of its ``expected.json``, else its ``config.json``."""
    about: dict[str, Any]
    """All that is said of the folder, by its own two files and, before them, by the root's list."""

    def find(self, pattern: str) -> list[Path]:
        """Files of this folder that match a glob, sorted."""
        return sorted(self.path.glob(pattern))

    def file(self, pattern: str) -> Path:
        """The one file that matches a glob; the test is skipped where the folder has none."""
        found = self.find(pattern)
        if not found:
            pytest.skip(f"{self.path} has no {pattern}")
        assert len(found) == 1, f"{self.path}: {pattern} matches {[f.name for f in found]}"
        return found[0]

    def json(self, pattern: str) -> Any:
        """Content of the one JSON file that matches."""
        return json.loads(self.file(pattern).read_text(encoding="utf-8"))

    def numpy(self, pattern: str) -> dict[str, np.ndarray]:
        """Arrays of the one npz file that matches."""
        with np.load(self.file(pattern)) as archive:
            return {name: np.array(archive[name]) for name in archive.files}

    def arrays(self, pattern: str) -> dict[str, torch.Tensor]:
        """Arrays of the one npz file that matches, as tensors."""
        return {name: torch.from_numpy(array) for name, array in self.numpy(pattern).items()}

    def weights(self, pattern: str) -> dict[str, Any]:
        """Content of the one torch file that matches."""
        return torch.load(self.file(pattern), weights_only=True)

    @property
    def tolerance(self) -> Any:
        """The tolerances that the folder states: a number or a mapping."""
        return self.facts["tolerance"]


# --- finding ---


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _folder(path: Path, listed: dict[str, Any]) -> Folder:
    """Read what a folder is from the root's word on it, its own files and its name."""
    config = _read(path / "config.json")
    setup = _read(path / "expected.json").get("setup", {})
    about = {"kind": path.name, **setup, **config, **listed}
    return Folder(path=path, kind=about["kind"], facts=setup or config, about=about)


@lru_cache(maxsize=8)
def all_folders(root: Path) -> tuple[Folder, ...]:
    """Every folder of a root, sorted by name; none where there is no such root."""
    listed = _read(root / "config.json").get("folders", {})
    paths = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return tuple(_folder(path, listed.get(path.name, {})) for path in paths)


def _tests_folder(test_file: str | Path) -> Path:
    """The folder ``tests`` that holds a test module, at whatever depth."""
    return next(parent for parent in Path(test_file).resolve().parents if parent.name == "tests")


def default_root(test_file: str | Path) -> Path:
    """The copy of recorded numbers of the project that a test module belongs to."""
    return _tests_folder(test_file) / "fixtures" / "parity"


def parity_root(config: pytest.Config, test_file: str | Path) -> Path:
    """The root that the tests of this module's project read in this run.

    Args:
        config: pytest's, with the option ``--parity-root``. A root holds one project's folders; to run
            several projects at once, give the folder that holds a root of each, under the project's name.
        test_file: a test module of the project.
    """
    chosen = config.getoption("parity_root")
    if not chosen:
        return default_root(test_file)
    root = Path(chosen).resolve()
    of_project = root / _tests_folder(test_file).parent.name
    return of_project if of_project.is_dir() else root


# --- marking and running ---


def of_kind(*kinds: str, **about: str | Collection[str]) -> Callable[[Test], Test]:
    """Mark a test to run once for each folder of these kinds, given as ``folder``.

    Args:
        kinds: the kinds it reads.
        about: takes only folders of which this is said: a word, or one of several (``caption_model="x"``).
    """
    allowed = {key: {value} if isinstance(value, str) else set(value) for key, value in about.items()}

    def wanted(folder: Folder) -> bool:
        return folder.kind in kinds and all(folder.about.get(key) in words for key, words in allowed.items())

    def mark(test: Test) -> Test:
        test.wanted_folder = wanted  # type: ignore[attr-defined]
        return test

    return mark


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run a test marked by `of_kind` once a folder; for ``pytest_generate_tests`` of the root conftest."""
    wanted = getattr(metafunc.function, "wanted_folder", None)
    if wanted is None:
        return
    root = parity_root(metafunc.config, metafunc.definition.path)
    found = [folder for folder in all_folders(root) if wanted(folder)]
    metafunc.parametrize("folder", found, ids=[folder.path.name for folder in found])


# --- checks that every project's test_parity_roots.py calls ---


def check_root(config: pytest.Config, test_file: str | Path, kinds: Collection[str]) -> None:
    """The root of this run has folders, and each is of a known kind."""
    root = parity_root(config, test_file)
    found = all_folders(root)
    assert found, f"no folder of recorded numbers under {root}"
    unknown = {folder.path.name: folder.kind for folder in found if folder.kind not in kinds}
    project = _tests_folder(test_file).parent.name
    assert not unknown, f"folders under {root} of kinds that {project} does not know: {unknown}"


def check_default_root(test_file: str | Path, kinds: Collection[str]) -> None:
    """The project's own copy has a folder of every known kind, and of no other."""
    found = {folder.kind for folder in all_folders(default_root(test_file))}
    assert found == set(kinds)


def check_every_kind_is_read(test_file: str | Path, kinds: Collection[str]) -> None:
    """Each kind is named by ``of_kind(...)`` in some test module of the project, and no unknown one is."""
    modules = [path for path in _tests_folder(test_file).rglob("test_*.py") if path != Path(test_file)]
    read = {kind for path in modules for kind in _kinds_read_by(path)}
    assert read == set(kinds), f"read by no test: {set(kinds) - read}; unknown: {read - set(kinds)}"


def _kinds_read_by(path: Path) -> Iterator[str]:
    """Kinds that a test module names in ``of_kind(...)``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "of_kind":
            yield from (ast.literal_eval(argument) for argument in node.args)
