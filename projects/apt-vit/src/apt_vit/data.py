"""Data sets as batches: CIFAR-10, CIFAR-100, one's own folders of pictures, and the embedded set.

# B batch, N pictures of a set, C classes, H, W height and width of what the network takes
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from apt_vit.config import Config
from apt_vit.fake import write_fake_data
from apt_vit.preprocess import Draw, Preprocess, preprocess_of
from prunelab import dist
from prunelab.data import cifar
from prunelab.data.cifar import CIFAR10, CIFAR100, CifarSplit
from prunelab.data.cifar_files import OtherChecksum, checked, fetched
from prunelab.data.loader import Loader, SizedDataset, load_in
from prunelab.data.pictures import pixels
from prunelab.data.pictures_of_classes import (
    VAL_SHARE,
    LabelledFiles,
    check_pictures,
    kept_back,
    open_pictures_of_classes,
)
from prunelab.data.sampling import EpochSampler, SampleKey
from prunelab.data.synthetic import cached
from prunelab.data.synthetic.shape_classes import CLASSES as TINY_CLASSES
from prunelab.errors import UserError
from prunelab.transforms.classify import Window
from prunelab.transforms.crops import resized_crops

SPLITS = ("train", "val", "test")
LOOKED_AT = 2000
"""Picture files of a split that are looked at before a training, spread over it."""
PUBLISHED = {"cifar10": CIFAR10, "cifar100": CIFAR100}
"""Data sets that can be downloaded."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Pictures (B, 3, H, W) float32, normalised, and classes (B,) int64."""


class Split(SizedDataset, Protocol):
    """One part of a data set: samples, and how a batch is made of them."""

    labels: np.ndarray
    """Classes of all samples, (N,) int64."""

    def collate(self, samples: list[Any], /) -> Batch:
        """A batch of samples."""
        ...

    def check(self) -> dict[str, Any]:
        """Look at its files; plain data."""
        ...

    def raw(self, index: int, /) -> np.ndarray:
        """A picture as it is stored, (h, w, 3) uint8."""
        ...


