"""``--fake-data``: a small generated data set in the real layout, to try a configuration without its data.

Pictures show shapes, so that a network can learn something; classes are as many as the configuration's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from channel_prune.config import DETECTION, Config
from prunelab.data import voc
from prunelab.data.synthetic import shapes
from prunelab.data.synthetic.shape_classes import write_class_folders, write_classes
from prunelab.util import atomic_folder

EVALUATED = 10
"""Pictures to evaluate."""
LARGEST = 128
"""Longest side of a generated picture in a folder of classes."""


def write_fake_data(folder: Path, cfg: Config) -> Path:
    """Write the data set into ``folder``, replacing what is there, and return it.

    There are two training batches, or a training picture for each class if that is more.
    """
    train = max(2 * cfg.data.batch_size, cfg.net.nb_classes)
    with atomic_folder(folder) as place:
        if cfg.data.dataset in DETECTION:
            _write_voc(place, cfg)
        elif cfg.data.dataset == "cifar10":
            write_classes(place, seed=cfg.run.seed, train=train, test=EVALUATED)
        else:
            classes = cfg.net.nb_classes - cfg.data.label_offset
            side = min(cfg.net.image_size * 9 // 8, LARGEST)
            for split, count in (("train", train), ("val", EVALUATED)):
                write_class_folders(place / split, seed=cfg.run.seed, classes=classes, count=count, side=side)
    return folder


def _write_voc(place: Path, cfg: Config) -> None:
    """Write VOC2007 and VOC2012, half of the training pictures in each; objects are of the first classes."""
    names = cfg.data.class_names or voc.CLASSES
    half = cfg.data.batch_size
    numbers = iter(range(2 * half + EVALUATED))
    for folder, counts in (
        ("VOC2007", {"trainval": half, "test": EVALUATED}),
        ("VOC2012", {"trainval": half}),
    ):
        root = place / folder
        images, annotations, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets/Main"
        for made in (images, annotations, lists):
            made.mkdir(parents=True)
        for split, count in counts.items():
            listed = [f"{next(numbers):06d}" for _ in range(count)]
            for name in listed:
                image, objects = shapes.make_picture(cfg.run.seed, int(name), side=LARGEST)
                found = replace(objects, labels=(objects.labels - 1) % len(names) + 1)
                Image.fromarray(image).save(images / f"{name}.jpg")
                (annotations / f"{name}.xml").write_text(
                    shapes.annotation(f"{name}.jpg", found, names), encoding="utf-8"
                )
            (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))
