"""What a model sees of pictures, a batch at a time: features that were computed before, or pictures.

# B pictures, S visual tokens of the picture with most, F their width, H height and width
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expansionnet.features.preprocess import Preprocess
from prunelab.data.captions import CaptionRecord
from prunelab.data.features import FeatureSource, Hdf5Features, check_features, read_batch
from prunelab.errors import UserError

PREPARED = "_img"
"""What follows a picture's id in a file of prepared pictures."""
LOOKED_AT = 50
"""So many pictures of a set tell how large and how strongly compressed they are."""
FEW_BYTES = 0.15
"""JPEG bytes a pixel below which a set was compressed again; COCO's own files have about 0.5."""


def picture_notes(paths: Sequence[Path], side: int) -> list[str]:
    """What is odd about a set of pictures, in lines: some copies of COCO were shrunken or compressed again.

    Args:
        paths: of all pictures; some of them are looked at.
        side: of the backbone's pictures, in pixels.
    """
    lengths, densities = [], []
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        with contextlib.suppress(OSError), Image.open(path) as image:  # reading it tells what is wrong
            lengths.append(max(image.size))
            if image.format == "JPEG":
                densities.append(path.stat().st_size / (image.width * image.height))
    notes = []
    if lengths and (length := statistics.median(lengths)) < side:
        notes.append(
            f"note: half of the pictures are at most {length:.0f} pixels long, the backbone reads {side}: "
            "scores may be lower than with larger ones"
        )
    if densities and (density := statistics.median(densities)) < FEW_BYTES:
        notes.append(
            f"note: half of the pictures have at most {density:.2f} bytes a pixel, COCO's own about 0.5: "
            "scores may be lower than with those"
        )
    return notes


class Visual(Protocol):
    """Reads what a model sees of some pictures."""

    def __call__(self, records: Sequence[CaptionRecord], /) -> tuple[Tensor, Tensor | None]:
        """What the pictures look like, and how many of the tokens of each are padding; None: none is."""
        ...

    def check(self, records: Sequence[CaptionRecord], /) -> None:
        """Look whether all is there, as far as that is quick.

        Raises:
            UserError: something is missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features: (B, S, F) in the precision that they are kept in."""

    source: FeatureSource
    width: int
    """F, as the model expects it."""
    where: str
    """Where they lie, for messages."""

    def __call__(self, records: Sequence[CaptionRecord]) -> tuple[Tensor, Tensor | None]:
        """Read a batch.

        Raises:
            UserError: features are missing, damaged or of another width.
        """
        batch, counts = read_batch(self.source, [record.image_id for record in records])
        if batch.shape[2] != self.width:
            raise UserError(
                f"{self.where}: features of {records[0].file} are {batch.shape[2]} values wide, expected "
                f"img_feature_dim {self.width}"
            )
        pads = batch.shape[1] - counts
        return torch.from_numpy(batch), torch.from_numpy(pads) if pads.any() else None

    def check(self, records: Sequence[CaptionRecord]) -> None:
        """See that all pictures have features, and that those of the first one fit the model."""
        check_features(self.source, (record.image_id for record in records), where=self.where)
        self(records[:1])


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Picture files: (B, 3, H, H)."""

    preprocess: Preprocess

    def __call__(self, records: Sequence[CaptionRecord]) -> tuple[Tensor, Tensor | None]:
        """Read a batch.

        Raises:
            UserError: a file is missing, damaged or no picture.
        """
        return self.preprocess.batch([record.path for record in records]), None

    def check(self, records: Sequence[CaptionRecord]) -> None:
        """See that all files are there, and that the first one can be read."""
        missing = [record for record in records if not record.path.is_file()]
        if missing:
            raise UserError(
                f"{missing[0].path}: picture is missing, and so are {len(missing) - 1} more of {len(records)}"
            )
        self(records[:1])


@dataclass(frozen=True, kw_only=True)
class PreparedPictures:
    """Pictures that were resized and standardised before, in an HDF5 file: (B, 3, H, H)."""

    source: Hdf5Features
    size: int
    """H, as the model expects it."""

    def __call__(self, records: Sequence[CaptionRecord]) -> tuple[Tensor, Tensor | None]:
        """Read a batch.

        Raises:
            UserError: a picture is missing or of another shape.
        """
        arrays = [self.source.array(record.image_id) for record in records]
        expected = (3, self.size, self.size)
        for record, array in zip(records, arrays, strict=True):
            if array.shape != expected or array.dtype.kind != "f":
                raise UserError(
                    f"{self.source.path}: data set '{record.image_id}{PREPARED}' is {array.dtype} "
                    f"{array.shape}, expected a picture {expected} of float32"
                )
        return torch.from_numpy(np.stack(arrays).astype(np.float32, copy=False)), None

    def check(self, records: Sequence[CaptionRecord]) -> None:
        """See that all pictures are there, and that the first one fits the model."""
        check_features(self.source, (record.image_id for record in records), where=self.source.path)
        self(records[:1])
