"""Where data, networks and runs lie, and which of them a command finds by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apt_vit.layout import newest_model, place, run_config, run_folder
from apt_vit.lowering import run_base
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError

from .commands import typed

pytestmark = pytest.mark.usefixtures("alone")


def model(folder: Path, age: float) -> Path:
    """A model folder, as far as its place counts, that was written so many seconds after another."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (1e9 + age, 1e9 + age))
    return folder


def test_the_newest_model_is_that_of_the_last_tour_or_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained model in runs and output: run `train` first"):
        newest_model()
    model(Path("runs/tour-001/run/best"), 1)
    of_run = model(Path("output/mine/best"), 3)
    model(Path("runs/pets/best"), 2)
    assert newest_model() == of_run
    model(Path("output/mine/last"), 9)
    assert newest_model() == of_run


def test_the_newest_model_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "mine"))
    assert run_folder(typed("--name x")) == tmp_path / "mine/output/x"
    found = model(tmp_path / "mine/output/x/best", 1)
    assert newest_model() == found


def test_a_path_of_the_original_starts_in_the_folder_of_runs_unless_it_is_here_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert place("output") == Path("output")
    monkeypatch.setenv("PRUNELAB_RUNS", "mine")
    assert place("output") == Path("mine/output")
    assert place(tmp_path / "output") == tmp_path / "output"
    Path("output").mkdir()
    assert place("output") == Path("output")
    Path("mine/output").mkdir(parents=True)
    assert place("output") == Path("mine/output")


def test_a_model_in_a_run_has_the_configuration_of_the_run() -> None:
    best, cfg = model(Path("output/mine/best"), 1), typed("--name mine --img_size 32")
    assert run_config(best) is None
    assert run_base(best) is None
    (best.parent / "config.yaml").write_text(yaml_text(to_plain(cfg)))
    assert run_base(best) == run_base(best.parent) == cfg
    (best.parent / "config.yaml").write_text("model: {img_sizes: [3, 3]}")
    with pytest.raises(UserError, match="img_size"):
        run_base(best)
