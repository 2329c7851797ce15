"""Pictures' features and captions as batches: the data sets, and how samples become tensors.

B pictures, k captions of each, S regions, F size of a region's feature, T tokens.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from prunelab import dist
from prunelab.data.captions import CaptionRecord, open_captions, open_pictures
from prunelab.data.features import CachedFeatures, FeatureSource, open_features
from prunelab.data.loader import Loader, make_loader
from prunelab.data.synthetic import cached
from prunelab.errors import UserError
from smp_caption.config import Config, DataConfig
from smp_caption.fake import write_fake_data
from smp_caption.layout import FC_DIR, FEATURE_DIRS, FOLDERS, JSON_NAMES, TINY, reads_boxes, reads_fc
from smp_caption.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """A picture as the model sees it."""

    record: CaptionRecord
    att: np.ndarray
    """(S, F) float32 features of regions."""
    fc: np.ndarray | None
    """(F,) mean feature; None for models that do not read it."""
    boxes: np.ndarray | None
    """(S, 4) relative boxes x1, y1, x2, y2; None for models that do not read them."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a data set's features come from."""

    att: FeatureSource
    fc: FeatureSource | None
    """None: the mean of a picture's regions is computed."""
    boxes: FeatureSource | None
    places: Mapping[str, str]
    """Where the data set and its features lie, by the names of the flags that could have said so."""


class Samples:
    """One split: a sample for each picture, in the order of the caption file."""

    def __init__(self, records: Sequence[CaptionRecord], sources: Sources, cfg: Config) -> None:
        self.records, self.sources = list(records), sources
        self.att_size, self.fc_size = cfg.model.att_feat_size, cfg.model.fc_feat_size
        self.wants_fc = reads_fc(cfg)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Read a picture's features.

        Raises:
            UserError: they are missing, or of another size than the configuration's.
        """
        record = self.records[index]
        att = self.sources.att.get(record.image_id)
        _expect(record, "att_feat_size", self.att_size, att)
        fc = boxes = None
        if self.wants_fc:
            source = self.sources.fc
            fc = source.get(record.image_id)[0] if source is not None else att.mean(axis=0)
            _expect(record, "fc_feat_size", self.fc_size, fc)
        if self.sources.boxes is not None:
            boxes = self.sources.boxes.get(record.image_id)
            if boxes.shape != (len(att), 4):
                raise UserError(f"{record.file}: boxes of shape {boxes.shape}, expected ({len(att)}, 4)")
        return Sample(record, att, fc, boxes)


def _expect(record: CaptionRecord, name: str, size: int, features: np.ndarray) -> None:
    if features.shape[-1] != size:
        raise UserError(f"{record.file}: features of size {features.shape[-1]}, expected {name} {size}")


@dataclass(frozen=True, kw_only=True)
class Collate:
    """Samples to a batch; draws each picture's captions from Python's random generator."""

    tokenizer: Tokenizer
    seq_per_img: int
    """Captions k of each picture."""
    max_seq_length: int
    """Most tokens of a caption."""
    raw: bool = False
    """Use sentences as they were written, not the caption file's tokens."""
    few_captions_fail: bool = False
    """Refuse a batch of pictures with different numbers of captions up to k; else captions are repeated."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Build the batch.

        Returns:
            ``att_feats`` (B, S, F), ``att_masks`` (B, S), ``seqs`` and ``masks`` (B * k, T; a picture's
            captions one after the other), for some models ``fc_feats`` (B, F) and ``boxes`` (B, S, 4), all
            padded with 0; ``gts``, ``image_paths`` and ``image_ids`` with one entry a picture.

        Raises:
            UserError: pictures with different numbers of captions, where that is refused.
        """
        chosen = [self._draw(sample.record) for sample in samples]
        if self.few_captions_fail and len({len(captions) for captions in chosen}) > 1:
            few = min(range(len(samples)), key=lambda i: len(chosen[i]))
            raise UserError(
                f"{samples[few].record.file} has {len(chosen[few])} captions, expected seq_per_img "
                f"{self.seq_per_img} as for the other pictures; preset fixed repeats captions"
            )
        ids = [torch.tensor(self._encode(caption)) for captions in chosen for caption in captions]
        batch: dict[str, Any] = {
            "att_feats": _padded(sample.att for sample in samples),
            "att_masks": _padded(np.ones(len(sample.att), dtype=np.float32) for sample in samples),
            "seqs": pad_sequence(ids, batch_first=True),
            "masks": pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True),
            "gts": tuple(list(sample.record.references) for sample in samples),
            "image_paths": tuple(sample.record.file for sample in samples),
            "image_ids": tuple(sample.record.image_id for sample in samples),
        }
        means = [sample.fc for sample in samples if sample.fc is not None]
        if means:
            batch["fc_feats"] = torch.from_numpy(np.stack(means))
        boxes = [sample.boxes for sample in samples if sample.boxes is not None]
        if boxes:
            batch["boxes"] = _padded(boxes)
        return batch

    def _draw(self, record: CaptionRecord) -> list[str]:
        # A picture of the online test has no caption: an empty one keeps the batch's shape.
        captions = (record.raw if self.raw else record.references) or ("",)
        drawn = random.sample(captions, min(self.seq_per_img, len(captions)))
        if not self.few_captions_fail and len(drawn) < self.seq_per_img:
            drawn += random.choices(captions, k=self.seq_per_img - len(drawn))
        return drawn

    def _encode(self, caption: str) -> list[int]:
        return self.tokenizer.encode(caption, max_seq_length=self.max_seq_length)


