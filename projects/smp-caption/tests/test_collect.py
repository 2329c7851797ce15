"""Scores and captions of many runs, gathered."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prunelab.errors import UserError
from smp_caption import collect
from smp_caption.captioner import Captioner
from smp_caption.collect import facts, training_captions, weights_of
from smp_caption.options import CollectCaptionsOptions, CollectScoresOptions


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def evaluation(run: Path, name: str, captions: dict[int, str], cider: dict[int, float] | None = None) -> Path:
    """Write a folder of captions as an evaluation leaves it."""
    folder = run / name
    folder.mkdir(parents=True)
    rows = [{"image_id": picture, "caption": caption} for picture, caption in captions.items()]
    (folder / "caption_00000007.json").write_text(json.dumps(rows))
    if cider is not None:
        each = [{"image_id": picture, "CIDEr": score} for picture, score in cider.items()]
        (folder / "score_00000007_detailed.json").write_text(json.dumps(each))
        mean = sum(cider.values()) / len(cider)
        (folder / "scores.csv").write_text(f"Step,CIDEr\n7,{mean:.3f}\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path, finished: Callable[[str, str], Path]) -> Path:
    """A folder with a dense and a pruned run."""
    for kind in ("dense", "pruned"):
        shutil.copytree(finished(kind, "fixed"), tmp_path / "runs" / kind)
    return tmp_path / "runs"


def test_captions_are_described_by_what_is_unique_new_and_long() -> None:
    said = facts(["a dog runs", "a  dog runs", "a cat"], frozenset({"a dog runs", "a bird"}))
    assert (said.captions, said.vocabulary) == (3, 4)
    assert said.unique == pytest.approx(2 / 3)
    assert said.novel == pytest.approx(1 / 3)
    assert said.length == pytest.approx(8 / 3)
    assert facts([], None).novel is None


def test_scores_of_runs_are_gathered_in_a_table_for_each_kind_of_model(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = collect.collect_scores(CollectScoresOptions(log_dir=str(runs), output=str(runs / "new")))
    assert [path.name for path in written] == [
        "scores_up_down_lstm.csv",
        "scores_up_down_lstm_prune.csv",
    ]
    dense, pruned = (table(path) for path in written)
    assert {row["run"] for row in dense} == {"dense"}
    assert {row["evaluation"] for row in pruned} == {"val_beam_1", "test_beam_2"}
    scores = table(runs / "pruned/test_beam_2/scores.csv")[-1]
    [test] = [row for row in pruned if row["evaluation"] == "test_beam_2"]
    assert test["CIDEr"] == str(float(scores["CIDEr"]))
    assert (test["method"], test["target"]) == ("supermask", "0.6")
    assert float(test["sparsity"]) == pytest.approx(0.6, abs=0.05)
    assert int(test["parameters"]) < int(dense[0]["parameters"])
    assert (test["captions"], test["METEOR"]) == ("5", "")
    assert 0 < float(test["unique"]) <= 1
    assert 0 <= float(test["novel"]) <= 1
    assert "the best of each" in capsys.readouterr().out


def test_weights_are_counted_without_the_pruned_ones(runs: Path) -> None:
    dense, pruned = weights_of(runs / "dense"), weights_of(runs / "pruned")
    assert dense is not None
    assert pruned is not None
    assert pruned.masks is not None
    assert dense.masks is None
    assert dense.sparsity == 0
    assert dense.parameters - pruned.parameters == pruned.masks.size - pruned.masks.nnz
    model = Captioner.from_pretrained(runs / "dense/best").model
    assert dense.parameters == sum(value.numel() for value in model.parameters())
    assert weights_of(runs) is None


def test_a_folder_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run with scores"):
        collect.collect_scores(CollectScoresOptions(log_dir=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        collect.collect_scores(CollectScoresOptions(log_dir=str(tmp_path / "none")))
    folder = evaluation(tmp_path / "runs" / "one", "test_beam_2", {1: "a"}, {1: 1.0})
    (folder / "scores.csv").write_text("CIDEr\n1.0\n")
    with pytest.raises(UserError, match="first column is Step"):
        collect.collect_scores(CollectScoresOptions(log_dir=str(tmp_path / "runs")))


def test_training_captions_are_those_of_the_run_that_one_started_from(tmp_path: Path, runs: Path) -> None:
    first = training_captions(runs / "dense")
    assert first is not None
    later = tmp_path / "later"
    (later / "tokenizer").mkdir(parents=True)
    (later / "config.yaml").write_text(f"run:\n  start_from: {runs / 'dense/best'}\n")
    assert training_captions(later) == first
    assert training_captions(tmp_path / "none") is None


def test_captions_of_runs_stand_side_by_side_the_most_different_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation(tmp_path / "a", "test_beam_2", {1: "a dog", 2: "a cat", 3: "x"}, {1: 1.0, 2: 0.5})
    evaluation(tmp_path / "b", "test_beam_2", {2: "a cow", 1: "a dog"}, {1: 0.9, 2: 2.0})
    places = (str(tmp_path / "a"), str(tmp_path / "b" / "test_beam_2"))
    path = collect.collect_captions(
        CollectCaptionsOptions(runs=places, output=str(tmp_path / "new/table.csv"))
    )
    assert table(path) == [
        {"image_id": "2", "a": "a cat", "test_beam_2": "a cow", "a CIDEr": "0.5", "test_beam_2 CIDEr": "2.0"},
        {"image_id": "1", "a": "a dog", "test_beam_2": "a dog", "a CIDEr": "1.0", "test_beam_2 CIDEr": "0.9"},
    ]
    shown = capsys.readouterr().out
    assert shown.startswith("picture 2\n  a: a cat  (0.50)\n")
    assert "say the same of 1 of 2 pictures" in shown
    assert "mean CIDEr 0.750" in shown


def test_runs_whose_captions_cannot_be_compared_are_named(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "test_beam_2", {1: "a dog"})
    evaluation(tmp_path / "a", "test_beam_5", {1: "a dog"})
    evaluation(tmp_path / "b", "test_beam_2", {2: "a dog"})

    def compare(*runs: str, which: str = "test_beam_2") -> Path:
        places = tuple(str(tmp_path / run) for run in runs)
        options = CollectCaptionsOptions(runs=places, evaluation=which, output=str(tmp_path / "t.csv"))
        return collect.collect_captions(options)

    with pytest.raises(UserError, match="found test_beam_2, test_beam_5"):
        compare("a", which="test")
    with pytest.raises(UserError, match="found none"):
        compare("a", which="val")
    with pytest.raises(UserError, match="no picture has captions of all"):
        compare("a", "b")
    with pytest.raises(UserError, match="named twice"):
        compare("a", "a")
    assert table(compare("a"))[0]["a"] == "a dog"


def test_names_of_runs_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    for name in ("one/model", "two/model"):
        evaluation(tmp_path / name, "val_beam_1", {1: name})
    places = (str(tmp_path / "one/model"), str(tmp_path / "two/model"))
    options = CollectCaptionsOptions(runs=places, evaluation="val", output=str(tmp_path / "t.csv"))
    assert list(table(collect.collect_captions(options))[0])[1:3] == ["one/model", "two/model"]
