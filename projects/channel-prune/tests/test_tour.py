"""The tour: what `train` alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from channel_prune import tour
from channel_prune.train import main
from prunelab.util import read_json
from testing.mistakes import Fails

ROWS = ["best constant answer", "dense", "pruned, before fine-tuning", "pruned", "slim"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / tour.RESULTS)["rows"]


@pytest.mark.tiny
def test_a_cut_tour_writes_its_table_and_models_and_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    folder = tmp_path / "tour"
    words = ["--tour", "--output", str(folder), "--max-steps", "2", "--device", "cpu"]
    main(words)
    told = capsys.readouterr().out
    for name in ("tour.json", "dense/last", "dense/best", "pruned/chosen", "pruned/last", "pruned/slim"):
        assert (folder / name).exists(), name
        assert (name in told) or name in ("dense/best", "pruned/chosen")
    rows = rows_of(folder)
    assert [row["model"] for row in rows] == ROWS
    _, dense, before, pruned, slim = rows
    assert slim["parameters"] < pruned["parameters"] == before["parameters"] == dense["parameters"]
    assert slim["MACs"] < pruned["MACs"] == dense["MACs"]
    assert slim["file"] < pruned["file"]
    assert slim["accuracy"] == pytest.approx(pruned["accuracy"], abs=0.004)
    assert told.startswith("train without arguments is the tour")
    assert told.count("best constant answer") == 1  # one table, not one for each run
    for word in ("accuracy", "MACs", "parameters", "file", "ms / picture", "layer 10/10", "next: uv run"):
        assert word in told
    assert str(folder) in fails(main, words, "--resume")
    main([*words, "--resume"])
    assert [row["accuracy"] for row in rows_of(folder)] == [row["accuracy"] for row in rows]


@pytest.mark.slow
@pytest.mark.tiny
def test_the_whole_tour_beats_the_best_constant_answer_by_far_full_pruned_and_slim(tmp_path: Path) -> None:
    main(["--tour", "--output", str(tmp_path / "tour"), "--device", "cpu"])
    constant, dense, before, pruned, slim = rows_of(tmp_path / "tour")
    assert constant["accuracy"] < 0.2
    assert dense["accuracy"] > constant["accuracy"] + 0.7
    assert pruned["accuracy"] > constant["accuracy"] + 0.7
    assert slim["accuracy"] == pytest.approx(pruned["accuracy"], abs=0.004)
    assert before["accuracy"] > constant["accuracy"] + 0.2
    assert 2 * slim["parameters"] < dense["parameters"]
    assert 2 * slim["MACs"] < dense["MACs"]
