"""Data sets as batches: layouts, samples that depend on their key alone, splits, and answers to mistakes."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_vit import data as module
from apt_vit.config import Config
from apt_vit.data import Data, Pictures, open_data
from apt_vit.lowering import lower_values
from prunelab.data import cifar
from prunelab.data.cifar import CIFAR10, CIFAR100, open_cifar, write_binary
from prunelab.data.pictures_of_classes import kept_back
from prunelab.data.synthetic.shape_classes import CLASSES as SHAPES
from prunelab.data.synthetic.shape_classes import write_classes
from prunelab.errors import UserError

SMALL: dict[str, Any] = {
    "img_size": (32, 32),
    "patch_size": (8, 8),
    "hidden_size": 8,
    "num_heads": 1,
    "mlp_dim": 8,
    "num_layers": 3,
    "num_workers": 0,
    "train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "eval_batch_size": 7,
    "seed": 3,
}


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 training and 30 test pictures in CIFAR-10's binary records."""
    return write_classes(tmp_path_factory.mktemp("cifar"), train=50, test=30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 20 validation pictures in folders of ten classes."""
    return write_classes(tmp_path_factory.mktemp("folders"), train=40, test=20, side=48, folders=True)


def config(folder: Path | str, dataset: str = "cifar10", **values: Any) -> Config:
    return lower_values(SMALL | {"dataset": dataset, "data_dir": str(folder), "download": False} | values)


def everything(data: Data, split: str, world_size: int = 1) -> tuple[Tensor, Tensor]:
    batches = [batch for rank in range(world_size) for batch in data.loader(split, rank, world_size)]
    images, labels = map(torch.cat, zip(*batches, strict=True))
    return images, labels


def normalised(images: np.ndarray) -> Tensor:
    return torch.from_numpy(
        (images.transpose(0, 3, 1, 2) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    )


def test_cifar_is_read_and_test_pictures_come_in_order(binary: Path) -> None:
    data = open_data(config(binary))
    assert data.class_names == CIFAR10.classes
    assert data.sizes == {"train": 40, "val": 10, "test": 30}
    test = open_cifar(binary, "test")
    images, labels = everything(data, "test")
    torch.testing.assert_close(images, normalised(test.images), atol=1e-6, rtol=0)
    assert labels.tolist() == test.labels.tolist()
    assert labels.dtype == torch.int64
    assert data.check()["train"] == {"files": 40, "counts": [4] * 10}
    assert "10 of 50 training pictures are kept back" in data.how


def test_pictures_kept_back_are_the_same_for_every_seed_and_none_under_faithful(binary: Path) -> None:
    first, other = (open_data(config(binary, seed=seed)) for seed in (1, 2))
    assert torch.equal(everything(first, "val")[0], everything(other, "val")[0])
    train = open_cifar(binary, "train")
    kept = kept_back(train.labels, 0.1)
    assert everything(first, "val")[1].tolist() == train.labels[kept].tolist()
    all_train = open_data(config(binary, preset="faithful"))
    assert all_train.sizes == {"train": 50, "val": 30, "test": 30}
    assert torch.equal(everything(all_train, "val")[0], everything(all_train, "test")[0])
    assert "test pictures choose" in all_train.how


def test_training_pictures_change_and_are_the_same_with_and_without_workers(binary: Path) -> None:
    alone, helped = (open_data(config(binary, num_workers=n)).loader("train") for n in (0, 2))
    first, again = list(alone), list(helped)
    assert [len(labels) for _, labels in first] == [8] * 5
    for (images, labels), (images_2, labels_2) in zip(first, again, strict=True):
        assert torch.equal(images, images_2)
        assert torch.equal(labels, labels_2)
    alone.sampler.set_epoch(1)
    assert not torch.equal(next(iter(alone))[0], first[0][0])


def test_a_batch_at_once_is_what_pictures_give_one_by_one(binary: Path) -> None:
    for size in ((32, 32), (48, 40)):
        cfg = config(binary, img_size=size)
        split = open_data(cfg).split("train")
        torch.manual_seed(0)
        samples = [split[index] for index in range(12)]
        images, labels = split.collate(samples)
        for place, (index, drawn) in enumerate(samples):
            wanted = module.preprocess_of(cfg).training_picture(split.raw(index), drawn)
            assert torch.equal(images[place], wanted)
        assert labels.tolist() == split.labels[:12].tolist()


@pytest.mark.parametrize(("batch", "ranks"), list(itertools.product((1, 7, 30, 64), (1, 3))))
def test_an_evaluation_has_every_sample_once(binary: Path, batch: int, ranks: int) -> None:
    data = open_data(config(binary, eval_batch_size=batch))
    seen = everything(data, "test", ranks)[0].numpy()
    wanted = everything(data, "test")[0].numpy()
    assert sorted(map(np.ndarray.tobytes, seen)) == sorted(map(np.ndarray.tobytes, wanted))


def test_several_processes_share_an_epoch_and_may_see_one_order_in_all_of_them(binary: Path) -> None:
    for preset, same in (("fixed", False), ("faithful", True)):
        cfg = config(binary, preset=preset)
        loaders = [open_data(cfg).loader("train", rank, 2) for rank in range(2)]
        orders = []
        for epoch in range(2):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            batches = [batch for loader in loaders for batch in loader.sampler]
            keys = [key for batch in batches for key in batch]
            assert {key.epoch for key in keys} == {epoch}
            orders.append([key.sample for key in keys])
            assert sorted(orders[-1]) == list(range(50 if same else 40))
        assert (orders[0] == orders[1]) is same
    alone = open_data(config(binary, preset="faithful")).loader("train").sampler
    order = [key.sample for key in alone.order()]
    alone.set_epoch(1)
    assert order != [key.sample for key in alone.order()]


def test_own_folders_are_read_with_their_names(folders: Path) -> None:
    data = open_data(config(folders, "folder"))
    assert data.class_names == tuple(sorted(SHAPES))
    assert data.sizes == {"train": 40, "val": 20, "test": 20}
    images, labels = next(iter(data.loader("train")))
    assert images.shape == (8, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert data.check()["val"] == {"files": 20, "counts": [2] * 10, "smallest": 42, "largest": 48}
    assert isinstance(data.split("val"), Pictures)
    first = data.split("val").raw(0)
    assert torch.equal(everything(data, "val")[0][0], data.preprocess.picture(first))
    named = open_data(config(folders, "folder", class_names=tuple("abcdefghij")))
    assert named.class_names == tuple("abcdefghij")


def test_a_folder_of_test_is_never_what_chooses_the_best_model(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(folders / "train")
    (tmp_path / "test").symlink_to(folders / "val")
    assert open_data(config(tmp_path, "folder")).sizes == {"train": 30, "val": 10, "test": 20}
    faithful = open_data(config(tmp_path, "folder", preset="faithful"))
    assert faithful.sizes == {"train": 40, "val": 20, "test": 20}
    (tmp_path / "val").symlink_to(folders / "train")
    assert open_data(config(tmp_path, "folder")).sizes == {"train": 40, "val": 40, "test": 20}


def test_the_embedded_set_and_generated_data_have_the_real_layouts(tmp_path: Path) -> None:
    tiny = open_data(lower_values({"dataset": "tiny"}))
    assert tiny.class_names == SHAPES
    assert tiny.split("train").raw(0).shape == (32, 32, 3)
    for dataset, place in (
        ("cifar10", CIFAR10.binary),
        ("cifar100", CIFAR100.binary),
        ("folder", "train/n00000000"),
    ):
        cfg = config("nowhere", dataset, fake_data=True, num_classes=100 if dataset == "cifar100" else 10)
        data = open_data(cfg, tmp_path / dataset)
        assert (tmp_path / dataset / place).is_dir()
        assert data.sizes["train"] >= 2 * cfg.data.train_batch_size
        assert len(data.class_names) == cfg.model.num_classes
        images, labels = next(iter(data.loader("train")))
        assert images.shape == (8, 3, 32, 32)
        assert int(labels.max()) < cfg.model.num_classes
        again = open_data(cfg, tmp_path / dataset)  # replaces what is there
        assert torch.equal(next(iter(again.loader("train")))[0], images)


def official(folder: Path, of: cifar.Published = CIFAR10) -> cifar.Published:
    """A small set as Python batches; gives the set with the sums of its files."""
    place = folder / of.batches
    place.mkdir(parents=True)
    rng, sums = np.random.default_rng(0), {}
    for name in of.sums:
        labels = list(range(len(of.classes)))
        pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        content = pickle.dumps({b"data": pixels, of.labels: labels})  # noqa: TID251 - the official files are
        (place / name).write_bytes(content)
        sums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return replace(of, sums=sums)


def test_official_batches_go_on_when_they_are_others_by_option_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = official(tmp_path)
    monkeypatch.setitem(module.PUBLISHED, "cifar10", of)
    assert open_data(config(tmp_path)).sizes == {"train": 40, "val": 10, "test": 10}
    assert capsys.readouterr().err == ""
    batch = tmp_path / CIFAR10.batches / "data_batch_3"
    batch.write_bytes(batch.read_bytes() + b" ")
    with pytest.raises(
        UserError, match=r"data_batch_3: MD5 sum \w+, expected \w+, .*; --checksum warn goes on with it"
    ):
        open_data(config(tmp_path))
    assert open_data(config(tmp_path, checksum="warn")).sizes["test"] == 10
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {batch}: MD5 sum")


def test_cifar_100_is_read_from_its_own_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PUBLISHED, "cifar100", official(tmp_path, CIFAR100))
    data = open_data(config(tmp_path, "cifar100"))
    assert data.class_names[:2] == ("apple", "aquarium_fish")
    assert data.sizes["test"] == 100
    assert data.check()["test"]["counts"] == [1] * 100


def test_missing_cifar_is_fetched_if_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no CIFAR-10 in it, expected cifar-10-batches-py or .*--fake-data"):
        open_data(config(tmp_path))

    def fetched(folder: Path, of: cifar.Published, *, strict: bool) -> None:
        assert strict
        monkeypatch.setitem(module.PUBLISHED, "cifar10", official(folder, of))

    monkeypatch.setattr(module, "fetched", fetched)
    with pytest.raises(UserError, match="MD5 sum"):  # compared with the true sums, which were held before
        open_data(config(tmp_path, download=True))
    assert open_data(config(tmp_path)).sizes["test"] == 10


def replaced(cfg: Config, **model: Any) -> Config:
    return replace(cfg, model=replace(cfg.model, **model))


def test_mistakes_get_one_line(binary: Path, folders: Path, tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: open_data(config("nowhere", "folder")),
            "data_dir 'nowhere': no such folder, expected one wi",
        ),
        (
            lambda: open_data(replaced(config(binary), num_classes=9)),
            r"num_classes is 9, expected 10: .* has 10 classes",
        ),
        (
            lambda: open_data(config(folders, "folder", class_names=("a", "b"))),
            "class_names has 2 names, expected 10, one for each class of",
        ),
        (
            lambda: open_data(config(binary)).loader("half"),
            "split is 'half', expected one of train, val, test",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    write_binary(tmp_path, open_cifar(binary, "train"), open_cifar(binary, "test"))
    (tmp_path / CIFAR10.binary / "test_batch.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"test_batch\.bin: 0 bytes, expected a multiple of 3073"):
        open_data(config(tmp_path))


def test_a_damaged_picture_is_named(folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / split / name / f"{number}.png")
    broken = tmp_path / "val/dog/1.png"
    broken.write_bytes(broken.read_bytes()[:900])
    data = open_data(config(tmp_path, "folder", num_classes=2))
    with pytest.raises(UserError, match=r"dog/1\.png: picture is damaged or cut off"):
        data.check()
    with pytest.raises(UserError, match=r"dog/1\.png: picture is damaged or cut off"):
        list(data.loader("val"))


@pytest.mark.data
def test_real_pictures_are_read_as_published_batches(real_data: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    unpack = real_data / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"needs real data: {unpack} is missing")
    sizes = ["--train", "4", "--test", "2", "--parts", "test,train_a"]
    command = [sys.executable, str(unpack), str(tmp_path), "--layout", "pickle", *sizes]
    subprocess.run(command, check=True, capture_output=True)
    data = open_data(config(tmp_path, checksum="warn"))
    assert data.sizes == {"train": 30, "val": 10, "test": 20}
    images, _ = everything(data, "train")
    assert images.std() > 0.3
