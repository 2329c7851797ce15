import hashlib

import numpy as np
import pytest

from prunelab.data.segmentation import read_image
from prunelab.data.synthetic import cached
from prunelab.data.synthetic.shapes import CLASSES, make_picture, write_voc
from prunelab.data.voc import check_objects, collect_classes, read_image_set, read_objects
from prunelab.errors import UserError

PICTURES = [make_picture(0, number, side=96) for number in range(60)]


def test_pictures_and_boxes_are_those_of_every_other_machine():
    digest = hashlib.sha256()
    for image, objects in PICTURES[:8]:
        digest.update(image.tobytes())
        for part in (objects.labels, objects.boxes, objects.difficult):
            digest.update(part.tobytes())
    assert digest.hexdigest() == "4538b4c8d12073fcc72ecee1190a65126353e40cf1a7be0eced9ea9a86448c9b"


def test_boxes_lie_in_their_pictures_and_all_classes_occur():
    for image, objects in PICTURES:
        assert image.shape == (objects.height, objects.width, 3)
        assert max(image.shape) == 96
        assert 1 <= len(objects.labels) <= 3
        assert (objects.boxes[:, :2] >= 1).all()
        assert (objects.boxes[:, 2:] <= (objects.width, objects.height)).all()
        assert (objects.boxes[:, 2:] - objects.boxes[:, :2] >= 3).all()
    counts = np.bincount(np.concatenate([objects.labels for _, objects in PICTURES]))
    assert (counts[1:] > 15).all()
    assert len({image.shape for image, _ in PICTURES}) > 5
    assert 0 < sum(objects.difficult.sum() for _, objects in PICTURES) < 10


def test_a_box_holds_the_object_and_the_pixels_around_it_differ():
    image, objects = next((i, o) for i, o in PICTURES if len(o.labels) == 1)
    left, top, right, bottom = objects.boxes[0].astype(int)
    inside = image[top - 1 : bottom, left - 1 : right].astype(int)
    outside = np.ones(image.shape[:2], bool)
    outside[top - 1 : bottom, left - 1 : right] = False
    ground = np.median(image[outside], axis=0)
    assert (np.abs(inside - ground).sum(axis=2) > 90).mean() > 0.25


def test_the_real_reader_reads_the_embedded_set(tmp_path):
    folder = cached("shapes", cache_dir=tmp_path, train=6, val=3, test=2, side=64)
    sizes = {s: len(read_image_set(folder, f"VOC2007/{s}")) for s in ("train", "val", "trainval", "test")}
    assert sizes == {"train": 6, "val": 3, "trainval": 9, "test": 2}
    samples = read_image_set(folder, "VOC2007/trainval")
    assert collect_classes(samples) == tuple(sorted(CLASSES))
    assert min(check_objects(samples, CLASSES).values()) > 0
    for sample in samples:
        _, expected = make_picture(0, int(sample.name), side=64)
        found = read_objects(sample.annotation, CLASSES)
        assert read_image(sample.image).shape[:2] == (found.height, found.width)
        for name in ("labels", "boxes", "difficult"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        write_voc(tmp_path)
