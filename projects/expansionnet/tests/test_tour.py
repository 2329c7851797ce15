"""The tour: what `train` alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expansionnet import tour
from expansionnet.train import main
from prunelab.util import read_json
from testing.mistakes import Fails

ROWS = [
    "best constant caption",
    "cross entropy",
    "after SCST",
    "pictures at once, prefixes read again",
    "pictures at once, incremental",
]


def figures(folder: Path) -> dict[str, Any]:
    return read_json(folder / tour.RESULTS)


@pytest.mark.tiny
def test_a_cut_tour_writes_its_tables_page_and_models_and_names_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    monkeypatch.setattr("expansionnet.data.TINY", (32, 8, 8))
    monkeypatch.setattr(tour, "has_onnx", lambda: False)  # graphs have tests of their own
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tour"
    words = ["--tour", "--output", str(folder), "--max-steps", "2", "--device", "cpu"]
    main(words)
    told = capsys.readouterr().out
    for name in (
        "tour.json",
        "captions.html",
        "captions.png",
        "features.hdf5",
        "exported.pth",
        "end_to_end_xe/best/config.json",
        "rf/best/backbone.safetensors",
        "rf/tested/test_beam_3",
    ):
        assert (folder / name).exists(), name
    found = figures(folder)
    assert [row["model"] for row in found["rows"]] == ROWS
    assert [row["ms / caption"] > 0 for row in found["rows"][1:]] == [True] * 4
    assert told.startswith("train without arguments is the tour")
    assert told.count("best constant caption") == 1  # one table, not one for each run
    for word in ("CIDEr", "parameters", "ms / caption", "captions.html", "whole tour", "next: uv run"):
        assert word in told
    assert str(folder) in fails(main, words, "--resume")
    main([*words, "--resume"])
    again = capsys.readouterr().out
    assert "since it was resumed" in again
    assert [row.get("CIDEr") for row in figures(folder)["rows"]] == [r.get("CIDEr") for r in found["rows"]]


@pytest.mark.slow
@pytest.mark.tiny
def test_the_whole_tour_beats_the_best_constant_caption_by_far_also_after_training_by_reward(
    tmp_path: Path,
) -> None:
    main(["--tour", "--output", str(tmp_path / "tour"), "--device", "cpu"])
    constant, trained, rewarded, again, incremental = figures(tmp_path / "tour")["rows"]
    assert trained["CIDEr"] > 1.3 * constant["CIDEr"]
    assert rewarded["CIDEr"] > 1.3 * constant["CIDEr"] + 0.2
    assert rewarded["CIDEr"] > trained["CIDEr"] + 0.05
    for row in (trained, rewarded):
        assert row["Bleu_4"] > 2 * constant["Bleu_4"]
    assert set(again) == set(incremental) == {"model", "reads", "ms / caption"}
    assert (tmp_path / "tour/exported.onnx/step.onnx").is_file()
