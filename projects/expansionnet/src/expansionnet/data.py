"""Pictures or their features, and captions, as batches.

A batch is a dict; ``B`` samples, ``S`` visual tokens of width ``F``, ``T`` words, ``H`` by ``W`` pixels:

=============== =========================================================================================
``x``           (B, S, F) features, float32 or float16, or (B, 3, H, W) pictures, float32
``pads``        (B,) int64: how many of the S are padding; None: none is, of any picture
``indices``     list of B places in the split's list of pictures
``image_ids``   list of B picture ids
``tokens``      (B, T) int64: start, words, end, padding; of cross entropy
``token_pads``  (B,) int64: how many of the T are padding; goes with ``tokens``
``references``  list of B tuples of captions as written; in all batches but those of cross entropy
=============== =========================================================================================

Pictures that come several times in a batch are read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from expansionnet.config import Config, DataConfig
from expansionnet.features.fake import FAKE_FEATURES, FAKE_PICTURES, write_fake_data
from expansionnet.features.preprocess import Preprocess
from expansionnet.features.visual import PREPARED, Features, Pictures, PreparedPictures, Visual
from expansionnet.layout import CAPTIONS_FILE, FAKE_DATA, found
from expansionnet.learning.order import OriginalOrder, init_seeds
from expansionnet.words.vocabulary import MORE_POSITIONS, Corpus, Vocabulary
from prunelab import dist
from prunelab.data.captions import CaptionRecord, CaptionSet, Reading, open_captions
from prunelab.data.features import Hdf5Features, open_features
from prunelab.data.loader import Loader, load_in, make_loader
from prunelab.data.sampling import BatchSampler, EpochSampler
from prunelab.data.synthetic import cached
from prunelab.errors import UserError

Batch: TypeAlias = dict[str, Any]
SPLITS = ("train", "val", "test")
INNER = ("img", "")
"""Where pictures lie below ``filepath``: as the original has it, or as everybody else."""
TINY = (1500, 100, 200)
"""Pictures of the generated data set: train, val, test."""
TINY_SIDES = (32, 128)
"""Least and greatest side of a generated picture; other backbones than of these get it resized."""
TINY_FEATURES = "bu/cocobu_att"
"""Features of its regions, in its folder."""


# ---------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True, kw_only=True)
class PictureBatches:
    """Places of pictures to a batch of pictures."""

    records: Sequence[CaptionRecord]
    visual: Visual

    def __call__(self, places: Sequence[int]) -> Batch:
        """Build the batch of some places in the list of pictures.

        Raises:
            UserError: something of a picture is missing or damaged.
        """
        return self.seen(places) | {"references": [self.records[place].raw for place in places]}

    def seen(self, places: Sequence[int]) -> Batch:
        """What all batches hold: what the pictures look like, and which they are."""
        unique = {place: number for number, place in enumerate(dict.fromkeys(places))}
        x, pads = self.visual([self.records[place] for place in unique])
        if len(unique) < len(places):
            again = torch.tensor([unique[place] for place in places])
            x, pads = x[again], None if pads is None else pads[again]
        return {
            "x": x,
            "pads": pads,
            "indices": list(places),
            "image_ids": [self.records[place].image_id for place in places],
        }


@dataclass(frozen=True, kw_only=True)
class CaptionBatches:
    """Places of captions, in the list of all captions of all pictures, to a batch of captions."""

    pictures: PictureBatches
    owners: np.ndarray
    """(captions,) place of each caption's picture."""
    corpus: Corpus
    """The captions as ids of the vocabulary."""
    vocabulary: Vocabulary

    def __call__(self, places: Sequence[int]) -> Batch:
        """Build the batch of some places in the list of captions; see `PictureBatches`."""
        rows = [self.corpus.caption(place) for place in places]
        lengths = np.array([len(row) + 2 for row in rows], np.int64)  # with start and end
        longest = int(lengths.max())
        tokens = np.full((len(rows), longest), self.vocabulary.pad, np.int64)
        tokens[:, 0] = self.vocabulary.sos
        for target, row in zip(tokens, rows, strict=True):
            target[1 : len(row) + 1] = row
            target[len(row) + 1] = self.vocabulary.eos
        return self.pictures.seen(self.owners[list(places)].tolist()) | {
            "tokens": torch.from_numpy(tokens),
            "token_pads": torch.from_numpy(longest - lengths),
        }


