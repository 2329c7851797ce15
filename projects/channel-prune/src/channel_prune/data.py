"""Data sets as batches: CIFAR-10, ILSVRC-12, Pascal VOC, one's own folders, and the embedded sets.

# B batch, S side of what the network takes
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from channel_prune.config import DETECTION, Config, PruneConfig
from channel_prune.detect.dataset import BACKGROUND, open_voc
from channel_prune.fake import write_fake_data
from channel_prune.preprocess import Preprocess, preprocess_of
from prunelab import dist
from prunelab.data import cifar
from prunelab.data.cifar import CifarSplit, open_cifar
from prunelab.data.loader import Loader, SizedDataset, make_loader
from prunelab.data.pictures import pixels
from prunelab.data.pictures_of_classes import (
    LabelledFiles,
    check_pictures,
    open_pictures_of_classes,
    spread,
)
from prunelab.data.synthetic import cached
from prunelab.data.synthetic.shape_classes import CLASSES as TINY_CLASSES
from prunelab.errors import UserError
from prunelab.seed import derive
from prunelab.transforms.classify import Shift, draw_shift, normalised_batch, pad_crop_flip_batch

SPLITS = ("train", "eval")
LOOKED_AT = 2000
"""Picture files of a split that are looked at before a training, spread over it."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Pictures (B, 3, S, S) float32, normalised, and classes (B,) int64."""


class Split(SizedDataset, Protocol):
    """One part of a data set: samples, and how a batch is made of them."""

    training: bool
    """Whether pictures are changed at random."""

    def collate(self, samples: list[Any], /) -> Any:
        """A batch of samples."""
        ...

    def check(self) -> dict[str, Any]:
        """Look at its files; plain data."""
        ...


class Thumbnails:
    """Small pictures in memory; a whole batch of them is changed at once.

    Args:
        data: pictures of S pixels.
        preprocess: normalisation.
        training: pad, crop and mirror at random.
        classes: K, without background.
        offset: added to labels.
    """

    def __init__(
        self, data: CifarSplit, preprocess: Preprocess, *, training: bool, classes: int, offset: int
    ) -> None:
        self.data, self.colours, self.training = data, preprocess.colours, training
        self.classes, self.offset = classes, offset

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, Shift]:
        """The picture's number, and what was drawn for it from Python's generator."""
        return index, draw_shift(random) if self.training else Shift(0, 0, False)

    def collate(self, samples: list[tuple[int, Shift]]) -> Batch:
        """See `Split`."""
        places, shifts = [place for place, _ in samples], [shift for _, shift in samples]
        if self.training:
            images = pad_crop_flip_batch(self.data.images, places, shifts, self.colours)
        else:
            images = normalised_batch(self.data.images, places, self.colours)
        return torch.from_numpy(images), torch.from_numpy(self.data.labels[places] + self.offset)

    def check(self) -> dict[str, Any]:
        """How many pictures each class has; other labels were refused when they were read."""
        return {
            "files": len(self),
            "counts": np.bincount(self.data.labels, minlength=self.classes).tolist(),
        }


