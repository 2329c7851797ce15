import hashlib

import numpy as np
import pytest

from prunelab.data import synthetic
from prunelab.data.cifar import CIFAR10, open_cifar
from prunelab.data.pictures import read_picture
from prunelab.data.segmentation import find_pictures, read_image
from prunelab.data.synthetic.shape_classes import (
    CLASSES,
    class_folder,
    make_picture,
    write_class_folders,
    write_classes,
)
from prunelab.errors import UserError

SEVERAL = np.stack([make_picture(0, number) for number in range(400)])


def test_pictures_are_those_of_every_other_machine():
    digest = hashlib.sha256(SEVERAL[:20].tobytes()).hexdigest()
    assert digest == "65c3d8947243275def62c002edcdb26bbc062410a29c634eb7033b34c3982849"


def test_a_set_in_binary_records_is_read_as_cifar_is_and_is_balanced(tmp_path):
    folder = synthetic.cached("classes", cache_dir=tmp_path, train=50, test=30)
    train, test = (open_cifar(folder, split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [5] * 10
    assert np.bincount(test.labels).tolist() == [3] * 10
    assert np.array_equal(train.images[7], make_picture(0, 300_007))
    assert np.array_equal(test.images[29], make_picture(0, 100_029))
    assert (folder / CIFAR10.binary / "batches.meta.txt").read_text().split() == list(CLASSES)


def test_a_larger_set_begins_with_a_smaller_one_and_another_seed_is_another_set(tmp_path):
    small, large, other = (
        open_cifar(write_classes(tmp_path / str(place), seed=seed, train=count, test=10), "train").images
        for place, (seed, count) in enumerate([(0, 20), (0, 30), (1, 20)])
    )
    assert np.array_equal(large[:20], small)
    assert (other != small).any(axis=(1, 2, 3)).all()


def test_a_set_in_folders_has_pictures_of_several_proportions(tmp_path):
    folder = synthetic.cached("classes", cache_dir=tmp_path, train=40, test=20, side=48, folders=True)
    for split, each in (("train", 4), ("val", 2)):
        assert sorted(place.name for place in (folder / split).iterdir()) == sorted(CLASSES)
        assert all(len(find_pictures(folder / split / name)) == each for name in CLASSES)
    sizes = {read_image(file).shape[:2] for file in find_pictures(folder / "train")}
    assert sizes == {(48, 48), (42, 48), (48, 42)}


def test_neither_mean_colours_nor_brightness_tell_the_class():
    seen = SEVERAL.mean(axis=(1, 2))
    labels = np.arange(len(SEVERAL)) % 10
    means = np.stack([seen[:200][labels[:200] == c].mean(axis=0) for c in range(10)])
    guessed = ((seen[200:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (guessed == labels[200:]).mean() < 0.25


def test_a_used_folder_and_a_side_that_does_not_fit_are_refused(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match="is not empty"):
        write_classes(tmp_path)
    with pytest.raises(UserError, match="side is 48, expected 32 in binary records"):
        write_classes(tmp_path / "new", side=48)


def test_folders_of_as_many_classes_as_one_likes_take_turns(tmp_path):
    write_class_folders(tmp_path, seed=1, classes=25, count=30, side=40)
    files = sorted(tmp_path.rglob("*.JPEG"))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [class_folder(i) for i in range(25)]
    assert class_folder(7) == "n00000007"
    assert len(files) == 30
    assert len(list((tmp_path / class_folder(4)).iterdir())) == 2
    assert {read_picture(file).size for file in files} == {(40, 40), (40, 35), (40, 30)}
