"""Where runs lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prunelab.doors import newest_model, runs_root


def test_runs_lie_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", "/somewhere")
    assert runs_root() == Path("/somewhere")
    for value in ("", None):
        monkeypatch.delenv("PRUNELAB_RUNS") if value is None else monkeypatch.setenv("PRUNELAB_RUNS", value)
        assert runs_root() == Path("runs")


def test_the_newest_model_is_found_in_runs_stages_and_tours(tmp_path: Path) -> None:
    assert newest_model(tmp_path / "nowhere", tmp_path) is None
    for age, place in enumerate(("a/b/c/best", "a/best", "a/slim", "a/b/c/d/best")):
        file = tmp_path / place / "config.json"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert newest_model(tmp_path) == tmp_path / "a/b/c/best"
    assert newest_model(tmp_path / "a", tmp_path) == tmp_path / "a/b/c/best"
    assert newest_model(tmp_path, kind="slim") == tmp_path / "a/slim"
