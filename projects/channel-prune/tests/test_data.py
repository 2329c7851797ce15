import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from channel_prune.config import Config, DataConfig, NetConfig, PruneConfig, RunOptions
from channel_prune.data import Data, Pictures, open_data
from channel_prune.files.loading import load_network
from channel_prune.preprocess import preprocess_of
from prunelab.data.cifar import CIFAR10, CLASSES, open_cifar
from prunelab.data.pictures_of_classes import CLASS_FILE, spread
from prunelab.data.synthetic.shape_classes import CLASSES as SHAPES
from prunelab.data.synthetic.shape_classes import write_classes
from prunelab.errors import UserError
from prunelab.transforms.classify import CIFAR


@pytest.fixture(scope="module")
def binary(tmp_path_factory) -> Path:
    """50 training and 30 test pictures in CIFAR-10's binary records."""
    return write_classes(tmp_path_factory.mktemp("cifar"), train=50, test=30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """40 training and 20 evaluation pictures in folders of ten classes."""
    return write_classes(tmp_path_factory.mktemp("folders"), train=40, test=20, side=48, folders=True)


def config(
    folder: Path | str = "", dataset: str = "cifar10", net: dict[str, Any] | None = None, **data
) -> Config:
    values = {"batch_size": 8, "batch_size_eval": 7, "workers": 0} | data
    return Config(
        net=NetConfig(**(net or {})),
        data=DataConfig(dataset=dataset, data_dir=str(folder), **values),
        run=RunOptions(seed=3),
    )


def large(folder: Path | str, **data: Any) -> Config:
    return config(
        folder, "ilsvrc12", {"image_size": 64, "resnet_size": 18, "dataset_form": "ilsvrc12"}, **data
    )


def everything(data: Data, split: str = "eval", **how: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        batch for rank in range(how.get("world_size", 1)) for batch in data.loader(split, rank=rank, **how)
    ]


def test_cifar_is_read_from_binary_records(binary):
    data = open_data(config(binary))
    assert data.classes == CLASSES
    test = open_cifar(binary, "test")
    images, labels = map(torch.cat, zip(*everything(data), strict=True))
    assert torch.equal(labels, torch.from_numpy(test.labels))
    assert np.array_equal(images.numpy(), CIFAR(test.images).transpose(0, 3, 1, 2))
    assert data.check()["train"] == {"files": 50, "counts": [5] * 10}


def test_training_pictures_move_and_are_the_same_with_and_without_workers(binary):
    alone, helped = (open_data(config(binary, workers=workers)).loader("train") for workers in (0, 2))
    first, again = list(alone), list(helped)
    assert [len(labels) for _, labels in first] == [8] * 6
    for (images, labels), (images_2, labels_2) in zip(first, again, strict=True):
        assert torch.equal(images, images_2)
        assert torch.equal(labels, labels_2)
    alone.sampler.set_epoch(1)
    assert not torch.equal(next(iter(alone))[0], first[0][0])
    borders = torch.cat([images[:, :, 0] for images, _ in first])
    assert (borders == 0).all(dim=(1, 2)).any()  # some moved down
    assert not (borders == 0).all(dim=(1, 2)).all()


@pytest.mark.parametrize(("batch", "ranks"), list(itertools.product((1, 7, 30, 64), (1, 2, 3))))
def test_an_evaluation_has_every_sample_once_for_every_batch_and_number_of_processes(binary, batch, ranks):
    data = open_data(config(binary, batch_size_eval=batch))
    seen = torch.cat([images for images, _ in everything(data, world_size=ranks)]).numpy()
    wanted = CIFAR(open_cifar(binary, "test").images).transpose(0, 3, 1, 2)
    assert sorted(map(np.ndarray.tobytes, seen)) == sorted(map(np.ndarray.tobytes, wanted))


def test_an_evaluation_of_fewer_samples_is_spread_over_the_set(binary, folders):
    data = open_data(config(binary, nb_smpls_eval=10))
    whole = open_cifar(binary, "test").labels
    labels = torch.cat([labels for _, labels in everything(data)]).numpy()
    assert labels.tolist() == whole[spread(len(whole), 10)].tolist()
    data = open_data(config(folders, "folder", {"image_size": 64}, nb_smpls_eval=10))
    labels = torch.cat([labels for _, labels in everything(data)])
    assert labels.tolist() == list(range(10))  # folders are in the order of classes


def test_labels_of_ilsvrc_begin_with_one(folders):
    cfg = large(folders, label_offset=1)
    with pytest.raises(
        UserError, match=r"nb_classes is 10, expected 11, background included: .* has 10 classes"
    ):
        open_data(cfg)
    data = open_data(Config(net=NetConfig(nb_classes=11, image_size=64), data=cfg.data, run=cfg.run))
    assert data.classes == ("background", *sorted(SHAPES))
    images, labels = map(torch.cat, zip(*everything(data), strict=True))
    assert images.shape == (20, 3, 64, 64)
    assert sorted(set(labels.tolist())) == list(range(1, 11))
    assert data.check()["eval"] == {"files": 20, "counts": [2] * 10, "smallest": 42, "largest": 48}


def test_own_pictures_need_no_split_and_may_have_a_list_of_names(folders, tmp_path):
    (tmp_path / "own").symlink_to(folders / "train")
    cfg = config(tmp_path / "own", "folder", {"image_size": 32})
    data = open_data(cfg)
    assert "10 of 40 pictures were kept for it, chosen by seed 3" in data.how
    assert (len(data.splits["train"]), len(data.splits["eval"])) == (30, 10)
    named = tmp_path / "named"
    named.mkdir()
    for split in ("train", "val"):
        (named / split).symlink_to(folders / split)
    (named / CLASS_FILE).write_text("".join(f"{name}\t{name.upper()}\n" for name in reversed(SHAPES)))
    for names in ((), tuple(sorted(SHAPES))):
        found = open_data(config(named, "folder", class_names=names))
        assert found.classes == tuple(name.upper() for name in reversed(SHAPES))
    given = open_data(config(named, "folder", class_names=tuple("abcdefghij")))
    assert given.classes == tuple("abcdefghij")
    with pytest.raises(UserError, match="class_names has 2 names, expected 10"):
        open_data(config(named, "folder", class_names=("a", "b")))


def test_training_pictures_of_folders_change_at_random_and_stay_with_their_labels(folders):
    loader = open_data(config(folders, "folder", {"image_size": 64})).loader("train")
    first = list(loader)
    assert [images.shape for images, _ in first] == [(8, 3, 64, 64)] * 5
    again = list(open_data(config(folders, "folder", {"image_size": 64}, workers=2)).loader("train"))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    loader.sampler.set_epoch(1)
    labels = torch.cat([labels for _, labels in loader])
    assert torch.bincount(labels).tolist() == [4] * 10


def test_batches_to_choose_channels_on_are_drawn_once_and_are_enough(binary):
    data = open_data(config(binary))
    way = PruneConfig(nb_smpls=20, batch_size=8, seed=5)
    batches = data.sampling_batches(way)
    assert [batch.shape for batch in batches] == [(8, 3, 32, 32)] * 3
    assert all(map(torch.equal, batches, data.sampling_batches(way)))
    assert not torch.equal(batches[0], data.sampling_batches(replace(way, seed=6))[0])
    assert not torch.equal(batches[0], next(iter(data.loader("train")))[0])


def test_pictures_to_choose_channels_on_are_changed_at_random_where_that_is_wanted(binary):
    data = open_data(config(binary))
    way = PruneConfig(nb_smpls=50, batch_size=50, seed=5)
    (plain,), (changed,) = (
        data.sampling_batches(replace(way, sample_augmented=augmented)) for augmented in (False, True)
    )
    empty = [(images == 0).all(1).any() for images in (plain, changed)]  # in all colours: what padding leaves
    assert empty == [False, True]
    assert data.splits["train"].training  # the next training is not touched


def test_of_a_small_set_pictures_come_several_times(binary):
    data = open_data(config(binary))
    many = data.sampling_batches(PruneConfig(nb_smpls=120, batch_size=32, seed=0))
    assert [len(batch) for batch in many] == [32] * 4
    assert not torch.equal(many[0], many[1])
    whole = data.sampling_batches(PruneConfig(nb_smpls=60, batch_size=64, seed=0))
    assert [len(batch) for batch in whole] == [50, 50]


def test_the_embedded_set_is_opened_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path))
    data = open_data(config(dataset="tiny"))
    assert data.classes == SHAPES
    assert data.check()["eval"]["counts"] == [50] * 10


