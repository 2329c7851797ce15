"""The Python API of classifiers: pictures in, classes out; saved and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from channel_prune.classifier import Classifier
from channel_prune.config import NetConfig
from channel_prune.files.saved import Saved
from channel_prune.model import build
from channel_prune.preprocess import Preprocess
from channel_prune.slim import masked
from prunelab.errors import UserError

NAMES = ("cat", "dog", "emu")


def classifier(**options: object) -> Classifier:
    torch.manual_seed(0)
    net = NetConfig(width_divisor=4, nb_classes=3)
    given = {"classes": NAMES, "dataset": "pets", "notes": {"accuracy": 0.5}, **options}
    model = masked(build(net), {"stages.0.0.conv2": [0, 2]}).eval()
    preprocess = Preprocess(side=32, shorter=32, recipe="small")
    return Classifier(saved=Saved(model=model, net=net, preprocess=preprocess, **given))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 45, 3), dtype=np.uint8)
    file = tmp_path / "cat.png"
    Image.fromarray(pixels).save(file)
    return file


def test_a_picture_gets_its_likeliest_classes(picture: Path) -> None:
    model = classifier()

    found = model.classify(picture, top=2)

    assert len(found) == 2
    assert {name for name, _ in found} < set(NAMES)
    assert 1 > found[0][1] >= found[1][1] > 0
    whole = model.classify(str(picture))
    assert sum(share for _, share in whole) == pytest.approx(1)
    image = Image.open(picture)
    assert model.classify(image) == model.classify(np.asarray(image)) == whole


def test_many_pictures_and_none(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    monkeypatch.setattr("channel_prune.classifier.BATCH", 2)

    rows = model.probabilities([picture] * 5)

    assert rows.shape == (5, 3)
    torch.testing.assert_close(rows[4], rows[0])
    assert model.probabilities([]).shape == (0, 3)


def test_it_is_saved_with_a_card_and_read_again(picture: Path, tmp_path: Path) -> None:
    model = classifier()
    small = model.slim()
    for each, name in ((model, "full"), (small, "slim")):
        folder = each.save_pretrained(tmp_path / name)
        again = Classifier.from_pretrained(folder)
        assert again.classify(picture) == each.classify(picture)
        assert again.saved.notes == {"accuracy": 0.5}
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "classify" in card
        assert name in card
    assert small.slim() is small
    assert small.classify(picture)[0][0] == model.classify(picture)[0][0]


def test_classes_without_names_are_numbered(picture: Path) -> None:
    assert classifier(classes=()).classify(picture, top=1)[0][0].startswith("class ")


def test_what_is_no_picture_is_told_in_one_line(tmp_path: Path) -> None:
    model = classifier()
    with pytest.raises(UserError, match="no such picture"):
        model.classify(tmp_path / "nothing.png")
    with pytest.raises(UserError, match=r"float64 \(4, 4\), expected uint8"):
        model.classify(np.zeros((4, 4)))
    with pytest.raises(UserError, match="3 classes have 2 names"):
        classifier(classes=("cat", "dog"))


def test_a_detector_is_no_classifier() -> None:
    net = NetConfig(name="ssd_vgg16", nb_classes=3, image_size=128, width_divisor=32)
    preprocess = Preprocess(side=128, shorter=128, recipe="whole")
    saved = Saved(model=build(net), net=net, preprocess=preprocess, classes=NAMES)
    with pytest.raises(UserError, match="finds boxes, expected a classifier"):
        Classifier(saved=saved)
