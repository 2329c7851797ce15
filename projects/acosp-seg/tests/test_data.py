"""Data sets and batches: layouts, samples that depend on nothing but their key, and answers to mistakes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acosp_seg import data
from acosp_seg.benches import data as bench_data
from acosp_seg.config import Config, DataConfig, ModelConfig, RunOptions
from acosp_seg.data import SegmentationData, ThumbnailData, open_data
from acosp_seg.palette import read_colors, read_names, table_file
from prunelab.bench import Row
from prunelab.data.cifar import CLASSES
from prunelab.data.segmentation import read_label, read_sample
from prunelab.data.synthetic import streets
from prunelab.errors import UserError
from prunelab.seed import derive
from prunelab.transforms import Compose, Crop, Normalize, RandomCrop, ToTensor

SEGNET = ModelConfig(arch="segnet", layers=None, classes=5)
SMALL: dict[str, Any] = {
    "data_root": "",
    "train_list": "",
    "val_list": "",
    "test_list": "",
    "train_h": 33,
    "train_w": 41,
    "batch_size": 4,
    "batch_size_val": 4,
    "workers": 0,
}
FAKE = Config(model=SEGNET, data=DataConfig(dataset="camvid", ignore_label=11, fake_data=True, **SMALL))
CIFAR = Config(
    model=ModelConfig(arch="resnet18", layers=None, classes=10),
    data=DataConfig(dataset="cifar10", fake_data=True, **SMALL | {"batch_size": 64, "batch_size_val": 50}),
)


def changed(cfg: Config, **values: Any) -> Config:
    """The configuration with other values of its data group."""
    return replace(cfg, data=replace(cfg.data, **values))


def opened(cfg: Config, folder: Path) -> SegmentationData:
    found = open_data(cfg, folder / "fake")
    assert isinstance(found, SegmentationData)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    return opened(FAKE, tmp_path_factory.mktemp("fake"))


def own(folder: Path, count: int = 12, split: str = "") -> Path:
    """Pictures and labels of one's own."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for kind, shape in (("images", (20, 30, 3)), ("labels", (20, 30))):
            path = folder / kind / split / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 5, shape, dtype=np.uint8)).save(path)
    return folder


def test_generated_data_has_the_real_layout_and_the_configured_sizes(made: SegmentationData) -> None:
    assert {split: len(samples) for split, samples in made.samples.items()} == {
        "train": 8,
        "val": 2,
        "test": 2,
    }
    assert (made.folder / "list" / "train.txt").is_file()
    x, y = next(iter(made.loader("train")))
    assert x.shape == (4, 3, 33, 41)
    assert y.shape == (4, 33, 41)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert set(y.unique().tolist()) <= {0, 1, 2, 3, 4, 11}
    assert made.check()["train"]["missing"] == []


def test_generated_data_is_the_same_each_time_and_another_with_another_seed(
    made: SegmentationData, tmp_path: Path
) -> None:
    again = opened(FAKE, tmp_path / "same")
    other = opened(replace(FAKE, run=RunOptions(seed=1)), tmp_path / "other")
    ours, same, theirs = (read_sample(d.samples["train"][0])[0] for d in (made, again, other))
    assert np.array_equal(ours, same)
    assert not np.array_equal(ours, theirs)


def test_a_training_sample_is_the_original_pipelines_for_the_samples_own_random_numbers(
    made: SegmentationData,
) -> None:
    """The first sample of the first batch, made by hand the long way."""
    loader = made.loader("train")
    key = loader.sampler.order()[0]
    image, label = read_sample(made.samples["train"][key.sample])
    d = FAKE.data
    crop = RandomCrop(
        scale=(d.scale_min, d.scale_max), rotate=(d.rotate_min, d.rotate_max), size=(33, 41), ignore_label=11
    )
    rng = random.Random(derive(derive(FAKE.run.seed, "sample", *key), "python"))
    steps = Compose(transforms=[*crop.steps, ToTensor(), Normalize()])
    wanted, wanted_label = steps(image.astype(np.float32), label, rng)
    x, y = next(iter(loader))
    np.testing.assert_allclose(x[0], wanted, atol=1e-5, rtol=0)
    assert torch.equal(y[0], wanted_label)


