"""Data sets and batches: layouts, captions drawn, and what is answered to mistakes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunelab.data.features import copy_to_store
from prunelab.data.memory import CachedFeatures
from prunelab.errors import UserError
from smp_caption.config import (
    Config,
    DataConfig,
    ModelConfig,
    PruneConfig,
    QuirksConfig,
    RunConfig,
)
from smp_caption.data import CaptionData, data_dir, open_data, open_records, open_set
from smp_caption.features.batches import Collate
from smp_caption.tokenizer import Tokenizer, build_tokenizer

FAKE = Config(
    model=ModelConfig(att_feat_size=5, fc_feat_size=5, vocab_size=40, max_seq_length=9),
    data=DataConfig(num_workers=0, batch_size=3, batch_size_eval=3, seq_per_img=2),
    run=RunConfig(fake_data=True),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CaptionData, Tokenizer]:
    folder = tmp_path_factory.mktemp("fake")
    data = open_data(FAKE, folder / "data")
    captions = data.train_captions()
    return folder / "data", data, build_tokenizer(folder, kind="word", vocab_size=40, captions=captions)


def on_disk(folder: Path, cfg: Config = FAKE, **data: Any) -> Config:
    """The configuration that reads a folder instead of generating one."""
    run = replace(cfg.run, fake_data=False)
    return replace(cfg, data=replace(cfg.data, dataset_dir=str(folder), **data), run=run)


def test_generated_data_has_the_real_layout_and_the_configured_sizes(
    made: tuple[Path, CaptionData, Tokenizer],
) -> None:
    folder, data, tokenizer = made
    assert (folder / "dataset_coco.json").is_file()
    assert {split: len(records) for split, records in data.records.items()} == {
        "train": 6,
        "val": 4,
        "test": 4,
    }
    batch = next(iter(data.loader("train", tokenizer)))
    assert batch["att_feats"].shape[::2] == (3, 5)
    assert batch["att_masks"].shape == batch["att_feats"].shape[:2]
    assert batch["fc_feats"].shape == (3, 5)
    assert batch["seqs"].shape == batch["masks"].shape
    assert len(batch["seqs"]) == 6
    assert torch.equal(batch["masks"], (batch["seqs"] > 0).float())
    assert "boxes" not in batch
    assert [len(captions) for captions in batch["gts"]] == [3, 3, 3]


def test_generated_data_is_the_same_each_time(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    again = open_data(FAKE, tmp_path / "other")
    assert again.train_captions() == made[1].train_captions()
    assert np.array_equal(again.sources.att.get(1), made[1].sources.att.get(1))


def test_workers_do_not_change_batches(made: tuple[Path, CaptionData, Tokenizer]) -> None:
    _, data, tokenizer = made
    two = CaptionData(replace(FAKE, data=replace(FAKE.data, num_workers=2)), data.records, data.sources)
    for ours, theirs in zip(data.loader("train", tokenizer), two.loader("train", tokenizer), strict=True):
        assert ours["image_ids"] == theirs["image_ids"]
        for name, value in ours.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, theirs[name])


def test_evaluation_sees_every_picture_once_in_order_for_any_number_of_processes(
    made: tuple[Path, CaptionData, Tokenizer],
) -> None:
    _, data, tokenizer = made
    wanted = [record.image_id for record in data.records["test"]]
    assert [i for batch in data.loader("test", tokenizer) for i in batch["image_ids"]] == wanted
    for world_size in (2, 3):
        loaders = [data.loader("test", tokenizer, rank=r, world_size=world_size) for r in range(world_size)]
        seen = [i for loader in loaders for batch in loader for i in batch["image_ids"]]
        assert sorted(seen) == sorted(wanted)


def test_boxes_come_with_the_models_that_read_them(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    model = replace(FAKE.model, caption_model="relation_transformer")
    data = open_data(replace(FAKE, model=model), tmp_path / "boxes")
    batch = next(iter(data.loader("val", made[2])))
    assert batch["boxes"].shape == (*batch["att_feats"].shape[:2], 4)
    assert float(batch["boxes"].min()) >= 0
    assert float(batch["boxes"].max()) <= 1
    assert "fc_feats" not in batch


def test_mean_features_are_computed_where_there_are_none(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    shutil.rmtree(tmp_path / "data/bu/cocobu_fc")
    data = open_data(on_disk(tmp_path / "data"))
    batch = next(iter(data.loader("test", made[2])))
    mean = data.sources.att.get(batch["image_ids"][0]).mean(axis=0)
    torch.testing.assert_close(batch["fc_feats"][0], torch.from_numpy(mean))


def test_feature_folders_may_lie_elsewhere(made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    shutil.move(tmp_path / "data/bu", tmp_path / "bu")
    with pytest.raises(UserError, match="compute them with `smp-caption extract`"):
        open_data(on_disk(tmp_path / "data"))
    cfg = on_disk(tmp_path / "data", input_att_dir=str(tmp_path / "bu/cocobu_att"))
    assert open_data(cfg).sources.fc is None
    with pytest.raises(UserError, match=r"no relative boxes; make them with scripts/prepro_bbox_relative"):
        open_data(replace(cfg, model=replace(cfg.model, caption_model="relation_transformer")))
    with pytest.raises(UserError, match="input_fc_dir /nowhere: no such file"):
        open_data(replace(cfg, data=replace(cfg.data, input_fc_dir="/nowhere")))


def test_few_captions_are_repeated_or_refused(made: tuple[Path, CaptionData, Tokenizer]) -> None:
    _, data, tokenizer = made
    cfg = replace(FAKE, data=replace(FAKE.data, seq_per_img=5))
    few = CaptionData(cfg, data.records, data.sources)
    batch = next(iter(few.loader("train", tokenizer)))
    assert len(batch["seqs"]) == 15
    for i, captions in enumerate(batch["gts"]):
        decoded = {tokenizer.decode(row) for row in batch["seqs"][5 * i : 5 * i + 5]}
        assert len(decoded) == len(captions) == 3
    faithful = replace(cfg, quirks=QuirksConfig.of("faithful"))
    same = CaptionData(faithful, data.records, data.sources)
    assert len(next(iter(same.loader("train", tokenizer)))["seqs"]) == 9
    first = data.records["train"][0]
    uneven = [replace(first, references=first.references[:1]), *data.records["train"][1:]]
    broken = CaptionData(faithful, {**data.records, "train": uneven}, data.sources)
    with pytest.raises(UserError, match="has 1 captions, expected seq_per_img 5"):
        list(broken.loader("train", tokenizer))


def test_a_training_picture_without_captions_is_named(made: tuple[Path, CaptionData, Tokenizer]) -> None:
    _, data, tokenizer = made
    first = replace(data.records["train"][0], references=(), raw=())
    bare = CaptionData(FAKE, {**data.records, "train": [first, *data.records["train"][1:]]}, data.sources)
    with pytest.raises(UserError, match=rf"{first.file}: a training picture without captions \(1 of 6\)"):
        bare.loader("train", tokenizer)


def test_raw_sentences_are_used_when_asked_for(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    file = tmp_path / "data/dataset_coco.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        for sentence in image["sentences"]:
            sentence["raw"] = "A dog."
    file.write_text(json.dumps(content))
    raw = open_data(on_disk(tmp_path / "data", retokenize_captions=True))
    assert set(raw.train_captions()) == {"A dog."}
    assert raw.records["train"][0].references == made[1].records["train"][0].references
    assert set(raw.references("val").values()) == {("A dog.",) * 3}
    collate = Collate(tokenizer=made[2], seq_per_img=1, max_seq_length=9, raw=True)
    assert collate._draw(raw.records["train"][0]) == ["A dog."]


def test_online_test_trains_on_val_validates_on_test_and_predicts_test2014(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    (tmp_path / "data/test2014").mkdir()
    for number in (700, 600):
        name = f"COCO_test2014_{number:012d}.jpg"
        Image.new("RGB", (8, 8)).save(tmp_path / "data/test2014" / name)
        np.save(tmp_path / f"data/bu/cocobu_att/{number}.npy", np.ones((3, 5), dtype=np.float32))
        np.save(tmp_path / f"data/bu/cocobu_fc/{number}.npy", np.ones(5, dtype=np.float32))
    data = open_data(on_disk(tmp_path / "data", mscoco_online_test=True))
    assert {split: len(records) for split, records in data.records.items()} == {
        "train": 10,
        "val": 4,
        "test": 2,
    }
    batch = next(iter(data.loader("test", made[2])))
    assert batch["image_ids"] == (600, 700)
    assert batch["image_paths"][0] == "test2014/COCO_test2014_000000000600.jpg"
    assert batch["seqs"].tolist() == [[2, 3]] * 4


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        ("up_down_lstm_prune", "radix"),
        ("transformer", "word"),
        ("relation_transformer", "radix"),
        ("relation_transformer_prune", "word"),
    ],
)
def test_generated_and_embedded_data_feed_every_model(
    model: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smp_caption.data.TINY", (8, 2, 2))
    prune = PruneConfig(prune_type="supermask" if model.endswith("_prune") else None)
    sizes = replace(FAKE.model, caption_model=model, vocab_size=60, max_seq_length=20)
    generated = replace(FAKE, model=sizes, prune=prune, data=replace(FAKE.data, mscoco_online_test=True))
    own = DataConfig(dataset="tiny", num_workers=0, batch_size=3)
    embedded = replace(generated, run=RunConfig(), data=own)
    for cfg in (generated, embedded):
        data = open_data(cfg, tmp_path / "data")
        built = build_tokenizer(
            tmp_path / cfg.data.dataset,
            kind=tokenizer,
            vocab_size=60,
            radix_base=5,
            captions=data.train_captions(),
        )
        for split in ("train", "test"):
            batch = next(iter(data.loader(split, built)))
            regions = batch["att_feats"].shape[:2]
            assert batch["att_feats"].shape[2] == 5
            assert ("boxes" in batch) == model.startswith("relation")
            assert ("fc_feats" in batch) == model.startswith("up_down")
            if "boxes" in batch:
                assert batch["boxes"].shape == (*regions, 4)
                assert batch["boxes"].dtype == torch.float32
            assert len(batch["seqs"]) == cfg.data.seq_per_img * regions[0]
            assert int(batch["seqs"].max()) < len(built)
    assert len(open_data(generated, tmp_path / "data").records["test"]) == 4


def test_own_pictures_are_read_from_a_list(made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path) -> None:
    entries = []
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.jpg")
        entries.append({"image": f"{number}.jpg", "captions": ["A red dog."], "split": split})
        (tmp_path / "bu/cocobu_att").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"bu/cocobu_att/{number}.npy", np.ones((2, 5), dtype=np.float32))
    (tmp_path / "captions.json").write_text(json.dumps(entries))
    data = open_data(on_disk(tmp_path, dataset="captions"))
    assert data.train_captions() == ["a red dog"] * 3
    assert len(next(iter(data.loader("train", made[2])))["seqs"]) == 6


def test_folder_of_a_data_set_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mscoco").mkdir()
    (tmp_path / "flickr1k").mkdir()
    monkeypatch.setenv("PRUNELAB_DATA", str(tmp_path))
    assert data_dir(DataConfig(dataset="mscoco_testing")) == tmp_path / "mscoco"
    assert data_dir(DataConfig(dataset="flickr1k")) == tmp_path / "flickr1k"
    assert data_dir(DataConfig(dataset_dir="/gone/away/mscoco")) == tmp_path / "mscoco"
    with pytest.raises(UserError, match="dataset_dir /gone: no such"):
        data_dir(DataConfig(dataset_dir="/gone"))
    monkeypatch.delenv("PRUNELAB_DATA")
    with pytest.raises(UserError, match="PRUNELAB_DATA is not set"):
        data_dir(DataConfig())


def test_captions_for_the_tokenizer_may_come_from_a_file(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("one two\nthree\n", encoding="utf-8")
    data = replace(FAKE.data, tokenizer_train_files=str(file))
    assert CaptionData(replace(FAKE, data=data), made[1].records, made[1].sources).train_captions() == [
        "one two",
        "three",
    ]
    gone = replace(data, tokenizer_train_files="gone.txt")
    with pytest.raises(UserError, match=r"gone\.txt: no such file"):
        CaptionData(replace(FAKE, data=gone), made[1].records, made[1].sources).train_captions()


def test_sizes_that_do_not_fit_are_named(made: tuple[Path, CaptionData, Tokenizer]) -> None:
    folder, data, tokenizer = made
    wide = replace(FAKE, model=replace(FAKE.model, att_feat_size=7))
    with pytest.raises(UserError, match=r"features of size 5, expected att_feat_size 7"):
        next(iter(open_data(on_disk(folder, wide)).loader("test", tokenizer)))
    small = CaptionData(replace(FAKE, model=replace(FAKE.model, vocab_size=9)), data.records, data.sources)
    with pytest.raises(UserError, match="expected at most vocab_size 9"):
        small.loader("test", tokenizer)
    with pytest.raises(UserError, match="batch_size 3"):
        data.loader("train", tokenizer, world_size=3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_features_are_kept_in_memory_by_all_workers_while_there_is_room(
    made: tuple[Path, CaptionData, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data, tokenizer = made
    monkeypatch.setattr("prunelab.data.memory.free_share", lambda: 0.9)
    relation = replace(FAKE, model=replace(FAKE.model, caption_model="relation_transformer"))
    boxes = folder / "bu/cocobu_box_relative"
    if not boxes.exists():
        boxes.mkdir()
        for file in (folder / "bu/cocobu_att").glob("*.npy"):
            np.save(boxes / file.name, np.tile([0.1, 0.2, 0.3, 0.4], (len(np.load(file)), 1)))
    for cfg, names in ((FAKE, ("att", "fc")), (relation, ("att", "boxes"))):
        for workers in (0, 2):
            data = open_data(on_disk(folder, cfg, num_workers=workers))
            first, second = ([b["att_feats"] for b in data.loader("train", tokenizer)] for _ in range(2))
            assert all(map(torch.equal, first, second))
            for name in names:
                kept = getattr(data.kept, name)
                assert isinstance(kept, CachedFeatures)
                assert len(kept.memory) == 6
                assert getattr(data.sources, name) is kept.source
    never = open_data(on_disk(folder, cache_min_free_ram=1.0))
    assert never.kept is never.sources
    copy_to_store(data.sources.att, [r.image_id for s in data.records.values() for r in s], folder / "store")
    stored = open_data(on_disk(folder, input_att_dir=str(folder / "store")))
    assert stored.kept.att is stored.sources.att
    assert isinstance(stored.kept.fc, CachedFeatures)


def test_a_system_without_shared_memory_is_told_once(
    made: tuple[Path, CaptionData, Tokenizer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("prunelab.data.memory.free_share", lambda: 0.0)
    data = open_data(on_disk(made[0]))
    assert data.kept is data.sources
    said = capsys.readouterr().err
    assert said.startswith(
        "cache_min_free_ram 0.4: no features are kept in memory, this system does not tell"
    )
    assert said.count("\n") == 1


def test_features_of_all_splits_are_looked_for_before_training(
    made: tuple[Path, CaptionData, Tokenizer], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    for number in (2, 3, 5, 8, 9, 10, 14):
        (tmp_path / f"data/bu/cocobu_att/{number}.npy").unlink()
    cfg = on_disk(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"input_att_dir .*cocobu_att: no features of 7 of 14 images: 2, 3, 5, 8, 9, \.\.\.$"
    ):
        open_data(cfg)
    with pytest.raises(UserError, match=r"no features of 1 of 4 images: 14$"):
        open_data(cfg, splits=("test",))
    for number in (2, 3, 5, 8, 9, 10, 14):
        rows = np.ones((2, 5), dtype=np.float32)
        np.savez(tmp_path / f"data/bu/cocobu_att/{number}.npz", feat=rows, other=rows[:, :2])
    assert open_data(cfg).sources.att.get(14).shape == (2, 5)
    (tmp_path / "data/bu/cocobu_fc/4.npy").unlink()
    with pytest.raises(UserError, match=r"input_fc_dir .*cocobu_fc: no features of 1 of 14 images: 4$"):
        open_data(cfg)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([0.2, 0.1, 0.1, 0.3], r"box 1 is \[0.2, 0.1, 0.1, 0.3\], expected x1, y1, x2, y2 relative"),
        ([10, 20, 30, 40], r"box 1 is \[10.0, .*0 <= x1 <= x2 <= 1"),
        ([-0.1, 0, 1, 1], "box 1 is"),
        ([float("nan"), 0, 1, 1], "box 1 is"),
    ],
)
def test_boxes_that_are_not_inside_the_picture_are_named(
    made: tuple[Path, CaptionData, Tokenizer], box: list[float], said: str, tmp_path: Path
) -> None:
    cfg = replace(FAKE, model=replace(FAKE.model, caption_model="relation_transformer"))
    data = open_data(cfg, tmp_path / "data")
    record = data.records["test"][0]
    file = tmp_path / f"data/bu/cocobu_box_relative/{record.image_id}.npy"
    boxes = np.load(file)
    boxes[0] = [-1e-6, 0.5, 1 + 1e-6, 0.5]  # rounded
    np.save(file, boxes)
    next(iter(data.loader("test", made[2])))
    boxes[1] = box
    np.save(file, boxes)
    where = f"cocobu_box_relative: image {record.image_id} \\({record.file}\\): "
    with pytest.raises(UserError, match=where + said):
        next(iter(data.loader("test", made[2])))
    np.save(file, boxes[1:])
    with pytest.raises(UserError, match=where + r"boxes of shape \(\d+, 4\), expected \(\d+, 4\)"):
        next(iter(data.loader("test", made[2])))


@pytest.mark.parametrize("dataset", ["flickr8k", "flickr30k", "instapic"])
def test_flickr_and_instapic_are_data_sets(
    made: tuple[Path, CaptionData, Tokenizer], dataset: str, tmp_path: Path
) -> None:
    for part in ("att", "fc"):
        (tmp_path / f"bu/cocobu_{part}").mkdir(parents=True)
    splits = ("train", "train", "train", "val", "test")
    if dataset == "instapic":
        names = {split: f"insta-caption-{split}.json" for split in ("train", "test1", "test2")}
        users = {
            "train": {"ann": {str(i): {"caption": "A dog."} for i in range(3)}},
            "test1": {"bob": {"3": {"caption": "A dog."}}},
            "test2": {"cy": {"4": {"caption": "A dog."}}},
        }
        for split, name in names.items():
            (tmp_path / name).write_text(json.dumps(users[split]))
        (tmp_path / "images").mkdir()
        files, ids = [f"images/{i}.jpg" for i in range(5)], list(range(5))
    else:
        images = [
            {"filename": f"{i}.jpg", "split": split, "imgid": i, "sentences": [{"raw": "A dog."}]}
            for i, split in enumerate(splits)
        ]
        (tmp_path / f"dataset_{dataset}.json").write_text(json.dumps({"images": images}))
        files, ids = [f"{i}.jpg" for i in range(5)], list(range(5))
    for file, image_id in zip(files, ids, strict=True):
        Image.new("RGB", (8, 8)).save(tmp_path / file)
        np.save(tmp_path / f"bu/cocobu_att/{image_id}.npy", np.ones((2, 5), dtype=np.float32))
        np.save(tmp_path / f"bu/cocobu_fc/{image_id}.npy", np.ones(5, dtype=np.float32))
    data = open_data(on_disk(tmp_path, dataset=dataset))
    assert {split: len(records) for split, records in data.records.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    assert data.train_captions() == ["a dog"] * 3
    assert len(next(iter(data.loader("train", made[2])))["seqs"]) == 6
    told = [(record.image_id, record.split) for record in open_set(tmp_path).records]
    assert told == [(r.image_id, split) for split, records in data.records.items() for r in records]
    generated = replace(FAKE, data=replace(FAKE.data, dataset=dataset))
    assert len(open_data(generated, tmp_path / "fake").records["train"]) == 6


@pytest.mark.data
def test_flickr1k_has_its_official_splits(real_data: Path) -> None:
    cfg = on_disk(real_data / "flickr1k", dataset="flickr1k")
    records, _ = open_records(cfg)
    assert {split: len(pictures) for split, pictures in records.items()} == {
        "train": 753,
        "val": 113,
        "test": 125,
    }
    assert sum(len(record.references) for record in records["train"]) == 5 * 753
