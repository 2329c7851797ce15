"""Data sets on disk become batches, and what is wrong with them is told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from expansionnet.config import Config, DataConfig, ModelConfig, QuirkConfig, ScstConfig, SwinConfig
from expansionnet.data import PictureBatches, open_data
from expansionnet.learning.order import OriginalOrder
from expansionnet.words.vocabulary import Vocabulary
from prunelab.data.features import copy_to_store, open_features
from prunelab.data.pictures import read_picture
from prunelab.data.sampling import EpochSampler
from prunelab.errors import UserError

SWIN = SwinConfig(img_size=32, embed_dim=4, depths=(1, 1), num_heads=(1, 1), window_size=4)
WIDTH = 6
COUNTS = {"train": 6, "val": 3, "test": 2}


def rows_of(image_id: int) -> np.ndarray:
    """Features of a picture; pictures have unequal numbers of them."""
    return np.random.default_rng(image_id).standard_normal((2 + image_id % 3, WIDTH)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in the original's layout."""
    images, number = [], 10
    with h5py.File(tmp_path / "features.hdf5", "w") as file:
        for split, count in COUNTS.items():
            for _ in range(count):
                number += 1
                name = f"COCO_val2014_{number:012d}.jpg"
                place = tmp_path / "MS_COCO_2014" / "val2014" / "img" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 30), (number, 2, 3)).save(place)
                file[f"{number}_features"] = rows_of(number)
                raw = [f"A dog number {number}.", "A cat!", "the dog, the dog and the dog"][: 2 + number % 2]
                entry = {"filepath": "val2014", "filename": name, "cocoid": number, "split": split}
                images.append({**entry, "sentences": [{"raw": text} for text in raw]})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> Callable[..., Config]:
    """Configurations of the folder."""

    def make(
        *, pictures: bool = False, reinforce: bool = False, faithful: bool = False, **data: Any
    ) -> Config:
        usual = {
            "captions_path": f"{folder}/",
            "images_path": f"{folder}/MS_COCO_2014/",
            "features_path": f"{folder}/features.hdf5",
            "dict_min_occurrences": 2,
            "batch_size": 4,
            "eval_parallel_batch_size": 2,
            "workers": 0,
        }
        return Config(
            model=ModelConfig(
                is_end_to_end=pictures, img_feature_dim=SWIN.width if pictures else WIDTH, swin=SWIN
            ),
            data=DataConfig(**(usual | data)),
            scst=ScstConfig(reinforce=reinforce),
            quirks=QuirkConfig(original_order=faithful),
        )

    return make


Settings = Callable[..., Config]


def test_training_by_cross_entropy_reads_every_caption_once_an_epoch(settings: Settings) -> None:
    data = open_data(settings())
    records, words = data.split("train"), data.vocabulary
    loader = data.loader("train")
    captions = [raw for record in records for raw in record.raw]
    assert len(loader) == len(captions) // 4
    seen = []
    for batch in loader:
        tokens, pads = batch["tokens"], batch["token_pads"]
        assert tokens.dtype == pads.dtype == torch.int64
        assert pads.min() == 0
        for row, pad, place, image_id in zip(
            tokens.tolist(), pads.tolist(), batch["indices"], batch["image_ids"], strict=True
        ):
            caption = row[: len(row) - pad]
            assert row[len(row) - pad :] == [words.pad] * pad
            assert caption in [words.encode(raw) for raw in records[place].raw]
            assert image_id == records[place].image_id
            seen.append(caption)
        assert "references" not in batch
    assert len(seen) == len(loader) * 4
    assert (data.longest, data.positions) == (9, 29)
    assert words == Vocabulary.from_captions(captions, min_occurrences=2)