def _padded(arrays: Any) -> torch.Tensor:
    # np.array copies: features from the cache and from mapped files are read-only.
    return pad_sequence([torch.from_numpy(np.array(array)) for array in arrays], batch_first=True)


class CaptionData:
    """The three splits of a data set.

    Attributes:
        cfg: the run's configuration.
        records: pictures and captions by split.
        sources: features.
    """

    def __init__(self, cfg: Config, records: Mapping[str, list[CaptionRecord]], sources: Sources) -> None:
        self.cfg, self.records, self.sources = cfg, dict(records), sources

    def train_captions(self) -> list[str]:
        """All training captions in the caption file's order, which the tokenizer learns from.

        Raises:
            UserError: ``tokenizer_train_files`` names a file that cannot be read.
        """
        if self.cfg.data.tokenizer_train_files:
            path = Path(self.cfg.data.tokenizer_train_files)
            if not path.is_file():
                raise UserError(f"tokenizer_train_files {path}: no such file, expected one caption a line")
            return path.read_text(encoding="utf-8").splitlines()
        raw = self.cfg.data.retokenize_captions
        return [c for record in self.records["train"] for c in (record.raw if raw else record.references)]

    def references(self, split: str) -> dict[int, tuple[str, ...]]:
        """Picture id to its captions as written, which evaluation compares with."""
        return references_of(self.records[split])

    def loader(self, split: str, tokenizer: Tokenizer, *, rank: int = 0, world_size: int = 1) -> Loader:
        """Batches of a split: shuffled, without a last short one, for ``train``; all pictures in order else.

        Args:
            split: ``train``, ``val`` or ``test``.
            tokenizer: turns captions into ids.
            rank: this process.
            world_size: number of processes; each loads batches of ``batch_size`` pictures.

        Raises:
            UserError: fewer training pictures than a batch, or more token ids than ``vocab_size``.
        """
        data, train = self.cfg.data, split == "train"
        check_vocabulary(tokenizer, self.cfg)
        sources = self.sources
        if train and data.cache_min_free_ram < 1:
            sources = replace(sources, att=CachedFeatures(sources.att, min_free_ram=data.cache_min_free_ram))
        records = self.records[split]
        if train and len(records) < data.batch_size * world_size:
            raise UserError(
                f"batch_size {data.batch_size} (in {world_size} processes) needs more than the "
                f"{len(records)} training pictures of {data.dataset}"
            )
        return make_loader(
            Samples(records, sources, self.cfg),
            batch_size=data.batch_size if train else data.batch_size_eval,
            collate=Collate(
                tokenizer=tokenizer,
                seq_per_img=data.seq_per_img,
                max_seq_length=self.cfg.model.max_seq_length,
                raw=data.retokenize_captions,
                few_captions_fail=self.cfg.quirks.few_captions_fail,
            ),
            seed=self.cfg.run.seed,
            shuffle=train,
            drop_last=train,
            workers=data.num_workers,
            rank=rank,
            world_size=world_size,
            pin_memory=True,
        )


def check_vocabulary(tokenizer: Tokenizer, cfg: Config) -> None:
    """Refuse a tokenizer with more ids than the model has words.

    Raises:
        UserError: it has.
    """
    if len(tokenizer) > cfg.model.vocab_size:
        raise UserError(
            f"{tokenizer.model_file} has {len(tokenizer)} tokens, expected at most vocab_size "
            f"{cfg.model.vocab_size}"
        )


