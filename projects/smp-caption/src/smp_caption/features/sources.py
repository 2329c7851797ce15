"""Where the features of a data set come from, what is kept of them in memory, and whether they are right."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prunelab import dist
from prunelab.data.captions import CaptionRecord
from prunelab.data.features import FeatureSource, check_features, open_features
from prunelab.data.memory import CachedFeatures, available, shared_memory
from prunelab.data.store import FeatureStore
from prunelab.errors import UserError
from smp_caption.config import Config, DataConfig
from smp_caption.features.layout import FEATURE_DIRS, OWN_DIRS, reads_boxes, reads_fc

# S regions, F size of a region's feature

MISSING = {
    "input_att_dir": ("features", "compute them with `smp-caption extract`"),
    "input_fc_dir": ("mean features", "compute them with `smp-caption extract`"),
    "input_rel_box_dir": (
        "relative boxes",
        "make them with scripts/prepro_bbox_relative_coords.py or `smp-caption extract`",
    ),
}
"""What is said of features that are not there."""
ROUNDING = 1e-4
"""Relative coordinates may be so far outside [0, 1], and corners so far out of order."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a data set's features come from."""

    att: FeatureSource
    fc: FeatureSource | None
    """None: the mean of a picture's regions is computed."""
    boxes: FeatureSource | None
    places: Mapping[str, str]
    """Where the data set and its features lie, by the names of the flags that could have said so."""

    def check(self, records: Iterable[CaptionRecord]) -> None:
        """See whether all pictures have features, by one look at each folder.

        Raises:
            UserError: some have none; with their number and the first five.
        """
        ids = [record.image_id for record in records]
        for name, source in self._by_flag().items():
            check_features(source, ids, where=f"{name} {self.places[name]}")

    def _by_flag(self) -> dict[str, FeatureSource]:
        parts = {"input_att_dir": self.att, "input_fc_dir": self.fc, "input_rel_box_dir": self.boxes}
        return {name: source for name, source in parts.items() if source is not None}

    def kept(self, ids: Sequence[int], min_free_ram: float) -> Sources:
        """These sources, of which all processes of a machine keep what one of them has read.

        Every rank must call this. Features of a store are left as they are: its files are mapped into memory,
        and so shared already.
        """

        def keep(source: FeatureSource) -> FeatureSource:
            if isinstance(source, FeatureStore):
                return source
            return CachedFeatures(source, shared_memory(ids), min_free_ram=min_free_ram)

        if min_free_ram >= 1:
            return self
        if why := available():
            if dist.is_main():
                sys.stderr.write(
                    f"cache_min_free_ram {min_free_ram}: no features are kept in memory, {why}\n"
                )
            return self
        return replace(
            self,
            att=keep(self.att),
            fc=keep(self.fc) if self.fc is not None else None,
            boxes=keep(self.boxes) if self.boxes is not None else None,
        )

    def boxes_of(self, record: CaptionRecord, regions: int) -> np.ndarray | None:
        """The relative boxes (S, 4) of a picture's regions; None where no model reads them.

        Raises:
            UserError: they are missing, of another number, or not inside the picture.
        """
        if self.boxes is None:
            return None
        boxes = self.boxes.get(record.image_id)
        where = f"{self.places['input_rel_box_dir']}: image {record.image_id} ({record.file})"
        if boxes.shape != (regions, 4):
            raise UserError(f"{where}: boxes of shape {boxes.shape}, expected ({regions}, 4)")
        ordered = (boxes[:, :2] <= boxes[:, 2:] + ROUNDING).all(axis=1)
        right = ordered & ((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING)).all(axis=1)
        if not right.all():
            row = int(np.argmin(right))
            shown = [round(x, 4) for x in boxes[row].tolist()]
            raise UserError(
                f"{where}: box {row} is {shown}, expected x1, y1, x2, y2 "
                "relative to the picture: 0 <= x1 <= x2 <= 1, 0 <= y1 <= y2 <= 1 "
                "(scripts/prepro_bbox_relative_coords.py makes them from absolute ones)"
            )
        return boxes


def open_sources(cfg: Config, data: DataConfig, folder: Path) -> Sources:
    """Open the features that the configured model reads.

    Args:
        cfg: the run's configuration.
        data: where they are, if not in the data set's folder.
        folder: the data set's folder.

    Raises:
        UserError: they are missing, or of no known kind.
    """
    defaults = {name: folder / place for name, place in FEATURE_DIRS.items()}
    if data.input_att_dir:
        # What `extract` wrote beside the features belongs to them.
        beside = Path(data.input_att_dir).expanduser().parent
        defaults |= {name: beside / own for name, own in OWN_DIRS.items() if (beside / own).exists()}
    wanted = ["input_att_dir"]
    if reads_fc(cfg) and (data.input_fc_dir or defaults["input_fc_dir"].exists()):
        wanted.append("input_fc_dir")
    if reads_boxes(cfg):
        wanted.append("input_rel_box_dir")
    places = {name: _feature_path(getattr(data, name), name, defaults[name]) for name in wanted}
    found = {name: open_features(path) for name, path in places.items()}
    return Sources(
        att=found["input_att_dir"],
        fc=found.get("input_fc_dir"),
        boxes=found.get("input_rel_box_dir"),
        places={"dataset_dir": str(folder)} | {name: str(path) for name, path in places.items()},
    )


def existing(text: str, name: str) -> Path:
    """A path that a flag named; one that does not exist is looked for under PRUNELAB_DATA by its last part.

    Raises:
        UserError: there is no such file or folder.
    """
    path, root = Path(text).expanduser(), os.environ.get("PRUNELAB_DATA")
    if path.exists():
        return path
    if root and path.name and (Path(root) / path.name).exists():
        return Path(root) / path.name
    raise UserError(f"{name} {text}: no such file or folder")


def _feature_path(given: str, name: str, default: Path) -> Path:
    if given:
        return existing(given, name)
    if not default.exists():
        what, how = MISSING[name]
        raise UserError(f"{default}: no {what}; {how}, or name them with --{name}")
    return default
