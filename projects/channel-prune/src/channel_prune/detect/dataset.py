"""Pictures with boxes as samples and batches.

# B batch, N objects of a picture (padded in a batch), S side of what the network takes
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from channel_prune.config import Config
from channel_prune.preprocess import Preprocess
from prunelab.data import voc
from prunelab.data.pictures import pixels
from prunelab.data.pictures_of_classes import spread
from prunelab.data.synthetic import shapes
from prunelab.data.voc import VocObjects, VocSample, check_objects, read_objects
from prunelab.errors import UserError
from prunelab.transforms.boxes import SsdChange

BACKGROUND = "background"
"""Name of class 0."""
TRAIN_SETS, EVAL_SETS = ("VOC2007/trainval", "VOC2012/trainval"), ("VOC2007/test",)
"""Image sets that are used where none are named and the data set has them."""


class BoxedPicture(NamedTuple):
    """A sample."""

    image: Tensor
    """(3, S, S) float32, normalised."""
    boxes: Tensor
    """Corners (ymin, xmin, ymax, xmax) as shares of the sides, (N, 4) float32."""
    labels: Tensor
    """Classes from 1, (N,) int64."""
    number: int
    """Which picture of the data set it is."""


class VocDetection:
    """Pictures with boxes; made for `prunelab.data.loader`, whose seeds Python's generator is drawn from.

    Training drops difficult objects, all but the first where all of them are difficult.

    Args:
        samples: which.
        classes: names without background; label k is the k-th, from 1.
        preprocess: the way to the network.
        training: change pictures at random.
        third_attempt_lost: see `prunelab.transforms.boxes.SsdChange`.
        most: objects of a training picture that are used at most.
        empty_boxes: of boxes without an area: ``error`` or ``drop``.
    """

    def __init__(
        self,
        samples: Sequence[VocSample],
        classes: Sequence[str],
        preprocess: Preprocess,
        *,
        training: bool,
        third_attempt_lost: bool = False,
        most: int | None = None,
        empty_boxes: str = "error",
    ) -> None:
        self.samples, self.classes, self.preprocess = list(samples), tuple(classes), preprocess
        self.training, self.most, self.empty_boxes = training, most, empty_boxes
        self.change = SsdChange(size=preprocess.side, third_attempt_lost=third_attempt_lost)

    def __len__(self) -> int:
        return len(self.samples)

    def objects(self, index: int) -> VocObjects:
        """What is on a picture, in its pixels.

        Raises:
            UserError: the annotation is missing or wrong.
        """
        return read_objects(self.samples[index].annotation, self.classes, empty_boxes=self.empty_boxes)

    def __getitem__(self, index: int) -> BoxedPicture:
        """A sample.

        Raises:
            UserError: a file is missing or damaged, or picture and annotation differ in size.
        """
        sample, found = self.samples[index], self.objects(index)
        image = pixels(sample.image)
        size = (found.height, found.width)
        if image.shape[:2] != size:
            raise UserError(
                f"{sample.annotation}: size is {size[1]}x{size[0]}, expected {image.shape[1]}x"
                f"{image.shape[0]} as {sample.image} has"
            )
        # xmin, ymin, xmax, ymax in pixels to ymin, xmin, ymax, xmax as shares
        boxes = found.boxes[:, [1, 0, 3, 2]] / np.array(size * 2, np.float32)
        labels = found.labels
        if self.training:
            used = self._used(found)
            changed, boxes, kept = self.change(image, boxes[used], random)
            picture, labels = self.preprocess.fitted_picture(changed), labels[used][kept]
        else:
            picture = self.preprocess.picture(image)
        return BoxedPicture(picture, torch.from_numpy(boxes), torch.from_numpy(labels), index)

    def _used(self, found: VocObjects) -> np.ndarray:
        """Places of the objects that are trained on."""
        easy = np.flatnonzero(~found.difficult)
        used = easy if len(easy) else np.arange(min(len(found.labels), 1))
        return used[: self.most]

    def collate(self, samples: Sequence[BoxedPicture]) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of samples.

        Returns:
            Pictures (B, 3, S, S), and of each ``boxes`` (B, N, 4), ``labels`` (B, N) with 0 for padding, and
            ``index`` (B,), which picture of the data set it is.
        """
        pad = torch.nn.utils.rnn.pad_sequence
        targets = {
            "boxes": pad([sample.boxes for sample in samples], batch_first=True),
            "labels": pad([sample.labels for sample in samples], batch_first=True),
            "index": torch.tensor([sample.number for sample in samples]),
        }
        return torch.stack([sample.image for sample in samples]), targets

    def check(self) -> dict[str, Any]:
        """Look at all annotations, and whether their pictures are there; plain data.

        Raises:
            UserError: a file is missing, or an annotation is wrong.
        """
        for sample in self.samples:
            if not sample.image.is_file():
                raise UserError(f"{sample.image}: no such picture")
        counts = check_objects(self.samples, self.classes, empty_boxes=self.empty_boxes)
        return {"files": len(self), "counts": list(counts.values())}


