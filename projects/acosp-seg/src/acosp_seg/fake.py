"""``--fake-data``: a small generated data set in the real layout, to try a configuration without its data.

Pictures are patches of colours, one for each class, so that a network can learn something; sizes and classes
are those of the configuration, and so is the label of pixels without a class.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from acosp_seg.config import Config
from prunelab.data import cifar
from prunelab.data.segmentation import Sample, write_list
from prunelab.data.synthetic.shape_drawing import COLOURS, SHAPES, cover
from prunelab.seed import derive
from prunelab.util import atomic_folder

EVALUATED = 2
"""Pictures of validation and of the test each."""
PATCH = 24
"""Side of a patch of one class in pixels, before pictures are stretched a little."""
PER_CLASS = {"train": 24, "test": 6}
"""Pictures of each class of CIFAR-10, at least."""


def write_fake_data(folder: Path, cfg: Config) -> Path:
    """Write the data set into ``folder``, replacing what is there, and return it.

    There are two training batches, and for validation and the test two pictures each, in ``list/train.txt``,
    ``list/val.txt`` and ``list/test.txt``; for CIFAR-10, folders of pictures by class.
    """
    generator = np.random.default_rng(derive(cfg.run.seed, "fake data"))
    with atomic_folder(folder) as place:
        if cfg.data.dataset == "cifar10":
            _write_thumbnails(place, cfg, generator)
        else:
            for split, count in (("train", 2 * cfg.data.batch_size), ("val", EVALUATED), ("test", EVALUATED)):
                samples = [_write_pair(place, split, number, cfg, generator) for number in range(count)]
                write_list(place / "list" / f"{split}.txt", samples, place)
    return folder


def class_colors(classes: int) -> np.ndarray:
    """A colour for each class, (K, 3) uint8, red, green, blue."""
    return np.random.default_rng(derive(0, "fake colours")).integers(32, 224, (classes, 3), dtype=np.uint8)


def _write_pair(place: Path, split: str, number: int, cfg: Config, generator: np.random.Generator) -> Sample:
    """Write a picture and its label map, a little larger than a training crop."""
    height, width = cfg.data.train_h + 9, cfg.data.train_w + 7
    classes, void = cfg.model.classes, cfg.data.ignore_label
    grid = generator.integers(0, classes, (-(-height // PATCH), -(-width // PATCH)))
    # Repeated (rows, columns) times, then cut to size.
    label = grid.repeat(PATCH, axis=0).repeat(PATCH, axis=1)[:height, :width].astype(np.uint8)
    noise = generator.normal(0, 12, (*label.shape, 3)).astype(np.float32)
    image = np.clip(class_colors(classes)[label] + noise, 0, 255).astype(np.uint8)
    label[:2], label[:, :2] = void, void
    sample = Sample(
        place / "images" / split / f"{number:06d}.jpg", place / "labels" / split / f"{number:06d}.png"
    )
    _write(sample.image, image[:, :, ::-1])  # OpenCV writes blue, green, red
    _write(sample.label, label)
    return sample


def _write_thumbnails(place: Path, cfg: Config, generator: np.random.Generator) -> None:
    """Write pictures of coloured shapes: shape and colour together tell the class."""
    colors = [np.array(color) for color in COLOURS.values()]
    batches = {"train": cfg.data.batch_size, "test": cfg.data.batch_size_val}
    for split, least in PER_CLASS.items():
        count = max(least, -(-2 * batches[split] // len(cifar.CLASSES)) if split == "train" else 0)
        for number, name in enumerate(cifar.CLASSES):
            for copy in range(count):
                x, y, radius = generator.uniform((0.35, 0.35, 0.2), (0.65, 0.65, 0.34))
                share = cover(SHAPES[number % len(SHAPES)], (x, y), radius, (1.0, 0.0), cifar.SIDE)[
                    :, :, None
                ]
                ground = np.full(3, generator.uniform(0.2, 0.8))
                pixels = ground + share * (colors[(number * 3) % len(colors)] - ground)
                pixels = pixels + generator.normal(0, 0.06, pixels.shape)
                image = np.clip(pixels * 255, 0, 255).astype(np.uint8)
                _write(place / split / name / f"{copy:05d}.png", image[:, :, ::-1])


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(array))[1].tobytes())
