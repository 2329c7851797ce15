"""Captions of a whole split: each picture once, files of captions and scores, the best constant caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prunelab.caption.evaluate import evaluate as score
from prunelab.caption.split import SCORE_COLUMNS, Evaluator, best_constant_caption
from prunelab.caption.tokenizer import tokenize
from prunelab.errors import UserError

REFERENCES = {
    4: ["A red cat sits.", "the cat sits"],
    2: ["A blue dog runs away."],
    7: ["Two men walk in a park.", "men in a park"],
}
SAID = {4: "a red cat", 2: "a dog runs away", 7: "two men"}


def say(model: dict[int, str], batch: list[int]) -> Iterator[tuple[int, str]]:
    """Stands for a captioner."""
    assert torch.is_inference_mode_enabled()
    for picture in batch:
        yield picture, model[picture]


def evaluator(references: dict[int, list[str]] = REFERENCES, **options: object) -> Evaluator[dict[int, str]]:
    return Evaluator("val", [[7, 2], [4]], references, say, **options)  # type: ignore[arg-type]


def test_scores_are_those_of_the_captions_against_the_sentences_as_written() -> None:
    found = evaluator()
    wanted = score(REFERENCES, SAID).overall
    assert dict(found.run(SAID)) == {f"val/{name}": pytest.approx(value) for name, value in wanted.items()}
    assert list(found.predictions) == [2, 4, 7]
    assert found.predictions == SAID


def test_some_metrics_and_some_batches_can_be_asked_for() -> None:
    found = evaluator(metrics=("CIDEr",), max_batches=1)
    assert list(dict(found.run(SAID))) == ["val/CIDEr"]
    assert list(found.predictions) == [2, 7]


def test_a_metric_that_needs_a_missing_java_is_left_out_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match="METEOR"):
        dict(evaluator(metrics=("METEOR", "CIDEr")).run(SAID))
    found = evaluator(metrics=("METEOR", "CIDEr"), skip_unavailable=True)
    assert list(dict(found.run(SAID))) == ["val/CIDEr"]
    assert found.scores is not None
    assert list(found.scores.unavailable) == ["METEOR"]


def test_files_are_named_by_the_step_and_one_that_comes_again_replaces_its_line(tmp_path: Path) -> None:
    found = evaluator()
    list(found.run(SAID))
    for step in (7, 12, 7):
        found.write(tmp_path, step)
    names = {f"{kind}_{step:08d}" for kind in ("caption", "score") for step in (7, 12)}
    assert {path.stem.removesuffix("_detailed") for path in tmp_path.glob("*.json")} == names
    captions = json.loads((tmp_path / "caption_00000007.json").read_text())
    assert {entry["image_id"]: entry["caption"] for entry in captions} == found.predictions
    assert found.scores is not None
    assert json.loads((tmp_path / "score_00000007.json").read_text()) == dict(found.scores.overall)
    detailed = json.loads((tmp_path / "score_00000012_detailed.json").read_text())
    assert len(detailed) == len(found.predictions)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Step"] for row in rows] == ["12", "7"]
    assert tuple(rows[0])[1:] == SCORE_COLUMNS
    assert rows[0]["CIDEr"] == f"{found.scores.overall['CIDEr']:.3f}"
    assert rows[0]["METEOR"] == ""


def test_pictures_without_captions_are_captioned_and_not_scored(tmp_path: Path) -> None:
    found = evaluator({})
    assert list(found.run(SAID)) == []
    assert found.predictions == SAID
    found.write(tmp_path / "test2014", 3)
    assert [path.name for path in (tmp_path / "test2014").iterdir()] == ["caption_00000003.json"]


def test_a_split_of_which_some_pictures_have_captions_is_refused() -> None:
    with pytest.raises(UserError, match="1 of 3 predictions have no references"):
        list(evaluator({**REFERENCES, 2: []}).run(SAID))


def test_the_best_constant_caption_is_the_one_that_a_search_through_all_finds() -> None:
    sentences = [
        ["A red cat sits.", "A cat sits on a mat.", "a cat"],
        ["A blue dog runs.", "The dog runs in a park."],
        ["A cat runs.", "A red cat runs in a park."],
        ["Two men walk.", "A man walks in a park."],
        ["A cat sits.", "The red cat sits in a park."],
        ["A dog sits on a mat."],
    ]
    train = dict(enumerate(sentences))
    test = {10: ["A red cat sits in a park."], 11: ["A dog walks."]}
    candidates = sorted({caption for each in sentences for caption in tokenize(each)})
    means = {}
    for caption in candidates:
        said = dict.fromkeys(train, caption)
        means[caption] = score(train, said, metrics=("CIDEr",)).overall["CIDEr"]
    best = max(candidates, key=lambda caption: (means[caption], caption))
    found, scores = best_constant_caption(train, test)
    assert means[found] == pytest.approx(means[best])
    assert sorted(means.values())[-2] < means[best] - 1e-6
    assert found == best
    assert scores["CIDEr"] == score(test, dict.fromkeys(test, best), metrics=("CIDEr",)).overall["CIDEr"]