class Pictures:
    """Picture files, decoded when they are asked for.

    Args:
        found: files and classes.
        preprocess: the way to the network.
        training: change them at random.
        classes: K, without background.
        offset: added to labels.
    """

    def __init__(
        self, found: LabelledFiles, preprocess: Preprocess, *, training: bool, classes: int, offset: int
    ) -> None:
        self.found, self.preprocess, self.training = found, preprocess, training
        self.classes, self.offset = classes, offset

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Picture (3, S, S) and label; random numbers come from Python's generator.

        Raises:
            UserError: the file is missing, damaged or no picture.
        """
        image = pixels(self.found.files[index])
        prepared = (
            self.preprocess.training_picture(image) if self.training else self.preprocess.picture(image)
        )
        return prepared, int(self.found.labels[index]) + self.offset

    def collate(self, samples: list[tuple[Tensor, int]]) -> Batch:
        """See `Split`."""
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels)

    def check(self) -> dict[str, Any]:
        """Look at the files, `LOOKED_AT` of them at most."""
        return check_pictures(self.found.some(LOOKED_AT), self.classes) | {"files": len(self)}


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, opened."""

    cfg: Config
    """The run's configuration."""
    folder: Path
    """Where it lies."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of labels; background is the first where labels begin with 1."""
    preprocess: Preprocess
    """The way of a picture to the network, to be saved with it."""
    splits: Mapping[str, Split] = field(repr=False)
    """``train`` and ``eval``."""
    how: str = ""
    """How the splits came about, where that was not the data set's own word."""

    def check(self) -> dict[str, Any]:
        """Look at the files before a training; plain data, so that it can be done once a run.

        Returns:
            By split: ``files``, their number, ``counts`` of each class, and more of some data sets.

        Raises:
            UserError: a file is missing, damaged, or has a label that the data set does not know.
        """
        return {name: split.check() for name, split in self.splits.items()}

    def loader(self, split: str, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches of a split: of ``train`` shuffled, changed at random, and whole; of ``eval`` in order.

        An evaluation has every sample exactly once, whatever the batch size and the number of processes.

        Args:
            split: ``train`` or ``eval``.
            rank: this process.
            world_size: number of processes.

        Raises:
            UserError: the split is empty.
        """
        data, train = self.cfg.data, split == "train"
        found = self._split(split)
        return make_loader(
            found,
            batch_size=data.batch_size if train else data.batch_size_eval,
            collate=found.collate,
            seed=self.cfg.run.seed,
            shuffle=train,
            drop_last=train,
            workers=data.workers,
            rank=rank,
            world_size=world_size,
            pin_memory=True,
        )

    def sampling_batches(self, prune: PruneConfig) -> list[Tensor]:
        """Training pictures on which channels are chosen, drawn once.

        Args:
            prune: ``nb_smpls`` is the least number of pictures in all; of a set with fewer, pictures come
                several times. ``batch_size`` is B; of a set with fewer pictures, all of them are a batch.
                ``sample_augmented`` says whether they are changed at random; ``seed`` is that of the order
                and of the changes, independent of the training's.

        Returns:
            ceil(nb_smpls / B) tensors, (B, 3, S, S) float32.

        Raises:
            UserError: the split is empty, or a file of it is missing or damaged.
        """
        found = copy(self._split("train"))
        found.training = prune.sample_augmented
        loader = make_loader(
            found,
            batch_size=min(prune.batch_size, len(found)),
            collate=found.collate,
            seed=derive(prune.seed, "sampling"),
            shuffle=True,
            drop_last=True,
            workers=self.cfg.data.workers,
        )
        batches: list[Tensor] = []
        while True:
            for images, *_ in loader:
                batches.append(images)
                if len(batches) * loader.sampler.batch_size >= prune.nb_smpls:
                    return batches
            loader.sampler.set_epoch(loader.sampler.epoch + 1)

    def _split(self, name: str) -> Split:
        if name not in self.splits:
            raise UserError(f"split is {name!r}, expected one of {', '.join(SPLITS)}")
        if not len(self.splits[name]):
            raise UserError(f"{self.folder}: no pictures of the split {name}, expected one or more")
        return self.splits[name]


def open_data(cfg: Config, scratch: Path | None = None) -> Data:
    """Open the data set of a configuration.

    Args:
        cfg: the run's configuration.
        scratch: where ``fake_data`` is written; None: ``fake_data`` in the working folder.

    Raises:
        UserError: the data set or a part of it is missing, or it has other classes than the network.
    """
    name = cfg.data.dataset
    if name in ("tiny", "tiny_voc"):
        folder = dist.on_main(lambda: cached("classes" if name == "tiny" else "shapes"))
    elif cfg.data.fake_data:
        place = scratch or Path("fake_data")
        folder = dist.on_main(lambda: write_fake_data(place, cfg))
    else:
        folder = Path(cfg.data.data_dir)
        if not cfg.data.data_dir or not folder.is_dir():
            raise UserError(
                f"data_dir {cfg.data.data_dir!r}: no such folder, expected the pictures of {name}; name it "
                "with --data_dir, set PRUNELAB_DATA, or try --fake-data"
            )
    if name in DETECTION:
        prepared = preprocess_of(cfg)
        classes, splits = open_voc(cfg, folder, prepared)
        return Data(cfg=cfg, folder=folder, classes=classes, preprocess=prepared, splits=splits)
    return _thumbnails(cfg, folder) if name in ("cifar10", "tiny") else _folders(cfg, folder)


def _thumbnails(cfg: Config, folder: Path) -> Data:
    """CIFAR-10, or what is laid out like it."""
    if cfg.net.image_size != cifar.SIDE:
        raise UserError(
            f"image_size is {cfg.net.image_size}, expected {cifar.SIDE} for {cfg.data.dataset}, or dataset "
            "folder for pictures of any size"
        )
    names = TINY_CLASSES if cfg.data.dataset == "tiny" else cifar.CLASSES
    prepared = preprocess_of(cfg)
    train, test = (open_cifar(folder, split) for split in ("train", "test"))
    some = spread(len(test), cfg.data.nb_smpls_eval)
    test = CifarSplit(test.images[some], test.labels[some])
    about = {"classes": len(names), "offset": cfg.data.label_offset}
    return Data(
        cfg=cfg,
        folder=folder,
        classes=_named(cfg, names, folder),
        preprocess=prepared,
        splits={
            "train": Thumbnails(train, prepared, training=True, **about),
            "eval": Thumbnails(test, prepared, training=False, **about),
        },
    )


def _folders(cfg: Config, folder: Path) -> Data:
    """ILSVRC-12 and one's own pictures."""
    found = open_pictures_of_classes(folder, seed=cfg.run.seed)
    given = cfg.data.class_names
    # Names that are the folders' own say nothing new, and the folder may have a list of better ones.
    names = found.names if sorted(given) == sorted(found.folders) or not given else given
    prepared = preprocess_of(cfg)
    about = {"classes": len(found.folders), "offset": cfg.data.label_offset}
    if len(names) != len(found.folders):
        raise UserError(
            f"class_names has {len(names)} names, expected {len(found.folders)}, one for each class of "
            f"{folder}"
        )
    return Data(
        cfg=cfg,
        folder=folder,
        classes=_named(cfg, names, folder),
        preprocess=prepared,
        splits={
            "train": Pictures(found.splits["train"], prepared, training=True, **about),
            "eval": Pictures(
                found.splits["val"].some(cfg.data.nb_smpls_eval), prepared, training=False, **about
            ),
        },
        how=found.how,
    )


def _named(cfg: Config, names: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Names of the network's outputs.

    Raises:
        UserError: the network has another number of them.
    """
    offset = cfg.data.label_offset
    if cfg.net.nb_classes != len(names) + offset:
        background = ", background included" if offset else ""
        raise UserError(
            f"nb_classes is {cfg.net.nb_classes}, expected {len(names) + offset}{background}: {folder} has "
            f"{len(names)} classes"
        )
    return (*((BACKGROUND,) if offset else ()), *names)
