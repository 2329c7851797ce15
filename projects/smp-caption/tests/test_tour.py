"""The tour: what `train` alone does."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.util import read_json
from smp_caption.train import main

ROWS = ["best constant caption", "dense", "pruned"]


@pytest.mark.tiny
def test_a_cut_tour_writes_its_table_pages_and_models_and_names_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("smp_caption.data.TINY", (32, 8, 8))
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path / "cache"))
    main(["--tour", "--output", str(tmp_path / "tour"), "--max-steps", "2"])
    told = capsys.readouterr().out
    for name in (
        "tour.json",
        "captions.html",
        "captions.png",
        "dense/best",
        "pruned/last",
        "pruned/pruned.pack",
    ):
        assert (tmp_path / "tour" / name).exists(), name
    assert [row["model"] for row in read_json(tmp_path / "tour" / "tour.json")["rows"]] == ROWS
    assert "train without arguments is the tour" in told
    # The other commands that it names are whole: they are right up to their first step.
    named = [line.partition(" train ")[2] for line in told.splitlines() if line.startswith("next: ")]
    for words in filter(None, named):
        main([*words.split(), "--max-steps", "1"])
    for name in ("ort", "rewards"):
        assert (tmp_path / "tour" / name / "last").is_dir()
    for word in ("CIDEr", "sparsity", "parameters", "ms / picture", "captions.html", "next: uv run"):
        assert word in told
    with pytest.raises(SystemExit) as refused:
        main(["--tour", "--output", str(tmp_path / "tour"), "--max-steps", "2"])
    assert refused.value.code == 2
    assert "whole tour" in told
    main(["--tour", "--output", str(tmp_path / "tour"), "--max-steps", "2", "--resume"])
    again = capsys.readouterr().out
    assert "since it was resumed" in again
    assert "whole tour" not in again
    assert [row["model"] for row in read_json(tmp_path / "tour" / "tour.json")["rows"]] == ROWS


@pytest.mark.slow
@pytest.mark.tiny
def test_the_whole_tour_beats_the_best_constant_caption_by_half_dense_and_at_95_percent(
    tmp_path: Path,
) -> None:
    main(["--tour", "--output", str(tmp_path / "tour")])
    constant, dense, pruned = read_json(tmp_path / "tour" / "tour.json")["rows"]
    assert dense["CIDEr"] > 1.5 * constant["CIDEr"]
    assert pruned["CIDEr"] > 1.5 * constant["CIDEr"]
    assert pruned["sparsity"] == pytest.approx(0.95, abs=0.003)
