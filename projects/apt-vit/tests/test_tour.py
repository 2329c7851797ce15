"""The tour: what `train` alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apt_vit import tour
from apt_vit.summary import CONSTANT, DROPPED, PLAIN
from apt_vit.train import main
from prunelab.util import read_json
from testing.mistakes import Fails

pytestmark = pytest.mark.tiny


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / tour.RESULTS)["rows"]


def test_a_cut_tour_writes_its_table_and_models_and_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    folder = tmp_path / "tour"
    words = ["--tour", "--output", str(folder), "--max-steps", "2", "--device", "cpu"]
    main(words)
    told = capsys.readouterr().out
    for name in (tour.RESULTS, "best"):
        assert (folder / name).exists(), name
        assert str(folder / name) in told
    assert any((folder / name).is_file() for name in tour.EXPORTED.values())
    constant, plain, dropped = rows_of(folder)
    assert [constant["model"], plain["model"], dropped["model"]] == [CONSTANT, PLAIN, DROPPED]
    assert dropped["MACs"] < 0.75 * plain["MACs"]
    assert told.startswith("train without arguments is the tour")
    assert told.count(CONSTANT) == 1  # one table, not one for the run and one for the tour
    for word in ("accuracy", "tokens", "MACs", "parameters", "file", "ms / picture", "next: uv run"):
        assert word in told
    assert str(folder) in fails(main, words, "--resume")
    main([*words, "--resume"])
    assert [row["accuracy"] for row in rows_of(folder)] == [
        row["accuracy"] for row in (constant, plain, dropped)
    ]


@pytest.mark.slow
def test_the_whole_tour_beats_the_best_constant_answer_with_fewer_tokens(tmp_path: Path) -> None:
    main(["--tour", "--output", str(tmp_path / "tour"), "--device", "cpu"])
    constant, plain, dropped = rows_of(tmp_path / "tour")
    assert constant["accuracy"] < 0.2
    assert plain["accuracy"] > constant["accuracy"] + 0.2
    assert dropped["accuracy"] > constant["accuracy"] + 0.2
    assert dropped["MACs"] < 0.75 * plain["MACs"]
