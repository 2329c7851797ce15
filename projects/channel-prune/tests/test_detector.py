"""A detector for use from Python, and its answers drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from channel_prune.config import Config, DataConfig, DetectConfig, NetConfig
from channel_prune.detector import Detector
from channel_prune.draw import distinct_colours, draw_detections
from channel_prune.files.saved import Saved
from channel_prune.model import build
from channel_prune.preprocess import preprocess_of
from prunelab.data.synthetic.shapes import make_picture
from prunelab.errors import UserError

PICTURE, _ = make_picture(0, 5, side=90)
NAMES = ("circle", "triangle", "cross")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    cfg = Config(
        net=NetConfig(name="ssd_vgg16", image_size=64, nb_classes=4, width_divisor=32),
        data=DataConfig(dataset="tiny_voc"),
        detect=DetectConfig(image_size_eval=64),
    )
    model = build(cfg.net)
    saved = Saved(
        model=model.eval(),
        net=cfg.net,
        preprocess=preprocess_of(cfg),
        classes=("background", *NAMES),
        detect=cfg.detect,
    )
    return Detector(saved=saved)


def test_a_saved_detector_finds_the_same_in_files_pictures_and_arrays(
    detector: Detector, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(file)
    again = Detector.from_pretrained(detector.save_pretrained(tmp_path / "model", notes={"mAP": 0.5}))
    assert again.names == NAMES
    assert again.saved.notes["mAP"] == 0.5
    expected = detector.detect(PICTURE, least_score=0.26)
    assert len(expected.labels) > 0
    assert set(expected.labels) <= set(NAMES)
    assert (np.diff(expected.scores) <= 0).all()
    assert expected.scores.min() > 0.26
    high, wide = PICTURE.shape[:2]
    assert expected.boxes.min() >= 0
    assert (expected.boxes[:, 2:] <= (wide, high)).all()
    for picture in (file, str(file), Image.fromarray(PICTURE)):
        boxes, labels, scores = again.detect(picture, least_score=0.26)
        np.testing.assert_array_equal(boxes, expected.boxes)
        np.testing.assert_array_equal(scores, expected.scores)
        assert labels == expected.labels


def test_what_was_found_is_drawn_with_a_legend(detector: Detector) -> None:
    drawn = detector.draw(PICTURE, least_score=0.26)
    high, wide = PICTURE.shape[:2]
    factor = round(320 / min(high, wide))
    assert drawn.width == wide * factor
    assert drawn.height > high * factor
    nothing = detector.draw(PICTURE, least_score=1.0)
    assert nothing.height <= drawn.height
    difference = np.abs(
        np.asarray(drawn.crop((0, 0, drawn.width, high * factor)), int)
        - np.asarray(nothing.crop((0, 0, drawn.width, high * factor)), int)
    )
    assert (difference.sum(axis=2) > 60).mean() > 0.01


def test_a_box_is_drawn_in_the_colour_of_its_class_and_names_stay_on_the_picture() -> None:
    image = np.full((400, 500, 3), 128, np.uint8)
    boxes = np.array([[50.0, 60.0, 200.0, 300.0], [450.0, 2.0, 499.0, 390.0]])
    drawn = np.asarray(draw_detections(image, boxes, ["cross", "circle"], np.array([0.9, 0.8]), NAMES))
    colours = distinct_colours(3)
    assert drawn.shape[1] == 500
    assert tuple(drawn[200, 51]) == colours[2]
    assert tuple(drawn[200, 451]) == colours[0]
    # Its name did not fit to the right: it begins further left, inside the box's top.
    assert (drawn[3:20, 420:448] != 128).any()
    below = drawn[400:].reshape(-1, 3)
    assert (below == colours[2]).all(axis=1).any()
    assert not (below == colours[1]).all(axis=1).any()


def test_colours_differ() -> None:
    colours = np.array(distinct_colours(20), float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1000 * np.eye(20)
    assert distances.min() > 20


def test_what_is_no_picture_or_no_detector_is_told(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"picture is float64 \(4, 4\), expected uint8"):
        detector.detect(np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"none\.jpg"):
        detector.detect(tmp_path / "none.jpg")
    cfg = Config()
    classifier = Saved(
        model=build(cfg.net),
        net=cfg.net,
        preprocess=preprocess_of(cfg),
        classes=tuple("abcdefghij"),
    )
    with pytest.raises(UserError, match=r"a network that classifies \(resnet_v2\), expected a detector"):
        Detector.from_pretrained(classifier.save(tmp_path / "classifier"))