@pytest.mark.parametrize("kind", ["hdf5", "store", "folder"])
def test_unequal_numbers_of_visual_tokens_are_padded_and_counted(
    settings: Settings, folder: Path, kind: str
) -> None:
    source = open_features(folder / "features.hdf5")
    ids = range(11, 11 + sum(COUNTS.values()))
    if kind == "store":
        copy_to_store(source, ids, folder / "store", dtype="float16")
    if kind == "folder":
        (folder / "folder").mkdir()
        for image_id in ids:
            np.save(folder / "folder" / f"{image_id}.npy", rows_of(image_id))
    place = {"hdf5": "features.hdf5"}.get(kind, kind)
    data = open_data(settings(features_path=str(folder / place)))
    for batch in data.loader("train"):
        x, pads = batch["x"], batch["pads"]
        assert x.dtype == (torch.float16 if kind == "store" else torch.float32)
        for rows, pad, image_id in zip(x, pads.tolist(), batch["image_ids"], strict=True):
            own = torch.from_numpy(rows_of(image_id)).to(x.dtype)
            assert torch.equal(rows[: len(rows) - pad], own)
            assert not rows[len(rows) - pad :].any()


def test_equal_numbers_of_visual_tokens_need_no_pads(settings: Settings, folder: Path) -> None:
    with h5py.File(folder / "features.hdf5", "a") as file:
        for name in list(file):
            del file[name]
            file[name] = np.ones((3, WIDTH), np.float16)
    (batch, *_) = open_data(settings()).loader("val")
    assert batch["pads"] is None
    assert batch["x"].dtype == torch.float16


def test_a_picture_that_comes_twice_in_a_batch_is_read_once(settings: Settings) -> None:
    data = open_data(settings())
    read: list[list[int]] = []

    def seen(records: Any) -> Any:
        read.append([record.image_id for record in records])
        return data.visual(records)

    pictures = PictureBatches(records=data.split("train"), visual=seen)  # type: ignore[arg-type]
    batch = pictures([3, 1, 3, 0])
    assert read == [[14, 12, 11]]
    assert batch["image_ids"] == [14, 12, 14, 11]
    assert batch["pads"].tolist() == [0, 2, 0, 0] or torch.equal(batch["x"][0], batch["x"][2])
    assert torch.equal(batch["x"][0][: len(rows_of(14))], torch.from_numpy(rows_of(14)))
    assert torch.equal(batch["x"][0], batch["x"][2])


def test_training_by_reward_reads_every_picture_with_all_captions(settings: Settings) -> None:
    data = open_data(settings(reinforce=True, batch_size=3))
    batches = list(data.loader("train"))
    assert sorted(place for batch in batches for place in batch["indices"]) == list(range(6))
    for batch in batches:
        assert batch["references"] == [data.split("train")[place].raw for place in batch["indices"]]
        assert "tokens" not in batch


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_reads_every_picture_once_whatever_the_processes(settings: Settings, world: int) -> None:
    data = open_data(settings())
    found = [
        image_id
        for rank in range(world)
        for batch in data.loader("val", rank=rank, world_size=world)
        for image_id in batch["image_ids"]
    ]
    assert sorted(found) == list(data.references("val")) == [17, 18, 19]
    assert list(open_data(settings(limited_num_val_images=2)).references("val")) == [17, 18]


def test_pictures_are_read_from_files_with_and_without_the_inner_folder(
    settings: Settings, folder: Path
) -> None:
    data = open_data(settings(pictures=True))
    (batch, *_) = data.loader("train")
    assert (batch["x"].shape, batch["x"].dtype, batch["pads"]) == ((4, 3, 32, 32), torch.float32, None)
    inner = folder / "MS_COCO_2014" / "val2014" / "img"
    for file in inner.iterdir():
        file.rename(inner.parent / file.name)
    (again, *_) = open_data(settings(pictures=True)).loader("train")
    assert torch.equal(batch["x"], again["x"])


def test_prepared_pictures_are_taken_as_they_are(settings: Settings, folder: Path) -> None:
    with h5py.File(folder / "prepared.hdf5", "w") as file:
        for image_id in range(11, 22):
            file[f"{image_id}_img"] = np.full((3, 32, 32), image_id, np.float32)
    cfg = settings(
        pictures=True, preproc_images_hdf5_filepath=str(folder / "prepared.hdf5"), images_path="none"
    )
    for batch in open_data(cfg).loader("train"):
        assert batch["x"].mean(dim=(1, 2, 3)).tolist() == batch["image_ids"]
    with h5py.File(folder / "prepared.hdf5", "a") as file:
        del file["12_img"], file["11_img"]
        file["11_img"] = np.zeros((3, 16, 16), np.float32)
    with pytest.raises(UserError, match=r"prepared\.hdf5: no features of 1 of 6 images: 12"):
        open_data(cfg).loader("train")
    with h5py.File(folder / "prepared.hdf5", "a") as file:
        file["12_img"] = np.zeros((3, 32, 32), np.float32)
    with pytest.raises(
        UserError, match=r"'11_img' is float32 \(3, 16, 16\), expected a picture \(3, 32, 32\)"
    ):
        open_data(cfg).loader("train")


