"""Generated data in the real layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_vit.fake import EVALUATED, write_fake_data
from apt_vit.lowering import lower_values
from prunelab.data.cifar import CIFAR10, CIFAR100, open_cifar
from prunelab.data.pictures import read_picture

BATCH = 12


def written(folder: Path, dataset: str, **values: Any) -> Path:
    common = {"dataset": dataset, "fake_data": True, "train_batch_size": BATCH, "model_type": "tiny"}
    return write_fake_data(folder, lower_values(common | values))


@pytest.mark.parametrize(("dataset", "of"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_has_enough_pictures_for_two_updates(tmp_path: Path, dataset: str, of: Any) -> None:
    folder = written(tmp_path / "set", dataset)
    train, test = (open_cifar(folder, split, of) for split in ("train", "test"))
    classes = len(of.classes)
    assert len(train) == 2 * BATCH + 2 * classes
    assert len(test) == EVALUATED
    assert np.bincount(train.labels, minlength=classes).min() >= 2
    assert train.images.std() > 20
    assert not np.array_equal(train.images[:EVALUATED], test.images)


def test_folders_have_as_many_classes_as_the_network_and_are_replaced(tmp_path: Path) -> None:
    for classes in (13, 3):
        folder = written(tmp_path / "set", "folder", num_classes=classes)
        assert len(list((folder / "train").iterdir())) == classes
    pictures = sorted((folder / "train").rglob("*.JPEG"))
    assert len(pictures) == 2 * BATCH + 2 * 3
    sizes = {read_picture(path).size for path in pictures}
    assert len(sizes) == 3
    assert len(list((folder / "val").rglob("*.JPEG"))) == EVALUATED
