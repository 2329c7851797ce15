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
from smp_caption.config import Config
from smp_caption.data import CaptionData, open_data
from smp_caption.evaluate import FAKE, decode_options, make_evaluator
from smp_caption.files import original
from smp_caption.files.original import run_config
from smp_caption.model import Network, TransformerNetwork
from smp_caption.options import TestOptions
from smp_caption.test import test as score_run

from .made import made


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


def test_the_online_test_leaves_what_coco_s_server_takes(tmp_path: Path) -> None:
    made(tmp_path, "ort").save_pretrained(tmp_path / "entry/best")
    options = {"batch_size_eval": 3, "num_workers": 0, "fake_data": True, "mscoco_online_test": True}
    run = str(tmp_path / "entry")
    assert score_run(TestOptions(log_dir=run, beam_size_test=2, eval_dir_suffix="x", **options)) == {}
    folder = tmp_path / "entry/test2014_beam_2_x"
    names = [
        "caption_00000000.json",
        *(f"captions_{part}2014_entry_results.json" for part in ("test", "val")),
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    plain, test, val = (json.loads((folder / name).read_text()) for name in names)
    assert plain == test
    data = tmp_path / "entry/fake_data"
    for part, entries in (("test2014", test), ("val2014", val)):
        ids = {int(path.stem.rpartition("_")[2]) for path in (data / part).iterdir()}
        assert ids == {entry["image_id"] for entry in entries}
        assert len(ids) == len(entries) > 0
    assert {entry["caption"] for entry in val} == {FAKE}
    assert "val/CIDEr" in score_run(TestOptions(log_dir=run, beam_size_val=1, **options))
    assert [path.name for path in (tmp_path / "entry/val_beam_1").glob("captions*")] == []


@pytest.mark.parametrize(("preset", "mixed"), [(None, True), ("faithful", True), ("fixed", False)])
def test_files_of_the_original_are_decoded_with_its_caches_unless_another_preset_is_typed(
    preset: str | None, mixed: bool, pictures: Path, tmp_path: Path
) -> None:
    captioner = made(tmp_path / "made", "acort", seed=3)
    run = tmp_path / "run"
    original.write_state(run / original.BEST, captioner.model.state_dict())
    original.write_config(run, Config(model=captioner.config), captioner)
    model = original.load(run).model
    assert isinstance(model, TransformerNetwork)
    assert model.caching == "exact"  # what Python and `demo` decode with
    options = TestOptions(
        log_dir=str(run), dataset_dir=str(pictures), preset=preset, num_workers=0, beam_size_test=2
    )
    score_run(options)
    written = json.loads((run / "test_beam_2/caption_00000000.json").read_text())
    cfg = original.run_config(run)
    cfg = replace(cfg, data=replace(cfg.data, dataset_dir=str(pictures), num_workers=0))
    data = open_data(cfg)
    said = {}
    for caching in ("mixed", "exact"):
        model.caching = caching
        found = make_evaluator(
            "test",
            data.loader("test", captioner.tokenizer),
            {},
            captioner.tokenizer,
            decode_options(captioner.config, captioner.decode, 2, original=mixed),
            device=torch.device("cpu"),
        )
        said[caching] = dict(found.captions(model))
    assert {entry["image_id"]: entry["caption"] for entry in written} == said["mixed" if mixed else "exact"]
    assert said["mixed"] != said["exact"]
