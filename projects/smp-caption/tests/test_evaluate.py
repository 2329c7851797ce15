"""Evaluation: every picture once, whatever the batch size and the number of processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunelab.caption.evaluate import evaluate as score
from prunelab.caption.split import Evaluator
from smp_caption.captioner import Captioner
from smp_caption.data import CaptionData, open_data
from smp_caption.evaluate import decode_options, make_evaluator
from smp_caption.model import Network
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
) -> Evaluator[Network]:
    return make_evaluator(
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
        list(evaluator(captioner, some, rank=rank, world=world).captions(captioner.model))
        for rank in range(world)
    ]
    pairs = [pair for part in parts for pair in part]
    assert sorted(image_id for image_id, _ in pairs) == [17, 18, 19, 20, 21][:count]
    alone = dict(evaluator(captioner, data).captions(captioner.model))
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
