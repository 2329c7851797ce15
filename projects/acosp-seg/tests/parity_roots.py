"""Finding the folders of recorded numbers: their kinds and where they lie.

A root is a folder of folders. What a folder holds is its kind: the root's ``config.json`` says it, else the
folder's own, else the folder's name. Tests import `pytest_generate_tests` from here and take a ``folder``
argument, marked with the kind they read::

    from .parity_roots import Folder, of_kind, pytest_generate_tests  # noqa: F401

    @pytest.mark.parity
    @of_kind("segnet")
    def test_outputs_agree(folder: Folder) -> None: ...

The root is this project's own copy, or the one named by ``--parity-root``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

DEFAULT_ROOT = Path(__file__).parent / "fixtures" / "parity"

KNOWN_KINDS = frozenset(
    {
        "cifar_resnet18",
        "configs",
        "dataset",
        "k_schedule",
        "layouts",
        "lr",
        "mask_values",
        "metrics",
        "palettes",
        "pspnet50",
        "segnet",
        "sliding_window",
        "small_net",
        "temperature",
        "train_run",
        "transforms",
    }
)

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, eq=False)
class Folder:
    """One folder of recorded numbers; the same object for all tests, so that caches may hold it."""

    path: Path
    kind: str
    facts: dict[str, Any]
    """The folder's ``config.json``: sizes, steps, seeds, tolerances; empty where it has none."""

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

    @property
    def tolerance(self) -> Any:
        """The tolerances that the folder's ``config.json`` states."""
        return self.facts["tolerance"]

    @property
    def fill_prefix(self) -> str:
        """Prefix of every key in the weight filling rule; see `filling`."""
        return self.facts.get("fill_prefix", "")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


@lru_cache(maxsize=4)
def all_folders(root: Path) -> tuple[Folder, ...]:
    """Every folder of a root, sorted by name."""
    listed = _read(root / "config.json").get("folders", {})
    found = []
    for path in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
        facts = _read(path / "config.json")
        kind = listed.get(path.name, {}).get("kind") or facts.get("kind") or path.name
        found.append(Folder(path=path, kind=kind, facts=facts))
    return tuple(found)


def parity_root(config: pytest.Config) -> Path:
    """The root that this run reads: ``--parity-root``, else the project's own copy."""
    chosen = config.getoption("parity_root")
    return Path(chosen).resolve() if chosen else DEFAULT_ROOT


def of_kind(*kinds: str) -> Callable[[Test], Test]:
    """Mark a test to run once for each folder of these kinds, given as ``folder``."""
    unknown = set(kinds) - KNOWN_KINDS
    if unknown:
        raise ValueError(f"unknown kinds of recorded numbers: {sorted(unknown)}")

    def mark(test: Test) -> Test:
        test.parity_kinds = kinds  # type: ignore[attr-defined]
        return test

    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test marked by `of_kind` once a folder; a test module imports this name to take part."""
    kinds = getattr(metafunc.function, "parity_kinds", None)
    if kinds is None:
        return
    found = [folder for folder in all_folders(parity_root(metafunc.config)) if folder.kind in kinds]
    metafunc.parametrize("folder", found, ids=[folder.path.name for folder in found])