def test_workers_processes_and_a_restart_do_not_change_batches(made: SegmentationData) -> None:
    alone = [batch for batch in made.loader("train")]  # noqa: C416 - batches are read once
    two = SegmentationData(changed(FAKE, workers=2), made.folder, made.samples)
    for (x, y), (x2, y2) in zip(alone, two.loader("train"), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    ranks = [list(made.loader("train", rank=rank, world_size=2)) for rank in range(2)]
    assert torch.equal(torch.cat([ranks[0][1][0], ranks[1][1][0]]), alone[1][0])
    loader = made.loader("train")
    loader.sampler.advance()
    (rest,) = list(loader)
    assert torch.equal(rest[0], alone[1][0])
    loader.sampler.set_epoch(1)
    assert not torch.equal(next(iter(loader))[0], alone[0][0])


def test_validation_cuts_out_the_middle_of_each_picture_once(made: SegmentationData) -> None:
    (batch,) = list(made.loader("val"))
    for x, y, sample in zip(*batch, made.samples["val"], strict=True):
        image, label = read_sample(sample)
        steps = Compose(transforms=[Crop(size=(33, 41), ignore_label=11), ToTensor(), Normalize()])
        wanted, wanted_label = steps(image.astype(np.float32), label)
        np.testing.assert_allclose(x, wanted, atol=1e-6, rtol=0)
        assert torch.equal(y, wanted_label)
    seen = [len(x) for rank in range(2) for x, _ in made.loader("val", rank=rank, world_size=2)]
    assert sum(seen) == 2


def test_a_short_last_training_batch_is_dropped_but_not_for_cifar(tmp_path: Path) -> None:
    found = opened(FAKE, tmp_path)
    loader = SegmentationData(changed(FAKE, batch_size=3), found.folder, found.samples).loader("train")
    assert [len(x) for x, _ in loader] == [3, 3]
    cifar = open_data(CIFAR, tmp_path / "cifar")
    assert isinstance(cifar, ThumbnailData)
    assert [len(x) for x, _ in cifar.loader("train")] == [64] * 3 + [48]
    assert cifar.check() == {
        "train": {"files": 240, "pixels": [24] * 10},
        "val": {"files": 60, "pixels": [6] * 10},
    }


def test_pictures_of_cifar_are_shifted_mirrored_and_normalised(tmp_path: Path) -> None:
    cifar = open_data(CIFAR, tmp_path / "cifar")
    assert isinstance(cifar, ThumbnailData)
    plain, test = cifar.split("train").images, cifar.split("val")
    assert cifar.split("test") is test
    x, y = next(iter(cifar.loader("val")))
    wanted = (test.images[:50] / 255 - data.cifar.MEAN) / data.cifar.STD
    np.testing.assert_allclose(x.permute(0, 2, 3, 1), wanted, atol=1e-5)
    assert y.tolist() == test.labels[:50].tolist()
    moved = data.Thumbnails(cifar.split("train"), training=True)
    torch.manual_seed(3)
    top, left = (int(torch.randint(0, 9, (1,))) for _ in range(2))
    mirrored = float(torch.rand(1)) < 0.5
    torch.manual_seed(3)
    image, label = moved[7]
    padded = np.pad(plain[7], ((4, 4), (4, 4), (0, 0)))[top : top + 32, left : left + 32]
    assert np.array_equal(image, padded[:, ::-1] if mirrored else padded)
    assert label == cifar.split("train").labels[7]


def test_the_embedded_streets_are_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path))
    found = opened(changed(FAKE, dataset="tiny", ignore_label=255, fake_data=False), tmp_path)
    assert [len(found.samples[s]) for s in ("train", "val", "test")] == [240, 40, 40]
    assert found.check()["val"]["files"] == 40
    assert found.check()["train"]["files"] == 200
    names, colors = (table_file(dataset="tiny", kind=kind) for kind in ("names", "colors"))
    assert names is not None
    assert colors is not None
    assert read_names(names) == list(streets.CLASSES)
    assert len(read_colors(colors)) == len(streets.CLASSES)
    assert table_file(dataset="folder") is None
    cifar_names = table_file("cifar10_names.txt")
    assert cifar_names is not None
    assert read_names(cifar_names) == list(CLASSES)


