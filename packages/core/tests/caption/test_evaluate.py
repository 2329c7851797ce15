"""Whole evaluations, and the two metrics that run in Java: real, faked, missing, slow."""

import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest

from prunelab.caption.evaluate import FAST, METRICS, evaluate, metric_names
from prunelab.caption.java import Unavailable
from prunelab.caption.meteor import meteor
from prunelab.caption.spice import spice
from prunelab.errors import UserError

REFS = {7: ["A man rides a horse.", "A person on a horse!"], 3: ["Two dogs play in the park."]}
PREDS = {3: "Two cats in a park.", 7: "A man on a horse."}


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_names_and_order_of_the_scores():
    scores = evaluate(REFS, PREDS)
    assert list(scores.overall) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert [list(row) for row in scores.per_image] == [["image_id", *scores.overall]] * 2
    assert [row["image_id"] for row in scores.per_image] == [3, 7]
    assert scores.overall["CIDEr"] == pytest.approx(sum(row["CIDEr"] for row in scores.per_image) / 2)
    assert json.loads(json.dumps(scores.per_image)) == scores.per_image


def test_captions_are_tokenised_unless_they_are_already():
    cut = evaluate(REFS, {3: "TWO dogs, play: in the park", 7: "a man rides a horse"}).overall
    assert cut["ROUGE_L"] == pytest.approx(1.0)
    raw = evaluate(REFS, {3: "TWO dogs, play: in the park", 7: "a man rides a horse"}, tokenize=False).overall
    assert raw["ROUGE_L"] < 0.9


def test_metrics_are_named_in_any_case():
    assert metric_names(["cider", "bleu", "Rouge"]) == ("BLEU", "ROUGE_L", "CIDEr")
    assert metric_names(["Bleu_4"]) == ("BLEU",)
    assert metric_names(["ALL"]) == METRICS
    assert set(FAST) < set(METRICS)
    assert list(evaluate(REFS, PREDS, ["CIDEr"]).overall) == ["CIDEr"]


@pytest.mark.parametrize(
    ("names", "text"), [(["CIDER-X"], "metric 'CIDER-X' is unknown"), ([], "no metric named")]
)
def test_unknown_metrics_are_one_line(names, text):
    with pytest.raises(UserError, match=text):
        evaluate(REFS, PREDS, names)


def test_predictions_without_references_are_one_line():
    with pytest.raises(UserError, match=r"1 of 3 predictions have no references \(image_id 9\)"):
        evaluate(REFS, {**PREDS, 9: "x"})
    with pytest.raises(UserError, match="no predictions"):
        evaluate(REFS, {})


def test_references_without_predictions_are_one_line_unless_a_subset_is_wanted():
    with pytest.raises(UserError, match=r"1 of 2 images with references have no prediction \(image_id 7\)"):
        evaluate(REFS, {3: "x"})
    assert len(evaluate(REFS, {3: "x"}, subset=True).per_image) == 1


def test_a_metric_that_cannot_run_is_an_error_or_a_note(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="METEOR needs Java"):
        evaluate(REFS, PREDS, ["METEOR", "CIDEr"])
    scores = evaluate(REFS, PREDS, ["METEOR", "CIDEr", "SPICE"], skip_unavailable=True)
    assert list(scores.overall) == ["CIDEr"]
    assert set(scores.unavailable) == {"METEOR", "SPICE"}


def test_java_that_fails_is_one_line(monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, 'echo "no memory left" >&2; exit 3')
    with pytest.raises(Unavailable, match="METEOR: Java ended without a score: no memory left"):
        meteor([["a"]], ["a"])


def test_java_that_never_answers_is_ended(monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, "exec sleep 60")
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"no result from Java within 0\.3 seconds"):
        meteor([["a"]] * 3, ["a"] * 3, timeout=0.3)
    assert time.monotonic() - start < 20


def test_java_that_answers_nonsense_is_one_line(monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, "while read line; do echo word; done")
    with pytest.raises(Unavailable, match="METEOR: Java ended without a score"):
        meteor([["a"]], ["a"])


def test_a_thousand_answers_do_not_fill_the_pipes(monkeypatch, tmp_path):
    count = 3000
    fake_java(
        tmp_path,
        monkeypatch,
        'while read -r line; do case "$line" in SCORE*) echo "1 2 3";; EVAL*) '
        f"i=0; while [ $i -le {count} ]; do echo 0.25; i=$((i+1)); done;; esac; done",
    )
    score, each = meteor([["long reference " * 20]] * count, ["caption ||| with a\nmark"] * count)
    assert score == 0.25
    assert each == [0.25] * count


@pytest.fixture
def spice_folder(tmp_path, monkeypatch):
    folder = tmp_path / "spice"
    (folder / "lib").mkdir(parents=True)
    for name in ("spice-1.0.jar", "lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"):
        (folder / name).touch()
    monkeypatch.setattr("prunelab.caption.spice.find_folder", lambda metric, part: folder)
    return folder


def scores_script(records: str) -> str:
    return f'while [ "$1" != -out ]; do shift; done; cat > "$2" <<END\n{records}\nEND'


def test_spice_reads_the_scores_that_the_program_wrote(spice_folder, monkeypatch, tmp_path):
    records = (
        '[{"image_id": 1, "scores": {"All": {"f": 0.5}}}, {"image_id": 0, "scores": {"All": {"f": 0.25}}}]'
    )
    fake_java(tmp_path, monkeypatch, scores_script(records))
    assert spice([["a"], ["b"]], ["a", "b"]) == (0.375, [0.25, 0.5])


def test_spice_without_a_score_for_a_caption_is_not_a_number(spice_folder, monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, scores_script('[{"image_id": 0, "scores": {"All": {"f": null}}}]'))
    overall, each = spice([["a"]], ["a"])
    assert math.isnan(overall)
    assert math.isnan(each[0])
    assert evaluate({1: ["a"]}, {1: "a"}, ["SPICE"]).per_image == [{"image_id": 1, "SPICE": None}]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("exit 0", "wrote no usable scores"),
        ('echo "Error: heap" >&2; exit 1', "SPICE: Java ended with code 1: Error: heap"),
        ("exec sleep 60", r"SPICE: no result from Java within 0\.3 seconds"),
    ],
)
def test_spice_that_fails_is_one_line(spice_folder, monkeypatch, tmp_path, script, text):
    fake_java(tmp_path, monkeypatch, script)
    with pytest.raises(Unavailable, match=text):
        spice([["a"]], ["a"], timeout=0.3 if "sleep" in script else 60)


def test_spice_without_its_models_names_the_files(monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, "exit 0")
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    (tmp_path / "spice" / "spice-1.0.jar").touch()
    monkeypatch.setattr("prunelab.caption.spice.find_folder", lambda metric, part: tmp_path / "spice")
    with pytest.raises(
        Unavailable, match=r"SPICE needs lib/stanford-corenlp-3\.6\.0\.jar, lib/.*models\.jar"
    ):
        spice([["a"]], ["a"])


@pytest.mark.java
def test_meteor_gives_the_scores_of_pycocoevalcap():
    if shutil.which("java") is None:
        pytest.skip("needs Java: no 'java' in PATH")
    references = [["a man rides a horse", "a person on a horse"], ["two dogs play in the park"], ["x"]]
    overall, each = meteor(references, ["a man on a horse", "two cats in a park", ""])
    # What pycocoevalcap 1.2 prints for these captions.
    assert overall == pytest.approx(0.28086549673826205, abs=1e-12)
    assert each == pytest.approx([0.8666666666666667, 0.17316017316017318, 0.0], abs=1e-12)