def test_workers_give_the_same_batches_as_none(settings: Settings) -> None:
    here, there = (list(open_data(settings(workers=workers)).loader("train")) for workers in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in ("x", "pads", "tokens", "token_pads"))
        assert one["indices"] == other["indices"]


def test_the_order_is_the_originals_or_one_that_processes_share(settings: Settings) -> None:
    faithful = open_data(settings(faithful=True)).loader("train", rank=1, world_size=2).sampler
    assert isinstance(faithful, OriginalOrder)
    assert (faithful.global_batch, faithful.rank) == (4, 1)
    fixed = open_data(settings()).loader("train", rank=1, world_size=2).sampler
    assert isinstance(fixed, EpochSampler)
    assert (fixed.batch_size, fixed.world_size) == (2, 2)
    with pytest.raises(UserError, match=r"^batch_size is 4, expected a multiple of the 3 processes$"):
        open_data(settings()).loader("train", world_size=3)
    with pytest.raises(
        UserError, match=r"batch_size is 99, expected at most the 15 training captions of .*json"
    ):
        open_data(settings(batch_size=99)).loader("train")
    with pytest.raises(UserError, match=r"the 6 training pictures of .* \(they must be 10 at least\)"):
        open_data(settings(batch_size=5, faithful=True, reinforce=True)).loader("train", world_size=2)


def test_words_come_from_weights_from_a_file_or_from_the_captions(settings: Settings, folder: Path) -> None:
    words = Vocabulary.from_captions(["a b c"], min_occurrences=1)
    assert open_data(settings(), vocabulary=words).vocabulary == words
    words.save(folder / "words.json")
    named = settings(vocab_path=str(folder / "words.json"))
    assert open_data(named).vocabulary == open_data(named, vocabulary=words).vocabulary == words
    other = Vocabulary.from_captions(["a b"], min_occurrences=1)
    with pytest.raises(UserError, match=r"words\.json: 7 words, expected the 6 of the weights"):
        open_data(named, vocabulary=other)


