"""Finding the folders of recorded numbers: their kinds, where they lie, which wait for later model families.

A root is a folder of folders. What a folder holds is its kind; models of a kind differ by
``caption_model``. Tests import `pytest_generate_tests` from here and take a ``folder`` argument, marked
with the kind they read::

    from .parity_roots import Folder, of_kind, pytest_generate_tests  # noqa: F401

    @pytest.mark.parity
    @of_kind("dense", "up_down_lstm")
    def test_log_probs_agree(folder: Folder) -> None: ...

The root is this project's own copy, or the one named by ``--parity-root``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

DEFAULT_ROOT = Path(__file__).parent / "fixtures" / "parity"

KNOWN_KINDS = frozenset(
    {
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
)

# (kind, caption_model or None) of the folders that no test reads yet, with the reason; empty in the end.
NOT_YET_COVERED: dict[tuple[str, str | None], str] = {
    ("dense", "relation_transformer"): "other model families",
    ("dense", "transformer"): "other model families",
    ("pruned", "relation_transformer_prune"): "other model families",
    ("pruning_methods", None): "other pruning methods",
    ("scst", None): "self-critical training",
    ("data", None): "data preparation of the other model families",
}

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of recorded numbers."""

    path: Path
    kind: str
    caption_model: str | None
    """The model's name where the folder is about one model."""
    facts: dict[str, Any]
    """Sizes, steps, seeds, tolerances and file names, as the folder states them."""

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

    def arrays(self, pattern: str) -> dict[str, torch.Tensor]:
        """Arrays of the one npz file that matches, as tensors."""
        with np.load(self.file(pattern)) as archive:
            return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}

    def weights(self, pattern: str) -> dict[str, Any]:
        """Content of the one torch file that matches."""
        return torch.load(self.file(pattern), weights_only=True)

    @property
    def tolerance(self) -> Any:
        """The tolerances that the folder states: a number or a mapping."""
        return self.facts["tolerance"]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _folder(path: Path, listed: dict[str, Any]) -> Folder:
    """Read what a folder is: the root's list says it, else its own JSON, else its name."""
    config = _read(path / "config.json")
    setup = _read(path / "expected.json").get("setup", {})
    kind = listed.get("kind") or config.get("kind") or setup.get("kind") or path.name
    model = listed.get("caption_model")
    if model is None and kind in {"dense", "pruned"}:
        model = setup.get("caption_model") or config.get("caption_model")
    return Folder(path=path, kind=kind, caption_model=model, facts=setup or config)


def all_folders(root: Path) -> list[Folder]:
    """Every folder of a root, sorted by name."""
    listed = _read(root / "config.json").get("folders", {})
    paths = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return [_folder(path, listed.get(path.name, {})) for path in paths]


def folders(root: Path, kind: str, caption_model: str | None = None) -> list[Folder]:
    """Folders of a kind, and of a model where one is named."""
    return [
        folder
        for folder in all_folders(root)
        if folder.kind == kind and (caption_model is None or folder.caption_model == caption_model)
    ]


def parity_root(config: pytest.Config) -> Path:
    """The root that this run reads: ``--parity-root``, else the project's own copy."""
    chosen = config.getoption("parity_root")
    return Path(chosen).resolve() if chosen else DEFAULT_ROOT


def not_yet_covered(folder: Folder) -> str | None:
    """Why no test reads this folder, or None where tests do."""
    by_model = NOT_YET_COVERED.get((folder.kind, folder.caption_model))
    return by_model or NOT_YET_COVERED.get((folder.kind, None))


def of_kind(*kinds: str, model: str | tuple[str, ...] | None = None) -> Callable[[Test], Test]:
    """Mark a test to run once for each folder of these kinds (and of these models), given as ``folder``."""
    models = (model,) if isinstance(model, str) else model

    def mark(test: Test) -> Test:
        test.parity_folders = (kinds, models)  # type: ignore[attr-defined]
        return test

    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test marked by `of_kind` once a folder; a test module imports this name to take part."""
    wanted = getattr(metafunc.function, "parity_folders", None)
    if wanted is None:
        return
    kinds, models = wanted
    found = [
        folder
        for folder in all_folders(parity_root(metafunc.config))
        if folder.kind in kinds and (models is None or folder.caption_model in models)
    ]
    metafunc.parametrize("folder", found, ids=[folder.path.name for folder in found])
