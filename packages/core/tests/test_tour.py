from __future__ import annotations

from pathlib import Path

import pytest

from prunelab import tour
from prunelab.errors import UserError
from prunelab.report import result_table


def test_a_tour_says_what_it_does_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tour.begin_tour("two networks on embedded pictures", tmp_path)
    assert first == tmp_path / "tour-001"
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("train without arguments is the tour: two networks on embedded pictures, about ")
    assert said.endswith(f"Folder: {first}\n")
    first.mkdir()
    assert tour.begin_tour("x", tmp_path) == tmp_path / "tour-002"
    assert tour.begin_tour("x", tmp_path, resume=True) == first
    assert tour.begin_tour("x", tmp_path, "mine") == Path("mine")


def test_a_tour_to_go_on_with_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tour to go on with"):
        tour.begin_tour("x", tmp_path, resume=True)


def test_a_tour_ends_with_table_places_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    table = result_table("scores", ["model", "score"], [["dense", 0.5]], formats={"score": ".2f"})
    tour.end_tour(table, [("table", Path("tour.json")), ("model", Path("last"))], "demo a.png")
    said = capsys.readouterr().out.splitlines()
    assert "scores" in said[1]
    assert said[-4:] == ["", "table: tour.json", "model: last", "next: demo a.png"]
