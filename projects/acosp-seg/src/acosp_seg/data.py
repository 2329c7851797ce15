"""Data sets as batches: list files or folders of one's own, the embedded street scenes, CIFAR-10.

# B batch, H, W picture, h, w crop
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from acosp_seg.config import Config
from acosp_seg.fake import write_fake_data
from acosp_seg.layout import resolve
from prunelab import dist
from prunelab.data import cifar
from prunelab.data.cifar import CifarSplit, open_cifar
from prunelab.data.cifar_files import fetched
from prunelab.data.loader import Loader, make_loader
from prunelab.data.segmentation import Sample, check_labels, pair_by_name, read_list, read_sample
from prunelab.data.synthetic import cached
from prunelab.errors import UserError
from prunelab.transforms import Crop, RandomCrop, normalised

SPLITS = ("train", "val", "test")
PADDING = 4
"""Rows and columns of black around a picture of CIFAR-10, out of which a random crop is taken."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Pictures (B, 3, h, w) float32, normalised, and labels (B, h, w), of CIFAR-10 (B,), int64."""


def _one_thread() -> None:
    """Let OpenCV compute in the loader's workers with their one thread: they are the parallel part."""
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)


class Pictures:
    """Pictures with label maps, changed as training or validation wants it.

    Args:
        samples: which.
        cfg: sizes and ranges.
        training: scale, turn, blur, mirror and crop at random; else cut out the middle.
    """

    def __init__(self, samples: Sequence[Sample], cfg: Config, *, training: bool) -> None:
        data = cfg.data
        self.samples, size = list(samples), (data.train_h, data.train_w)
        self.cut: RandomCrop | Crop = Crop(size=size, ignore_label=data.ignore_label)
        if training:
            self.cut = RandomCrop(
                scale=(data.scale_min, data.scale_max),
                rotate=(data.rotate_min, data.rotate_max),
                size=size,
                ignore_label=data.ignore_label,
            )
        self.void = data.ignore_label

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        """Picture (3, h, w) and label map (h, w); random numbers come from Python's generator.

        Raises:
            UserError: a file is missing or damaged, or the two differ in size.
        """
        _one_thread()
        image, label = read_sample(self.samples[index])
        if label is None:
            label = np.full(image.shape[:2], self.void, np.uint8)
        if isinstance(self.cut, Crop):
            image = image.astype(np.float32)  # so that padding keeps its exact mean
        image, label = self.cut(image, label, random)
        return torch.from_numpy(normalised(image)), torch.from_numpy(label.astype(np.int64))


def stack(samples: Sequence[Batch]) -> Batch:
    """Samples to a batch."""
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


class Thumbnails:
    """Pictures of CIFAR-10; random numbers come from torch's generator, as in torchvision's transforms.

    Args:
        data: a split.
        training: crop out of the padded picture and mirror at random.
    """

    def __init__(self, data: CifarSplit, *, training: bool) -> None:
        self.data, self.training = data, training

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Picture (32, 32, 3) uint8 and its label."""
        image = self.data.images[index]
        if self.training:
            image = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
            top, left = (int(torch.randint(0, 2 * PADDING + 1, (1,))) for _ in range(2))
            image = image[top : top + cifar.SIDE, left : left + cifar.SIDE]
            if float(torch.rand(1)) < 0.5:
                image = image[:, ::-1]
        return image, int(self.data.labels[index])


def stack_thumbnails(samples: Sequence[tuple[np.ndarray, int]]) -> Batch:
    """Samples to a batch, in [0, 1] and normalised."""
    images, labels = zip(*samples, strict=True)
    # (B, 32, 32, 3) to (B, 3, 32, 32)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float().div_(255)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cifar.MEAN, cifar.STD))
    return x.sub_(mean).div_(std), torch.tensor(labels)


class SegmentationData:
    """Pictures with label maps in three splits.

    Attributes:
        cfg: the run's configuration.
        folder: what the paths of list files start from.
        samples: pictures and label maps by split; a split without a list file has none.
    """

    def __init__(self, cfg: Config, folder: Path, samples: Mapping[str, list[Sample]]) -> None:
        self.cfg, self.folder, self.samples = cfg, folder, dict(samples)

    def check(self) -> dict[str, Any]:
        """Look at label values of training and validation: of as many files each as ``check_labels`` says.

        Returns:
            The report of `prunelab.data.segmentation.check_labels` by split: plain data.

        Raises:
            UserError: a label map is missing, does not fit its picture, or has values outside the classes.
        """
        data, found = self.cfg.data, {}
        for split in ("train", "val"):
            samples = self.samples[split]
            if 0 <= data.check_labels < len(samples):  # spread over the whole list
                step = len(samples) / max(data.check_labels, 1)
                samples = [samples[int(i * step)] for i in range(data.check_labels)]
            found[split] = check_labels(samples, self.cfg.model.classes, data.ignore_label)
        return found

    def loader(self, split: str, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches of a split: shuffled crops without a last short batch for ``train``, else middles in order.

        Args:
            split: ``train``, ``val`` or ``test``.
            rank: this process.
            world_size: number of processes, which share the configured batch size and workers.

        Raises:
            UserError: the split is empty, or has fewer training pictures than a batch.
        """
        dataset = Pictures(self.samples[split], self.cfg, training=split == "train")
        return _loader(dataset, stack, self.cfg, split, rank, world_size)