def data_dir(data: DataConfig) -> Path:
    """The folder of a data set: as configured, or of its name under PRUNELAB_DATA.

    An absolute path that does not exist (the original's examples have some) is looked for under PRUNELAB_DATA
    by its last part.

    Raises:
        UserError: there is no such folder.
    """
    root = os.environ.get("PRUNELAB_DATA")
    if data.dataset_dir:
        return _existing(data.dataset_dir, "dataset_dir")
    if not root:
        raise UserError(
            f"dataset_dir is empty and PRUNELAB_DATA is not set, expected the folder of {data.dataset}"
        )
    return _existing(str(Path(root) / FOLDERS.get(data.dataset, data.dataset)), "dataset_dir")


def _existing(text: str, name: str) -> Path:
    path, root = Path(text).expanduser(), os.environ.get("PRUNELAB_DATA")
    if path.exists():
        return path
    if root and path.name and (Path(root) / path.name).exists():
        return Path(root) / path.name
    raise UserError(f"{name} {text}: no such file or folder")


def open_data(cfg: Config, scratch: Path | None = None) -> CaptionData:
    """Open the data set of a configuration.

    Args:
        cfg: the run's configuration.
        scratch: folder for generated data (``fake_data``); default: ``fake_data`` in the working directory.

    Raises:
        UserError: the data set, some of its pictures or its features are missing or damaged.
    """
    records, folder = open_records(cfg, scratch)
    data = cfg.data
    if cfg.run.fake_data:
        data = replace(data, input_att_dir="", input_fc_dir="", input_rel_box_dir="")
    return CaptionData(cfg, records, _sources(cfg, data, folder))


def open_records(cfg: Config, scratch: Path | None = None) -> tuple[dict[str, list[CaptionRecord]], Path]:
    """Pictures and captions of each split, without their features, and the data set's folder.

    Arguments and errors are those of `open_data`.
    """
    data = cfg.data
    if cfg.run.fake_data:
        place = scratch or Path("fake_data")
        folder = dist.on_main(lambda: write_fake_data(place, cfg))
    elif data.dataset == "tiny" and not data.dataset_dir:
        folder = cached(
            "captions", train=TINY[0], val=TINY[1], test=TINY[2], feat_size=cfg.model.att_feat_size
        )
    else:
        folder = data_dir(data)
    if folder.is_dir():
        captions = open_captions(folder, json_name=JSON_NAMES.get(data.dataset))
    else:
        captions = open_captions(folder)
        folder = folder.parent
    if data.mscoco_online_test:
        return _online_test(captions.records, folder), folder
    return {split: captions.split(split) for split in SPLITS}, folder


def references_of(records: Sequence[CaptionRecord]) -> dict[int, tuple[str, ...]]:
    """Picture id to its captions as written, which evaluation compares with."""
    return {record.image_id: record.raw for record in records}


def _online_test(records: Sequence[CaptionRecord], folder: Path) -> dict[str, list[CaptionRecord]]:
    test = open_pictures(folder / "test2014").records
    return {
        "train": [record for record in records if record.split != "test"],
        "val": [record for record in records if record.split == "test"],
        "test": [replace(record, file=f"test2014/{record.file}") for record in test],
    }


def _sources(cfg: Config, data: DataConfig, folder: Path) -> Sources:
    wanted = ["input_att_dir"]
    if reads_fc(cfg) and (data.input_fc_dir or (folder / FC_DIR).exists()):
        wanted.append("input_fc_dir")
    if reads_boxes(cfg):
        wanted.append("input_rel_box_dir")
    places = {name: _feature_path(getattr(data, name), name, folder / FEATURE_DIRS[name]) for name in wanted}
    found = {name: open_features(path) for name, path in places.items()}
    return Sources(
        att=found["input_att_dir"],
        fc=found.get("input_fc_dir"),
        boxes=found.get("input_rel_box_dir"),
        places={"dataset_dir": str(folder)} | {name: str(path) for name, path in places.items()},
    )


def _feature_path(given: str, name: str, default: Path) -> Path:
    if given:
        return _existing(given, name)
    if not default.exists():
        raise UserError(
            f"{default}: no features; compute them with `smp-caption extract`, or name them with --{name}"
        )
    return default
