from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from channel_prune.config import Config, DataConfig, DetectConfig, NetConfig, QuirkConfig
from channel_prune.detect.dataset import VocDetection, class_names, image_sets, open_voc
from channel_prune.preprocess import preprocess_of
from prunelab.data.loader import make_loader
from prunelab.data.synthetic import shapes
from prunelab.data.voc import read_image_set
from prunelab.errors import UserError

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_voc(tmp_path_factory.mktemp("voc"), train=8, val=4, test=6, side=80)


def config(**changes: object) -> Config:
    cfg = Config(
        net=NetConfig(name="ssd_vgg16", image_size=SIZE, nb_classes=4),
        data=DataConfig(dataset="voc"),
        detect=DetectConfig(image_size_eval=SIZE),
    )
    return replace(cfg, **changes)


def split(folder: Path, name: str, *, training: bool) -> VocDetection:
    samples = read_image_set(folder, f"VOC2007/{name}")
    return VocDetection(samples, shapes.CLASSES, preprocess_of(config()), training=training)


def test_evaluation_takes_whole_pictures_with_all_their_boxes(folder: Path) -> None:
    data = split(folder, "test", training=False)
    for number in range(len(data)):
        found, truth = data[number], data.objects(number)
        assert found.image.shape == (3, SIZE, SIZE)
        assert found.number == number
        assert found.labels.tolist() == truth.labels.tolist()
        ymin, xmin, ymax, xmax = found.boxes.T.numpy()
        np.testing.assert_allclose(xmin * truth.width, truth.boxes[:, 0], rtol=1e-5)
        np.testing.assert_allclose(ymax * truth.height, truth.boxes[:, 3], rtol=1e-5)
        assert (ymin < ymax).all()
        assert (xmin < xmax).all()


def test_training_changes_pictures_and_the_same_seed_changes_them_alike(folder: Path) -> None:
    data = split(folder, "trainval", training=True)
    random.seed(1)
    first, second = data[0], data[0]
    random.seed(1)
    again = data[0]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.image, second.image)


def test_batches_are_padded_and_the_same_for_any_number_of_workers(folder: Path) -> None:
    data = split(folder, "trainval", training=True)
    options = {"batch_size": 5, "collate": data.collate, "seed": 3, "shuffle": True, "drop_last": True}
    (x, targets), *_ = list(make_loader(data, **options))
    (other, others), *_ = list(make_loader(data, workers=1, **options))
    assert x.shape == (5, 3, SIZE, SIZE)
    assert torch.equal(x, other)
    for name, value in targets.items():
        assert torch.equal(value, others[name])
    assert targets["boxes"].shape == (*targets["labels"].shape, 4)
    assert not targets["boxes"][targets["labels"] == 0].any()
    assert (targets["labels"] > 0).any(dim=1).all()


def test_training_leaves_out_difficult_objects_and_keeps_one_where_all_are() -> None:
    preprocess = preprocess_of(config())
    data = VocDetection([], shapes.CLASSES, preprocess, training=True, most=2)
    _, objects = shapes.make_picture(0, 1)
    objects = replace(objects, labels=np.ones(4, np.int64), boxes=np.ones((4, 4), np.float32))
    for difficult, used in (([0, 1, 0, 0], [0, 2]), ([1, 1, 1, 1], [0]), ([1, 1, 1, 0], [3])):
        assert data._used(replace(objects, difficult=np.array(difficult, bool))).tolist() == used


def test_a_picture_without_objects_is_a_sample_too(folder: Path, tmp_path: Path) -> None:
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(tmp_path / "mine/JPEGImages/a.jpg")
    text = "<annotation><size><width>50</width><height>40</height></size></annotation>"
    (tmp_path / "mine/Annotations/a.xml").write_text(text)
    samples = read_image_set(tmp_path, "mine/trainval")
    data = VocDetection(samples, shapes.CLASSES, preprocess_of(config()), training=True)
    _, targets = data.collate([data[0], split(folder, "test", training=True)[0]])
    assert not targets["labels"][0].any()
    assert targets["boxes"].shape[0] == 2
    (tmp_path / "mine/Annotations/a.xml").write_text(text.replace("40", "41"))
    with pytest.raises(UserError, match=r"a.xml: size is 50x41, expected 50x40 as .*a.jpg has"):
        _ = data[0]


def test_annotations_are_looked_at_before_a_training(folder: Path) -> None:
    data = split(folder, "test", training=False)
    found = data.check()
    assert found["files"] == 6
    assert sum(found["counts"]) == sum(len(data.objects(number).labels) for number in range(6))
    missing = VocDetection(
        [replace(data.samples[0], image=Path("none.jpg"))], shapes.CLASSES, data.preprocess, training=False
    )
    with pytest.raises(UserError, match=r"none.jpg: no such picture"):
        missing.check()
    other = VocDetection(data.samples, ("cat",), data.preprocess, training=False)
    with pytest.raises(UserError, match=r"xml, object 1: class '\w+' is unknown"):
        other.check()


def test_a_data_set_is_opened_with_the_sets_that_it_has(folder: Path) -> None:
    names, splits = open_voc(config(), folder, preprocess_of(config()))
    assert names == ("background", *sorted(shapes.CLASSES))
    assert [len(splits[name]) for name in ("train", "eval")] == [12, 6]
    assert splits["train"].training
    assert not splits["eval"].training
    few = config(data=DataConfig(dataset="voc", nb_smpls_eval=2, train_sets=("VOC2007/val",)))
    _, splits = open_voc(few, folder, preprocess_of(few))
    assert [len(splits[name]) for name in ("train", "eval")] == [4, 2]
    every = config(quirks=QuirkConfig(voc_every_picture=True))
    assert [len(samples) for samples in image_sets(every, folder)] == [12, 6]


def test_classes_are_given_known_or_those_that_occur(folder: Path) -> None:
    train, _ = image_sets(config(), folder)
    given = config(data=DataConfig(dataset="voc", class_names=("background", "a", "b", "c")))
    assert class_names(given, train) == ("a", "b", "c")
    assert class_names(config(), train) == tuple(sorted(shapes.CLASSES))
    assert class_names(config(data=DataConfig(dataset="tiny_voc")), train) == shapes.CLASSES
    published = config(net=NetConfig(name="ssd_vgg16", image_size=SIZE, nb_classes=21))
    assert class_names(published, train)[:2] == ("aeroplane", "bicycle")
    wrong = config(net=NetConfig(name="ssd_vgg16", image_size=SIZE, nb_classes=6))
    with pytest.raises(
        UserError, match=r"nb_classes is 6, expected 4, background included: .* has 3 classes"
    ):
        open_voc(wrong, folder, preprocess_of(wrong))