class Thumbnails:
    """Small pictures in memory; a whole batch of them is cropped and resized at once.

    Args:
        data: pictures of one size.
        preprocess: the way to the network.
        training: crop, and mirror, at random.
        classes: C.
    """

    def __init__(self, data: CifarSplit, preprocess: Preprocess, *, training: bool, classes: int) -> None:
        self.images, self.labels, self.preprocess = data.images, data.labels, preprocess
        self.training, self.classes = training, classes
        self.whole = Draw(Window(0, 0, *data.images.shape[1:3]), False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[int, Draw]:
        """The picture's number, and what was drawn for it from torch's generator."""
        return index, self.preprocess.draw(*self.images.shape[1:3]) if self.training else self.whole

    def collate(self, samples: list[tuple[int, Draw]]) -> Batch:
        """See `Split`."""
        places = [place for place, _ in samples]
        windows, flips = [drawn.window for _, drawn in samples], [drawn.flip for _, drawn in samples]
        found = resized_crops(
            self.images, places, windows, flips, self.preprocess.size, self.preprocess.colours
        )
        return torch.from_numpy(found), torch.from_numpy(self.labels[places])

    def check(self) -> dict[str, Any]:
        """How many pictures each class has; other labels were refused when they were read."""
        return {"files": len(self), "counts": np.bincount(self.labels, minlength=self.classes).tolist()}

    def raw(self, index: int) -> np.ndarray:
        """See `Split`."""
        return self.images[index]


class Pictures:
    """Picture files, decoded when they are asked for.

    Args:
        found: files and classes.
        preprocess: the way to the network.
        training: crop, and mirror, at random.
        classes: C.
    """

    def __init__(self, found: LabelledFiles, preprocess: Preprocess, *, training: bool, classes: int) -> None:
        self.found, self.labels, self.preprocess = found, found.labels, preprocess
        self.training, self.classes = training, classes

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Picture (3, H, W) and label; random numbers come from torch's generator.

        Raises:
            UserError: the file is missing, damaged or no picture.
        """
        image = self.raw(index)
        prepared = (
            self.preprocess.training_picture(image) if self.training else self.preprocess.picture(image)
        )
        return prepared, int(self.labels[index])

    def collate(self, samples: list[tuple[Tensor, int]]) -> Batch:
        """See `Split`."""
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels)

    def check(self) -> dict[str, Any]:
        """Look at the files, `LOOKED_AT` of them at most."""
        return check_pictures(self.found.some(LOOKED_AT), self.classes) | {"files": len(self)}

    def raw(self, index: int) -> np.ndarray:
        """See `Split`."""
        return pixels(self.found.files[index])


class SameOrder(EpochSampler):
    """Every epoch has the first one's order; what is drawn for a picture still changes."""

    def order(self) -> list[SampleKey]:
        """All keys of the present epoch, in order."""
        first = EpochSampler(
            self.size, self.batch_size, seed=self.seed, shuffle=self.shuffle, drop_last=self.drop_last
        )
        return [key._replace(epoch=self.epoch) for key in first.order()]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, opened."""

    cfg: Config
    """The run's configuration."""
    folder: Path
    """Where it lies."""
    class_names: tuple[str, ...]
    """Names of the classes (C), in the order of labels."""
    preprocess: Preprocess
    """The way of a picture to the network, to be saved with it."""
    splits: Mapping[str, Split] = field(repr=False)
    """``train``; ``val``, by which the best model is chosen; ``test``. The last two may be the same."""
    how: str = ""
    """How the splits came about."""

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures of each split."""
        return {name: len(split) for name, split in self.splits.items()}

    def check(self) -> dict[str, Any]:
        """Look at the files before a training; plain data, so that it can be done once a run.

        Returns:
            By split: ``files``, their number, ``counts`` of each class, and more of some data sets.

        Raises:
            UserError: a file is missing, damaged, or has a label that the data set does not know.
        """
        return {name: split.check() for name, split in self.splits.items()}

    def split(self, name: str) -> Split:
        """A split by its name.

        Raises:
            UserError: there is no split of this name, or it is empty.
        """
        if name not in self.splits:
            raise UserError(f"split is {name!r}, expected one of {', '.join(SPLITS)}")
        if not len(self.splits[name]):
            raise UserError(f"{self.folder}: no pictures of the split {name}, expected one or more")
        return self.splits[name]

    def loader(self, split: str, rank: int = 0, world_size: int = 1) -> Loader[EpochSampler]:
        """Batches (images (B, 3, H, W) float32, labels (B,) int64) of a split.

        Those of ``train`` are micro-batches, shuffled and changed at random; the last one of an epoch may be
        short. Those of ``val`` and ``test`` come in order, every sample exactly once for any batch size and
        number of processes.

        Args:
            split: ``train``, ``val`` or ``test``.
            rank: this process.
            world_size: number of processes.

        Raises:
            UserError: the split is empty.
        """
        data, training, seed = self.cfg.data, split == "train", self.cfg.run.seed
        found = self.split(split)
        same = training and world_size > 1 and self.cfg.quirks.same_order_every_epoch
        sampler = (SameOrder if same else EpochSampler)(
            len(found),
            self.cfg.micro_batch_size if training else data.eval_batch_size,
            seed=seed,
            shuffle=training,
            drop_last=False,
            rank=rank,
            world_size=world_size,
        )
        return load_in(
            sampler, found, collate=found.collate, seed=seed, workers=data.num_workers, pin_memory=True
        )


def open_data(cfg: Config, scratch: Path | None = None) -> Data:
    """Open the data set of a configuration; CIFAR is downloaded where it is missing and may be.

    Args:
        cfg: the run's configuration.
        scratch: where ``fake_data`` is written; None: ``fake_data`` in the working folder.

    Raises:
        UserError: the data set or a part of it is missing, its files are not the published ones, or it has
            other classes than the network.
    """
    name = cfg.data.dataset
    if name == "tiny":
        folder = dist.on_main(lambda: cached("classes"))
    elif cfg.data.fake_data:
        place = scratch or Path("fake_data")
        folder = dist.on_main(lambda: write_fake_data(place, cfg))
    elif name in PUBLISHED:
        folder = dist.on_main(lambda: _published(cfg))
    else:
        folder = Path(cfg.data.data_dir)
        if not folder.is_dir():
            raise UserError(
                f"data_dir {cfg.data.data_dir!r}: no such folder, expected one with a folder of pictures for "
                "each class in train and val; name it with --data-dir, or try --fake-data"
            )
    return _folders(cfg, folder) if name == "folder" else _thumbnails(cfg, folder)


def _published(cfg: Config) -> Path:
    """The folder of CIFAR: there already or downloaded, its files looked at."""
    of = PUBLISHED[cfg.data.dataset]
    folder = Path(cfg.data.data_dir)
    strict = cfg.data.checksum == "error"
    try:
        if cifar.find(folder, of) is None:
            if not cfg.data.download:
                raise UserError(
                    f"data_dir {cfg.data.data_dir!r}: no {of.name} in it, expected {of.layouts}; name its "
                    "folder with --data-dir, leave --download on, or try --fake-data"
                )
            fetched(folder, of, strict=strict)
        for line in checked(folder, of, strict=strict):
            print(f"warning: {line}", file=sys.stderr, flush=True)
    except OtherChecksum as error:
        raise UserError(f"{error}; --checksum warn goes on with it") from None
    return folder


def _thumbnails(cfg: Config, folder: Path) -> Data:
    """CIFAR, or what is laid out like it."""
    of = PUBLISHED.get(cfg.data.dataset, CIFAR10)
    own = TINY_CLASSES if cfg.data.dataset == "tiny" else of.classes
    train, test = (cifar.open_cifar(folder, split, of) for split in ("train", "test"))
    share, val, how = cfg.data.validation_share, test, "the test pictures choose the best model"
    if share:
        kept = kept_back(train.labels, share)
        val, train = train.part(kept), train.part(~kept)
        how = f"{kept.sum()} of {len(kept)} training pictures are kept back to choose the best model"
    prepared = preprocess_of(cfg)
    parts = {"train": train, "val": val, "test": test}
    return Data(
        cfg=cfg,
        folder=folder,
        class_names=_named(cfg, cfg.data.class_names or own, len(own), folder),
        preprocess=prepared,
        splits={
            name: Thumbnails(part, prepared, training=name == "train", classes=len(own))
            for name, part in parts.items()
        },
        how=how,
    )


def _folders(cfg: Config, folder: Path) -> Data:
    """One's own pictures."""
    share = cfg.data.validation_share
    found = open_pictures_of_classes(folder, seed=0, val_share=share or VAL_SHARE)
    given = cfg.data.class_names
    # Names that are the folders' own say nothing new, and the folder may have a list of better ones.
    names = found.names if sorted(given) == sorted(found.folders) or not given else given
    parts, how = dict(found.splits), found.how
    if "test" not in parts:
        parts["test"] = parts["val"]
        if found.val_folder == "test" and share:
            kept = kept_back(parts["train"].labels, share)
            parts["val"], parts["train"] = parts["train"].part(kept), parts["train"].part(~kept)
            how = f"{kept.sum()} of {len(kept)} training pictures are kept back to choose the best model"
    prepared = preprocess_of(cfg)
    return Data(
        cfg=cfg,
        folder=folder,
        class_names=_named(cfg, names, len(found.folders), folder),
        preprocess=prepared,
        splits={
            name: Pictures(parts[name], prepared, training=name == "train", classes=len(found.folders))
            for name in SPLITS
        },
        how=how,
    )


def _named(cfg: Config, names: Sequence[str], classes: int, folder: Path) -> tuple[str, ...]:
    """Names of the network's outputs.

    Raises:
        UserError: the network or the list of names has another number of them.
    """
    if len(names) != classes:
        raise UserError(
            f"class_names has {len(names)} names, expected {classes}, one for each class of {folder}"
        )
    if cfg.model.num_classes != classes:
        raise UserError(
            f"num_classes is {cfg.model.num_classes}, expected {classes}: {folder} has {classes} classes"
        )
    return tuple(names)