def test_own_captions_lie_beside_their_pictures_or_below_images_path(
    settings: Settings, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (9, 9)).save(own / "a.png")
    entries = [
        {"image": "a.png", "captions": ["한 개", "a dog"], "split": split, "id": number}
        for number, split in enumerate(("train", "val", "test"))
    ]
    (own / "captions.json").write_text(json.dumps(entries))
    cfg = settings(pictures=True, dataset="own", captions_path=str(own), batch_size=1, dict_min_occurrences=1)
    data = open_data(replace(cfg, data=replace(cfg.data, images_path=str(own))))
    assert "한" in data.vocabulary.words
    beside = open_data(cfg)  # images_path has no such picture
    assert beside.split("train")[0].path == data.split("train")[0].path == own / "a.png"
    assert len(list(beside.loader("train"))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"captions_path": "nowhere"},
            r"captions_path nowhere: no such file or folder, expected dataset_coco\.json",
        ),
        (
            {"features_path": "nowhere"},
            r"features_path nowhere: no such file or folder; compute features with",
        ),
        ({"vocab_path": "nowhere"}, r"nowhere: no vocabulary there"),
        ({"pictures": True, "preproc_images_hdf5_filepath": "no.h5"}, r"_hdf5_filepath no\.h5: no such file"),
        (
            {"pictures": True, "images_path": "nowhere"},
            r"11\.jpg: picture is missing, and so are 5 more of 6",
        ),
    ],
)
def test_what_is_missing_is_named(settings: Settings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_data(settings(**change)).loader("train")


def test_what_is_wrong_with_features_is_named(settings: Settings, folder: Path) -> None:
    cfg = settings()
    wide = replace(cfg, model=replace(cfg.model, img_feature_dim=9))
    with pytest.raises(UserError, match=r"11\.jpg are 6 values wide, expected img_feature_dim 9"):
        open_data(wide).loader("train")
    with h5py.File(folder / "features.hdf5", "a") as file:
        for image_id in (13, 15):
            del file[f"{image_id}_features"]
    with pytest.raises(UserError, match=r"features\.hdf5: no features of 2 of 6 images: 13, 15$"):
        open_data(cfg).loader("train")
    assert len(list(open_data(cfg).loader("val"))) == 2
    (folder / "features.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n cut off")
    with pytest.raises(UserError, match=r"features\.hdf5: not a whole HDF5 file"):
        open_data(cfg)


def test_what_is_wrong_with_pictures_is_named(settings: Settings, folder: Path) -> None:
    inner = folder / "MS_COCO_2014" / "val2014" / "img"
    file = inner / "COCO_val2014_000000000013.jpg"
    loader = open_data(settings(pictures=True, workers=1)).loader("train")
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(UserError, match=r"000013\.jpg: picture is damaged or cut off"):
        list(loader)
    file.unlink()
    with pytest.raises(UserError, match=r"000013\.jpg: picture is missing, and so are 0 more of 6"):
        open_data(settings(pictures=True)).loader("train")


def test_what_is_wrong_with_captions_is_named(settings: Settings, folder: Path) -> None:
    file = folder / "dataset_coco.json"
    content = json.loads(file.read_text())
    content["images"][1]["sentences"][0]["raw"] = " ... "
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"a caption of val2014/img/.*12\.jpg is ' \.\.\. ', expected words"):
        _ = open_data(settings()).vocabulary
    for image in content["images"]:
        image["sentences"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"none of its 6 training pictures has a caption"):
        _ = open_data(settings()).vocabulary
    content["images"] = content["images"][:6]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no picture in the split 'val'; found train"):
        open_data(settings()).loader("val")


def test_of_two_entries_the_later_one_counts_only_under_the_quirk(settings: Settings, folder: Path) -> None:
    file = folder / "dataset_coco.json"
    content = json.loads(file.read_text())
    content["images"] += [{**content["images"][0], "sentences": [{"raw": "late"}]}]
    file.write_text(json.dumps(content))
    cfg = settings()
    with pytest.raises(UserError, match="expected a different id for each picture"):
        open_data(cfg)
    data = open_data(replace(cfg, quirks=QuirkConfig(lenient_captions=True)))
    assert data.split("train")[0].raw == ("late",)
    assert len(data.split("train")) == 6


@pytest.mark.tiny
def test_the_tiny_set_has_pictures_of_the_backbones_size_and_features(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expansionnet.data.TINY", (16, 3, 2))
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path))
    cfg = settings(dataset="tiny", features_path=DataConfig().features_path, batch_size=16)
    data = open_data(replace(cfg, model=replace(cfg.model, img_feature_dim=SWIN.width)))
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [16, 3, 2]
    (batch, *_) = data.loader("train")
    assert (len(batch["x"]), batch["x"].shape[2]) == (16, SWIN.width)
    pictures = open_data(settings(dataset="tiny", pictures=True))
    (seen, *_) = pictures.loader("val")
    assert seen["x"].shape == (2, 3, 32, 32)
    assert read_picture(pictures.split("val")[0].path).size == (32, 32)
    assert len(list((tmp_path / "synthetic").iterdir())) == 1


@pytest.mark.data
def test_the_real_flickr_set_is_read(settings: Settings, real_data: Path) -> None:
    place = real_data / "flickr1k"
    cfg = settings(pictures=True, captions_path=str(place), images_path=str(place), dict_min_occurrences=5)
    data = open_data(cfg)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [753, 113, 125]
    assert 400 < len(data.vocabulary) < 1500
    assert next(iter(data.loader("train")))["x"].shape == (4, 3, 32, 32)
    images = replace(cfg, data=replace(cfg.data, images_path=str(place / "images")))
    assert open_data(images).split("val")[0].path == data.split("val")[0].path