def test_fake_cifar_has_the_real_layout(tmp_path):
    data = open_data(config("nowhere", fake_data=True), tmp_path / "fake")
    assert (tmp_path / "fake" / CIFAR10.binary / "data_batch_1.bin").is_file()
    assert len(data.loader("train")) == 2
    assert len(data.splits["eval"]) == 10
    open_data(config("nowhere", fake_data=True), tmp_path / "fake")  # replaces what is there


def test_fake_ilsvrc_has_all_its_classes(tmp_path):
    net = NetConfig(nb_classes=1001, image_size=224, dataset_form="ilsvrc12", resnet_size=18)
    values = {"batch_size": 2, "label_offset": 1, "fake_data": True, "workers": 0}
    data = open_data(Config(net=net, data=DataConfig(dataset="ilsvrc12", **values)), tmp_path / "fake")
    assert len(data.classes) == 1001
    assert (tmp_path / "fake/train/n00000999").is_dir()
    images, labels = next(iter(data.loader("train")))
    assert images.shape == (2, 3, 224, 224)
    assert labels.min() >= 1
    assert len(data.splits["eval"]) == 10


def test_data_that_is_not_there_is_named(tmp_path):
    for folder in ("", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no such folder, expected the pictures of cifar10; name it with"):
            open_data(config(folder))
    with pytest.raises(UserError, match="no CIFAR-10 in it"):
        open_data(config(tmp_path))
    with pytest.raises(UserError, match="no folders of classes in it"):
        open_data(config(tmp_path, "ilsvrc12"))


def test_sizes_and_splits_that_do_not_fit_are_refused(binary):
    with pytest.raises(UserError, match="image_size is 64, expected 32 for cifar10, or dataset folder"):
        open_data(config(binary, net={"image_size": 64}))
    with pytest.raises(UserError, match=r"nb_classes is 12, expected 10: .* has 10 classes"):
        open_data(config(binary, net={"nb_classes": 12}))
    data = open_data(config(binary))
    with pytest.raises(UserError, match="split is 'val', expected one of train, eval"):
        data.loader("val")


def test_a_damaged_picture_is_named_before_and_while_training(folders, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / name / f"{number}.jpg")
    bad, message = tmp_path / "b/3.jpg", r"b/3\.jpg: picture is damaged or cut off"
    bad.write_bytes(bad.read_bytes()[:-40])
    for workers in (0, 1):
        cfg = config(tmp_path, "folder", {"nb_classes": 2}, workers=workers, batch_size=5)
        data = open_data(cfg)
        with pytest.raises(UserError, match=message):
            data.check()
        with pytest.raises(UserError, match=message):
            assert list(data.loader("train")) + list(data.loader("eval"))


def test_an_empty_split_is_refused(folders):
    cfg = config(folders, "folder")
    data = open_data(cfg)
    none = Pictures(
        data.splits["eval"].found.some(0), preprocess_of(cfg), training=False, classes=10, offset=0
    )
    empty = Data(
        cfg=cfg, folder=folders, classes=data.classes, preprocess=data.preprocess, splits={"eval": none}
    )
    with pytest.raises(UserError, match="no pictures of the split eval"):
        empty.loader("eval")


@pytest.mark.data
def test_the_published_network_knows_real_pictures(real_data, tmp_path):
    unpack, weights = real_data / "cifar10/unpack.py", real_data / "resnet_cifar10/resnet20-12fca82f.th"
    for file in (unpack, weights):
        if not file.is_file():
            pytest.skip(f"needs real data: {file} is missing")
    sizes = ["--parts", "test,train_a", "--test", "50", "--train", "1", "--layout", "pickle"]
    subprocess.run([sys.executable, str(unpack), str(tmp_path), *sizes], check=True, capture_output=True)
    cfg = config(tmp_path, net={"name": "resnet_v1"}, pixels="imagenet", batch_size_eval=100)
    network = load_network(weights, cfg.net).eval()
    with torch.no_grad():
        right = [(network(x).argmax(1) == y).float() for x, y in open_data(cfg).loader("eval")]
    assert 0.76 < torch.cat(right).mean() < 0.86  # 0.8103 on all 10,000


def detection(dataset: str, classes: int, **data: Any) -> Config:
    net = {"name": "ssd_vgg16", "image_size": 300, "nb_classes": classes}
    return config(
        "nowhere", dataset, net, **{"batch_size": 2, "batch_size_eval": 4, "nb_smpls_eval": 6} | data
    )


def test_fake_pascal_voc_has_two_years_and_is_opened_as_the_real_one(tmp_path):
    cfg = detection("voc", 21, fake_data=True)
    data = open_data(cfg, tmp_path)
    assert data.classes[:3] == ("background", "aeroplane", "bicycle")
    assert {file.parts[-3] for file in tmp_path.glob("*/Annotations/*")} == {"VOC2007", "VOC2012"}
    x, targets = next(iter(data.loader("train")))
    assert x.shape == (2, 3, 300, 300)
    assert targets["boxes"].shape == (*targets["labels"].shape, 4)
    assert [len(x) for x, _ in everything(data)] == [4, 2]
    assert sum(data.check()["train"]["counts"]) >= 4
    assert [len(x) for x in data.sampling_batches(PruneConfig(nb_smpls=3, batch_size=2, seed=0))] == [2, 2]


def test_the_embedded_detection_set_is_opened_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path))
    data = open_data(detection("tiny_voc", 4))
    assert data.classes == ("background", "circle", "triangle", "cross")
    assert data.preprocess.bgr
    assert next(iter(data.loader("eval")))[0].shape == (4, 3, 300, 300)
