"""The data sets: which pictures and captions are in a split, and the batches of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prunelab import dist
from prunelab.data.captions import CaptionRecord, CaptionSet, open_captions, open_pictures
from prunelab.data.flickr import is_flickr, open_flickr
from prunelab.data.instapic import is_instapic, open_instapic
from prunelab.data.loader import Loader, make_loader
from prunelab.data.synthetic import cached
from prunelab.errors import UserError
from smp_caption.config import Config, DataConfig
from smp_caption.features.batches import Collate, Samples
from smp_caption.features.fake import write_fake_data
from smp_caption.features.layout import FOLDERS, JSON_NAMES, TINY
from smp_caption.features.sources import Sources, existing, open_sources
from smp_caption.tokenizer import Tokenizer

SPLITS = ("train", "val", "test")
FLICKR = ("flickr8k", "flickr30k")


class CaptionData:
    """The three splits of a data set.

    Attributes:
        cfg: the run's configuration.
        records: pictures and captions by split.
        sources: features.
        kept: the same for training, where what was read stays in memory.
    """

    def __init__(
        self,
        cfg: Config,
        records: Mapping[str, list[CaptionRecord]],
        sources: Sources,
        kept: Sources | None = None,
    ) -> None:
        self.cfg, self.records, self.sources = cfg, dict(records), sources
        self.kept = kept or sources

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
            UserError: training pictures without captions, or fewer than a batch; or more token ids than
                ``vocab_size``.
        """
        data, train = self.cfg.data, split == "train"
        check_vocabulary(tokenizer, self.cfg)
        records = self.records[split]
        bare = [record.file for record in records if not record.references] if train else []
        if bare:
            raise UserError(
                f"{bare[0]}: a training picture without captions ({len(bare)} of {len(records)}), "
                "expected one or more"
            )
        if train and len(records) < data.batch_size * world_size:
            raise UserError(
                f"batch_size {data.batch_size} (in {world_size} processes) needs more than the "
                f"{len(records)} training pictures of {data.dataset}"
            )
        return make_loader(
            Samples(records, self.kept if train else self.sources, self.cfg),
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
        return existing(data.dataset_dir, "dataset_dir")
    if not root:
        raise UserError(
            f"dataset_dir is empty and PRUNELAB_DATA is not set, expected the folder of {data.dataset}"
        )
    return existing(str(Path(root) / FOLDERS.get(data.dataset, data.dataset)), "dataset_dir")


def open_data(cfg: Config, scratch: Path | None = None, *, splits: Sequence[str] = SPLITS) -> CaptionData:
    """Open the data set of a configuration; every rank must call this.

    Args:
        cfg: the run's configuration.
        scratch: folder for generated data (``fake_data``); default: ``fake_data`` in the working directory.
        splits: those that will be used, whose pictures must have features.

    Raises:
        UserError: the data set, some of its pictures or its features are missing or damaged.
    """
    records, folder = open_records(cfg, scratch)
    data = cfg.data
    if cfg.run.fake_data:
        data = replace(data, input_att_dir="", input_fc_dir="", input_rel_box_dir="")
    sources = open_sources(cfg, data, folder)
    sources.check(record for split in splits for record in records[split])
    kept = None
    if "train" in splits:
        ids = [record.image_id for record in records["train"]]
        kept = sources.kept(ids, data.cache_min_free_ram)
    return CaptionData(cfg, records, sources, kept)


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
    captions = open_set(folder, data.dataset)
    if not folder.is_dir():
        folder = folder.parent
    if data.mscoco_online_test:
        return _online_test(captions.records, folder), folder
    return {split: captions.split(split) for split in SPLITS}, folder


def open_set(place: Path, dataset: str | None = None) -> CaptionSet:
    """Pictures and captions of a data set's folder, or of its caption file.

    Without a name of the data set, the layout is told by the files that are there.

    Raises:
        UserError: no captions are found, or they are of another form, or some pictures are missing.
    """
    unknown = dataset is None and place.is_dir() and not (place / "captions.json").is_file()
    if place.is_dir() and (dataset in FLICKR or (unknown and is_flickr(place))):
        return open_flickr(place)
    if place.is_dir() and (dataset == "instapic" or (unknown and is_instapic(place))):
        return open_instapic(place)
    return open_captions(place, json_name=JSON_NAMES.get(dataset or "") if place.is_dir() else None)


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