class CaptionData:
    """The three splits of a data set, and the words of its captions.

    Args:
        cfg: the run's configuration.
        records: pictures and captions by split.
        visual: reads what a model sees of pictures.
        vocabulary: the words; None: those of the training captions.
        source: the caption file, for messages.

    Attributes:
        cfg: the run's configuration.
        records: pictures and captions by split.
    """

    def __init__(
        self,
        cfg: Config,
        records: Mapping[str, list[CaptionRecord]],
        visual: Visual,
        vocabulary: Vocabulary | None = None,
        *,
        source: str = "captions",
    ) -> None:
        self.cfg, self.records, self.visual, self.source = cfg, dict(records), visual, source
        self._given = vocabulary
        self._checked: set[str] = set()

    def split(self, name: str) -> list[CaptionRecord]:
        """The pictures of a split, in the order that ``indices`` of its batches mean.

        Raises:
            UserError: there are none.
        """
        if not self.records[name]:
            there = ", ".join(split for split, records in self.records.items() if records)
            raise UserError(f"{self.source}: no picture in the split {name!r}; found {there}")
        return self.records[name]

    @cached_property
    def corpus(self) -> Corpus:
        """The training captions, in the order of their pictures.

        Raises:
            UserError: a caption has no words.
        """
        records = self.split("train")
        corpus = Corpus.read(raw for record in records for raw in record.raw)
        if not len(corpus):
            raise UserError(f"{self.source}: none of its {len(records)} training pictures has a caption")
        empty = np.flatnonzero(corpus.lengths == 0)
        if len(empty):
            owner = records[self._owners[empty[0]]]
            raw = next(raw for raw in owner.raw if not Corpus.read([raw]).lengths[0])
            raise UserError(
                f"{self.source}: a caption of {owner.file} is {raw!r}, expected words (and so is each of "
                f"{len(empty)} captions)"
            )
        return corpus

    @cached_property
    def _owners(self) -> np.ndarray:
        """(captions,) place of the picture of each training caption."""
        counts = [len(record.raw) for record in self.records["train"]]
        return np.repeat(np.arange(len(counts)), counts)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words."""
        if self._given is not None:
            return self._given
        return Vocabulary.from_corpus(self.corpus, min_occurrences=self.cfg.data.dict_min_occurrences)

    @property
    def longest(self) -> int:
        """Words of the longest training caption, start and end included."""
        return self.corpus.longest

    @property
    def positions(self) -> int:
        """Positions of a model for the training captions."""
        return self.longest + MORE_POSITIONS

    def references(self, split: str) -> dict[int, tuple[str, ...]]:
        """Picture id to its captions as written, in the order of the pictures."""
        return {record.image_id: record.raw for record in self.split(split)}

    def loader(self, split: str, *, rank: int = 0, world_size: int = 1) -> Loader[Any]:
        """Batches of a split.

        For ``train`` shuffled, without a last short one, of captions or (``reinforce``) of pictures; else all
        pictures in order, each in one process. A run tracks ``loader("train").sampler``: the order of an
        epoch, and the position in it.

        Args:
            split: ``train``, ``val`` or ``test``.
            rank: this process.
            world_size: number of processes; they share ``batch_size``, and each of them evaluates batches of
                ``eval_parallel_batch_size``.

        Raises:
            UserError: pictures or features are missing, fewer samples than a batch, or a batch that the
                processes cannot share.
        """
        records = self.split(split)
        if split not in self._checked:
            self.visual.check(records)
            self._checked.add(split)
        pictures = PictureBatches(records=records, visual=self.visual)
        data, seed = self.cfg.data, self.cfg.run.seed
        if split != "train":
            return make_loader(
                range(len(records)),
                batch_size=data.eval_parallel_batch_size,
                collate=pictures,
                seed=seed,
                shuffle=False,
                drop_last=False,
                workers=data.workers,
                rank=rank,
                world_size=world_size,
                pin_memory=True,
            )
        collate = pictures if self.cfg.scst.reinforce else self._captions(pictures)
        size = len(records) if self.cfg.scst.reinforce else len(self.corpus)
        return load_in(
            self._sampler(size, rank, world_size),
            range(size),
            collate=collate,
            seed=seed,
            workers=data.workers,
            pin_memory=True,
        )

    def _captions(self, pictures: PictureBatches) -> CaptionBatches:
        return CaptionBatches(
            pictures=pictures,
            owners=self._owners,
            corpus=self.corpus.coded(self.vocabulary),
            vocabulary=self.vocabulary,
        )

    def _sampler(self, size: int, rank: int, world_size: int) -> BatchSampler:
        cfg, batch = self.cfg, self.cfg.data.batch_size
        what = "pictures" if cfg.scst.reinforce else "captions"
        if cfg.quirks.original_order:
            seeds = init_seeds(cfg.run.seed, cfg.optim.num_epochs)
            sampler = OriginalOrder(size, batch, seeds=seeds, rank=rank, world_size=world_size)
            least = batch * world_size
        else:
            if batch % world_size:
                raise UserError(f"batch_size is {batch}, expected a multiple of the {world_size} processes")
            sampler = EpochSampler(
                size,
                batch // world_size,
                seed=cfg.run.seed,
                shuffle=True,
                drop_last=True,
                rank=rank,
                world_size=world_size,
            )
            least = batch
        if not len(sampler):
            raise UserError(
                f"batch_size is {batch}, expected at most the {size} training {what} of {self.source}"
                + (f" (they must be {least} at least)" if least > batch else "")
            )
        return sampler


# ---------------------------------------------------------------------------------------------------- opening


def open_data(
    cfg: Config, scratch: Path | None = None, *, vocabulary: Vocabulary | None = None
) -> CaptionData:
    """Open the data set of a configuration.

    Args:
        cfg: the run's configuration.
        scratch: folder for generated data (``fake_data``); default: ``fake_data`` in the working folder.
        vocabulary: the words of the weights that training starts from; None: ``vocab_path``'s, else those of
            the training captions.

    Raises:
        UserError: the data set, some of its pictures or its features are missing or damaged, or
            ``vocab_path`` holds other words than the weights know.
    """
    cfg = replace(cfg, data=with_generated(cfg, scratch))
    captions = open_records(cfg.data, lenient=cfg.quirks.lenient_captions)
    records = {split: [r for r in captions.records if r.split == split] for split in SPLITS}
    records["val"] = records["val"][: cfg.data.limited_num_val_images]
    return CaptionData(cfg, records, _visual(cfg), _words(cfg.data, vocabulary), source=str(captions.source))


def open_records(data: DataConfig, *, lenient: bool = False) -> CaptionSet:
    """Pictures and captions alone.

    Pictures lie below ``images_path``, with or without the folder ``img`` in between, or below the captions'
    own folder: where the first one is found.

    Args:
        data: which data set.
        lenient: see `prunelab.data.captions.Reading`.

    Raises:
        UserError: the caption file is missing or wrong.
    """
    place = found(data.captions_path)
    if not place.exists():
        raise UserError(
            f"captions_path {data.captions_path}: no such file or folder, expected "
            f"{'captions.json' if data.dataset == 'own' else 'dataset_coco.json'} in it"
        )
    name = CAPTIONS_FILE if data.dataset == "own" and place.is_dir() else None
    roots = (found(data.images_path), None)
    sets = (
        open_captions(
            place, json_name=name, check=0, reading=Reading(root=root, inner=INNER, lenient=lenient)
        )
        for root in roots
    )
    first = next(sets)
    if first.records[0].path.is_file():
        return first
    second = next(sets)
    return second if second.records[0].path.is_file() else first


def with_generated(cfg: Config, scratch: Path | None = None) -> DataConfig:
    """The data's places, those of generated data once they are there."""
    data = cfg.data
    if data.fake_data:
        folder = scratch or Path(FAKE_DATA)
        dist.on_main(lambda: write_fake_data(folder, cfg))
        return replace(
            data,
            dataset="karpathy",
            captions_path=str(folder),
            images_path=str(folder / FAKE_PICTURES),
            features_path=str(folder / FAKE_FEATURES),
            preproc_images_hdf5_filepath=None,
        )
    if data.dataset != "tiny":
        return data
    folder = cached(
        "captions",
        train=TINY[0],
        val=TINY[1],
        test=TINY[2],
        feat_size=cfg.model.img_feature_dim,
        side=min(max(cfg.model.swin.img_size, TINY_SIDES[0]), TINY_SIDES[1]),
    )
    own = data.features_path == DataConfig().features_path
    return replace(
        data,
        dataset="karpathy",
        captions_path=str(folder),
        images_path=str(folder),
        features_path=str(folder / TINY_FEATURES) if own else data.features_path,
    )


