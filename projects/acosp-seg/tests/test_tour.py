"""The tour: what `train` alone does."""

from __future__ import annotations

from pathlib import Path

import pytest

from acosp_seg.train import main
from prunelab.util import read_json

ROWS = ["dense", "pruned", "pruned, compact"]


@pytest.mark.tiny
def test_a_cut_tour_writes_its_table_pages_and_models_and_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tour"
    main(["--tour", "--output", str(folder), "--max-steps", "2"])
    told = capsys.readouterr().out
    for name in ("tour.json", "predictions.png", "dense/best", "pruned/last", "compact"):
        assert (folder / name).exists(), name
    constant, *rows = read_json(folder / "tour.json")["rows"]
    assert constant["model"].startswith("best constant answer")
    assert [row["model"] for row in rows] == ROWS
    dense, pruned, compact = rows
    assert compact["parameters"] < pruned["parameters"] == dense["parameters"]
    assert compact["MACs"] < pruned["MACs"] == dense["MACs"]
    assert compact["mIoU"] == pytest.approx(pruned["mIoU"], abs=1e-3)
    assert "train without arguments is the tour" in told
    for word in ("mIoU", "MACs", "parameters", "ms / picture", "predictions.png", "next: uv run"):
        assert word in told
    with pytest.raises(SystemExit) as refused:
        main(["--tour", "--output", str(folder), "--max-steps", "2"])
    assert refused.value.code == 2
    main(["--tour", "--output", str(folder), "--max-steps", "2", "--resume"])
    assert [row["model"] for row in read_json(folder / "tour.json")["rows"][1:]] == ROWS


@pytest.mark.slow
@pytest.mark.tiny
def test_the_whole_tour_beats_the_best_constant_answer_many_times_dense_and_pruned(tmp_path: Path) -> None:
    main(["--tour", "--output", str(tmp_path / "tour")])
    constant, dense, pruned, compact = read_json(tmp_path / "tour" / "tour.json")["rows"]
    assert dense["mIoU"] > 5 * constant["mIoU"]
    assert pruned["mIoU"] > 5 * constant["mIoU"]
    assert compact["mIoU"] == pytest.approx(pruned["mIoU"], abs=1e-3)
    assert compact["parameters"] * 10 < dense["parameters"]
