"""``--fake-data``: a small generated data set in the real layout, to try a configuration without its data.

Pictures show shapes, so that a network can learn something; classes are as many as the configuration's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apt_vit.config import Config
from prunelab.data.cifar import CIFAR100, CifarSplit, write_binary
from prunelab.data.synthetic.shape_classes import (
    make_picture,
    write_class_folders,
    write_classes,
)
from prunelab.util import atomic_folder

EVALUATED = 10
"""Pictures to test on."""
LARGEST = 96
"""Longest side of a generated picture in a folder of classes."""


def write_fake_data(folder: Path, cfg: Config) -> Path:
    """Write the data set into ``folder``, replacing what is there, and return it.

    Its pictures are enough for two updates besides those that are kept back for validation.
    """
    classes, seed = cfg.model.num_classes, cfg.run.seed
    train = 2 * cfg.data.train_batch_size + 2 * classes
    with atomic_folder(folder) as place:
        if cfg.data.dataset == "cifar100":
            parts = (_numbered(seed + number, count) for number, count in enumerate((train, EVALUATED)))
            write_binary(place, *parts, of=CIFAR100)
        elif cfg.data.dataset == "folder":
            side = min(max(cfg.model.img_size) * 9 // 8, LARGEST)
            for split, count in (("train", train), ("val", EVALUATED)):
                write_class_folders(place / split, seed=seed, classes=classes, count=count, side=side)
        else:
            write_classes(place, seed=seed, train=train, test=EVALUATED)
    return folder


def _numbered(seed: int, count: int) -> CifarSplit:
    """Pictures of shapes that take turns through the classes of CIFAR-100."""
    images = np.stack([make_picture(seed, number) for number in range(count)])
    return CifarSplit(images, np.arange(count) % len(CIFAR100.classes))