def _visual(cfg: Config) -> Visual:
    data, model = cfg.data, cfg.model
    if not model.is_end_to_end:
        path = found(data.features_path)
        if not path.exists():
            raise UserError(
                f"features_path {data.features_path}: no such file or folder; compute features with "
                "`data-generator`, or train on pictures with --is_end_to_end True"
            )
        return Features(source=open_features(path), width=model.img_feature_dim, where=str(path))
    size = model.swin.img_size
    if data.preproc_images_hdf5_filepath:
        path = found(data.preproc_images_hdf5_filepath)
        if not path.is_file():
            raise UserError(f"preproc_images_hdf5_filepath {data.preproc_images_hdf5_filepath}: no such file")
        return PreparedPictures(source=Hdf5Features(path, suffix=PREPARED), size=size)
    return Pictures(preprocess=Preprocess(size=size, black=cfg.quirks.black_pictures))


def _words(data: DataConfig, of_weights: Vocabulary | None) -> Vocabulary | None:
    if not data.vocab_path:
        return of_weights
    named = Vocabulary.load(found(data.vocab_path))
    if of_weights is not None and named.words != of_weights.words:
        raise UserError(
            f"vocab_path {data.vocab_path}: {len(named):,} words, expected the {len(of_weights):,} of the "
            "weights that training starts from"
        )
    return named
