"""Pictures with their features, and how several of them become a batch.

B pictures, k captions of each, S regions, F size of a region's feature, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from prunelab.data.captions import CaptionRecord
from prunelab.errors import UserError
from smp_caption.config import Config
from smp_caption.features.layout import reads_fc
from smp_caption.features.sources import Sources
from smp_caption.tokenizer import Tokenizer


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
            UserError: they are missing, of another size than the configuration's, or boxes are wrong.
        """
        record = self.records[index]
        att = self.sources.att.get(record.image_id)
        _expect(record, "att_feat_size", self.att_size, att)
        fc = None
        if self.wants_fc:
            source = self.sources.fc
            fc = source.get(record.image_id)[0] if source is not None else att.mean(axis=0)
            _expect(record, "fc_feat_size", self.fc_size, fc)
        return Sample(record, att, fc, self.sources.boxes_of(record, len(att)))


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