def open_voc(
    cfg: Config, folder: Path, preprocess: Preprocess
) -> tuple[tuple[str, ...], dict[str, VocDetection]]:
    """Open a data set in the layout of Pascal VOC.

    Classes are those of the configuration, else of Pascal VOC or of the embedded set where the network has as
    many outputs, else those that occur in the annotations.

    Args:
        cfg: image sets, classes, quirks.
        folder: where it lies.
        preprocess: the way of pictures to the network.

    Returns:
        Names of the network's outputs, background first, and the splits ``train`` and ``eval``.

    Raises:
        UserError: an image set is missing, or the network has another number of outputs.
    """
    train, evaluated = image_sets(cfg, folder)
    evaluated = [evaluated[place] for place in spread(len(evaluated), cfg.data.nb_smpls_eval).tolist()]
    names = class_names(cfg, [*train, *evaluated])
    if cfg.net.nb_classes != len(names) + 1:
        raise UserError(
            f"nb_classes is {cfg.net.nb_classes}, expected {len(names) + 1}, background included: {folder} "
            f"has {len(names)} classes ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
        )
    options: dict[str, Any] = {
        "third_attempt_lost": cfg.quirks.expand_third_attempt_lost,
        "most": cfg.detect.nb_bboxs_max,
        "empty_boxes": cfg.data.empty_boxes,
    }
    splits = {
        name: VocDetection(samples, names, preprocess, training=name == "train", **options)
        for name, samples in (("train", train), ("eval", evaluated))
    }
    return (BACKGROUND, *names), splits


def image_sets(cfg: Config, folder: Path) -> tuple[list[VocSample], list[VocSample]]:
    """Pictures to train on and to evaluate: of the sets that are named, else of those of Pascal VOC."""
    there = list(voc.find_voc(folder))

    def usual(sets: Sequence[str], split: str) -> list[str]:
        known = [name for name in sets if name.split("/")[0] in there]
        return known or [f"{name}/{split}" for name in there]

    if cfg.data.train_sets or not cfg.quirks.voc_every_picture:
        sets = cfg.data.train_sets or usual(TRAIN_SETS, "trainval")
        train = [sample for name in sets for sample in voc.read_image_set(folder, name)]
    else:
        train = [sample for name in there for sample in voc.every_picture(folder, name)]
    sets = cfg.data.eval_sets or usual(EVAL_SETS, "test")
    return train, [sample for name in sets for sample in voc.read_image_set(folder, name)]


def class_names(cfg: Config, samples: Sequence[VocSample]) -> tuple[str, ...]:
    """Names of the classes without background; see `open_voc`."""
    given = tuple(name for name in cfg.data.class_names if name != BACKGROUND)
    if given:
        return given
    known = shapes.CLASSES if cfg.data.dataset == "tiny_voc" else voc.CLASSES
    return known if cfg.net.nb_classes == len(known) + 1 else voc.collect_classes(samples)
