"""Evaluation: every picture once, files under the original's names, the best constant caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunelab.caption.evaluate import evaluate as score
from prunelab.caption.tokenizer import tokenize
from smp_caption.captioner import Captioner
from smp_caption.data import CaptionData, open_data
from smp_caption.evaluate import SCORE_COLUMNS, Evaluator, best_constant_caption, decode_options
from smp_caption.original import run_config


@pytest.fixture(scope="module")
def trained(finished: Callable[[str, str], Path]) -> tuple[Captioner, CaptionData]:
    run = finished("dense", "fixed")
    return Captioner.from_pretrained(run / "best"), open_data(run_config(run))


def evaluator(
    captioner: Captioner,
    data: CaptionData,
    split: str = "test",
    *,
    rank: int = 0,
    world: int = 1,
    **options: object,
) -> Evaluator:
    return Evaluator(
        split,
        data.loader(split, captioner.tokenizer, rank=rank, world_size=world),
        data.references(split),
        captioner.tokenizer,
        decode_options(captioner.config, captioner.decode, 2),
        device=torch.device("cpu"),
        **options,
    )


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_every_picture_is_captioned_exactly_once_and_the_same_for_any_number_of_processes(
    batch: int, count: int, world: int, trained: tuple[Captioner, CaptionData]
) -> None:
    captioner, data = trained
    cfg = replace(data.cfg, data=replace(data.cfg.data, batch_size_eval=batch))
    some = CaptionData(cfg, {**data.records, "test": data.records["test"][:count]}, data.sources)
    parts = [
        list(evaluator(captioner, some, rank=rank, world=world).caption(captioner.model))
        for rank in range(world)
    ]
    pairs = [pair for part in parts for pair in part]
    assert sorted(image_id for image_id, _ in pairs) == [17, 18, 19, 20, 21][:count]
    alone = dict(evaluator(captioner, data).caption(captioner.model))
    assert dict(pairs) == {image_id: alone[image_id] for image_id, _ in pairs}


def test_scores_are_those_of_the_captions_against_the_sentences_as_written(
    trained: tuple[Captioner, CaptionData],
) -> None:
    captioner, data = trained
    found = evaluator(captioner, data)
    scores = dict(found.run(captioner.model))
    references = {key: list(value) for key, value in data.references("test").items()}
    wanted = score(references, found.predictions, metrics=("BLEU", "ROUGE_L", "CIDEr")).overall
    assert scores == {f"test/{name}": pytest.approx(value) for name, value in wanted.items()}
    assert list(found.predictions) == sorted(found.predictions)
    again = evaluator(captioner, data, metrics=("CIDEr",), max_batches=1)
    assert list(dict(again.run(captioner.model))) == ["test/CIDEr"]
    assert len(again.predictions) == 2


def test_files_have_the_originals_names_and_a_step_that_comes_again_replaces_its_line(
    trained: tuple[Captioner, CaptionData], tmp_path: Path
) -> None:
    captioner, data = trained
    found = evaluator(captioner, data, "val")
    list(found.run(captioner.model))
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


def test_pictures_without_captions_are_captioned_and_not_scored(
    trained: tuple[Captioner, CaptionData], tmp_path: Path
) -> None:
    captioner, data = trained
    online = [replace(record, raw=(), references=()) for record in data.records["test"]]
    found = evaluator(captioner, CaptionData(data.cfg, {**data.records, "test": online}, data.sources))
    assert list(found.run(captioner.model)) == []
    found.write(tmp_path / "test2014", 3)
    assert [path.name for path in (tmp_path / "test2014").iterdir()] == ["caption_00000003.json"]
    assert len(json.loads((tmp_path / "test2014/caption_00000003.json").read_text())) == 5


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