def test_own_pictures_need_no_list_files(tmp_path: Path) -> None:
    cfg = changed(FAKE, dataset="folder", data_root=str(own(tmp_path / "flat")), fake_data=False)
    found = opened(cfg, tmp_path)
    assert [len(found.samples[s]) for s in ("train", "val", "test")] == [11, 1, 1]
    for split, count in (("train", 5), ("val", 3)):
        own(tmp_path / "split", count, split)
    found = opened(changed(cfg, data_root=str(tmp_path / "split")), tmp_path)
    assert [len(found.samples[s]) for s in ("train", "val", "test")] == [5, 3, 3]
    (tmp_path / "flat/mine.txt").write_text("images/00.png\n")
    listed = changed(cfg, data_root=str(tmp_path / "flat"), train_list=str(tmp_path / "flat/mine.txt"))
    with pytest.raises(UserError, match=r"mine\.txt, line 1: .* has 1 parts, expected 2"):
        opened(listed, tmp_path)
    (tmp_path / "flat/pairs.txt").write_text("images/00.png labels/00.png\n" * 4)
    listed = changed(
        listed,
        train_list=str(tmp_path / "flat/pairs.txt"),
        test_list=str(tmp_path / "flat/mine.txt"),
        split="test",
    )
    found = opened(listed, tmp_path)
    assert [len(found.samples[s]) for s in ("train", "val", "test")] == [4, 0, 1]
    x, y = next(iter(found.loader("test")))
    assert x.shape == (1, 3, 33, 41)
    assert y.unique().tolist() == [11]


def test_mistakes_are_answered_in_one_line(
    made: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match="data_root '/none/x': no such folder, expected the pictures of camvid"
    ):
        opened(changed(FAKE, data_root="/none/x", fake_data=False), tmp_path)
    with pytest.raises(UserError, match="data_root '': no such folder"):
        opened(changed(FAKE, fake_data=False), tmp_path)
    own(tmp_path)
    with pytest.raises(UserError, match=r"list/train\.txt: no such list file"):
        opened(changed(FAKE, data_root=str(tmp_path), fake_data=False), tmp_path)

    def again(**values: Any) -> SegmentationData:
        return SegmentationData(changed(FAKE, **values), made.folder, made.samples)

    with pytest.raises(UserError, match="batch_size is 9, expected at most 8, the pictures of train_list"):
        again(batch_size=9).loader("train")
    with pytest.raises(UserError, match="batch_size_val is 1, expected at least 2, one for each process"):
        again(batch_size_val=1).loader("val", world_size=2)
    with pytest.raises(UserError, match="val_list '': no pictures"):
        SegmentationData(FAKE, made.folder, {"val": []}).loader("val")
    with pytest.raises(
        UserError, match=r"label values outside .*000000\.png has 11.*; expected 0 to 4, and 255"
    ):
        again(ignore_label=255).check()
    cifar = open_data(replace(CIFAR, model=replace(CIFAR.model, classes=9)), tmp_path / "cifar")
    with pytest.raises(UserError, match="classes is 9, expected 10"):
        cifar.check()

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: cannot be fetched \(no route to host\)"):
        open_data(changed(CIFAR, data_root=str(tmp_path / "nothing"), fake_data=False))


def test_tables_of_names_and_colours_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "camvid_names.txt").write_bytes(b"one\r\ntwo words \r\n")
    mine = table_file(tmp_path / "camvid_names.txt")
    assert mine is not None
    assert read_names(mine) == ["one", "two words"]
    with pytest.raises(UserError, match=r"my_names\.txt: no such file, expected names of classes"):
        table_file(tmp_path / "my_names.txt")
    for text in ("1 2\n", "1 2 256\n", "a b c\n"):
        (tmp_path / "c.txt").write_text(text)
        with pytest.raises(UserError, match="expected three numbers from 0 to 255"):
            read_colors(tmp_path / "c.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path)


def test_the_row_of_the_benchmark_compares_and_measures() -> None:
    row = bench_data.training_samples("small", (64, 96), (0.5, 2.0), (33, 41), None)
    assert isinstance(row, Row)
    assert row.work == bench_data.DRAWS
    assert "96x64 to a crop of 41x33" in row.note


@pytest.mark.data
def test_the_real_camvid_opens_with_the_key_ignore_label(real_data: Path) -> None:
    root = real_data / "camvid"
    if not root.is_dir():
        pytest.skip(f"needs real data: {root} is missing")
    cfg = replace(FAKE, model=replace(SEGNET, classes=11))
    lists = {f"{split}_list": str(root / f"{split}.txt") for split in ("train", "val", "test")}
    cfg = changed(cfg, data_root=str(root), fake_data=False, ignore_label=255, check_labels=10, **lists)
    found = opened(cfg, root)
    assert [len(found.samples[s]) for s in ("train", "val", "test")] == [367, 101, 233]
    assert found.check()["train"]["files"] == 10
    x, y = next(iter(found.loader("train")))
    assert x.shape == (4, 3, 33, 41)
    assert set(y.unique().tolist()) <= {*range(11), 255}
    assert read_label(found.samples["test"][0].label).shape == (360, 480)