class ThumbnailData:
    """CIFAR-10: ``train``, and ``val`` and ``test``, which are the same pictures.

    Attributes:
        cfg: the run's configuration.
        folder: where it lies.
    """

    def __init__(self, cfg: Config, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self._splits: dict[str, CifarSplit] = {}

    def split(self, name: str) -> CifarSplit:
        """The pictures of a split, read at the first use.

        Raises:
            UserError: a file is missing or damaged.
        """
        kind = "train" if name == "train" else "test"
        if kind not in self._splits:
            self._splits[kind] = open_cifar(self.folder, kind)
        return self._splits[kind]

    def check(self) -> dict[str, Any]:
        """How many pictures each class has by split; reading has refused other labels already."""
        classes = self.cfg.model.classes
        if classes != len(cifar.CLASSES):
            raise UserError(f"classes is {classes}, expected {len(cifar.CLASSES)} for CIFAR-10")
        counts = {s: np.bincount(self.split(s).labels, minlength=classes).tolist() for s in ("train", "val")}
        return {split: {"files": sum(count), "pixels": count} for split, count in counts.items()}

    def loader(self, split: str, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches of a split; the last one of an epoch is short, as the published recipe has it.

        Args:
            split: ``train``, ``val`` or ``test``.
            rank: this process.
            world_size: number of processes, which share the configured batch size and workers.

        Raises:
            UserError: a file is missing or damaged, or there are fewer pictures than a batch.
        """
        dataset = Thumbnails(self.split(split), training=split == "train")
        return _loader(dataset, stack_thumbnails, self.cfg, split, rank, world_size)


def _loader(dataset: Any, collate: Any, cfg: Config, split: str, rank: int, world_size: int) -> Loader:
    data, train = cfg.data, split == "train"
    name = "batch_size" if train else "batch_size_val"
    total = getattr(data, name)
    if not len(dataset):
        raise UserError(f"{split}_list {_list_of(cfg, split)!r}: no pictures, expected one or more")
    if total < world_size:
        raise UserError(f"{name} is {total}, expected at least {world_size}, one for each process")
    drop_last = train and cfg.model.arch != "resnet18"
    if drop_last and len(dataset) < total:
        raise UserError(f"{name} is {total}, expected at most {len(dataset)}, the pictures of {split}_list")
    return make_loader(
        dataset,
        batch_size=total // world_size,
        collate=collate,
        seed=cfg.run.seed,
        shuffle=train,
        drop_last=drop_last,
        workers=-(-data.workers // world_size),
        rank=rank,
        world_size=world_size,
        pin_memory=True,
    )


def _list_of(cfg: Config, split: str) -> str:
    return getattr(cfg.data, f"{split}_list")


def open_data(cfg: Config, folder: Path | None = None) -> SegmentationData | ThumbnailData:
    """Open the data set of a configuration.

    Args:
        cfg: the run's configuration.
        folder: where ``fake_data`` is written; None: ``fake_data`` in the working directory.

    Raises:
        UserError: the data set or one of its list files is missing.
    """
    data = cfg.data
    fake = None
    if data.fake_data:
        place = folder or Path("fake_data")
        fake = dist.on_main(lambda: write_fake_data(place, cfg))
    if data.dataset == "cifar10":
        return ThumbnailData(cfg, fake or dist.on_main(lambda: fetch_cifar10(resolve(data.data_root))))
    if data.dataset == "tiny" and not data.data_root:
        return _listed(cfg, dist.on_main(lambda: cached("streets")), own_lists=False)
    if fake is not None:
        return _listed(cfg, fake, own_lists=False)
    root = resolve(data.data_root)
    if not data.data_root or not root.is_dir():
        raise UserError(
            f"data_root {str(root) if data.data_root else ''!r}: no such folder, expected the pictures of "
            f"{data.dataset}; set data_root or PRUNELAB_DATA, or try --fake-data"
        )
    if data.dataset == "folder" and not (data.train_list or (root / "list").is_dir()):
        return _unlisted(cfg, root)
    return _listed(cfg, root, own_lists=True)


def _listed(cfg: Config, root: Path, *, own_lists: bool) -> SegmentationData:
    """The splits of list files: those of the configuration, else of the folder ``list``.

    Raises:
        UserError: the training list is missing, or one that the configuration names.
    """
    samples: dict[str, list[Sample]] = {}
    for split in SPLITS:
        given = _list_of(cfg, split) if own_lists else ""
        path = resolve(given) if given else root / "list" / f"{split}.txt"
        samples[split] = []
        if given or split == "train" or path.is_file():
            samples[split] = read_list(path, root, cfg.data.split if own_lists and split == "test" else "val")
    return SegmentationData(cfg, root, samples)


def _unlisted(cfg: Config, root: Path) -> SegmentationData:
    """Own pictures in ``images`` and label maps in ``labels``: folders train and val in both, or neither."""
    images, labels = root / "images", root / "labels"
    if (images / "train").is_dir():
        found = {s: pair_by_name(images / s, labels / s) if (images / s).is_dir() else [] for s in SPLITS}
    else:
        pairs = pair_by_name(images, labels)
        found = {"train": [p for i, p in enumerate(pairs) if i % 10 != 9], "val": pairs[9::10], "test": []}
    found["test"] = found["test"] or found["val"]
    return SegmentationData(cfg, root, found)


def fetch_cifar10(folder: Path) -> Path:
    """The folder itself if it holds CIFAR-10; else the official archive is downloaded and unpacked into it.

    Raises:
        UserError: it cannot be downloaded or written.
    """
    if cifar.find(folder) is None:
        fetched(folder, cifar.CIFAR10)
    return folder
