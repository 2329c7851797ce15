"""``extract``: pictures to region features, for training on one's own pictures.

Writes ``OUTPUT/att`` (regions, (S, F) a picture), ``OUTPUT/fc`` (their mean, (F,)), ``OUTPUT/box`` (the
regions' boxes x1, y1, x2, y2 in pixels, (S, 4)), ``OUTPUT/box_relative`` (the same relative to the picture's
width and height), and the extractor itself, which goes along into every model that is trained on these
features, so that ``demo`` can caption a picture file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from prunelab import dist
from prunelab.data.captions import CaptionRecord, open_pictures
from prunelab.data.features import open_features, writing_features
from prunelab.data.pictures import read_picture
from prunelab.errors import UserError, entry
from smp_caption.cli import parse_extract
from smp_caption.data import open_set
from smp_caption.features.extractor import Extractor, ExtractorConfig, has_extractor, make_extractor
from smp_caption.features.layout import OWN_BOXES
from smp_caption.options import ExtractOptions

FITTED = 200
"""About this many pictures, spread evenly, give the features' mean and spread."""


def extract(options: ExtractOptions) -> Path:
    """Compute the features of all pictures that have none yet; several processes share the work.

    Returns:
        The output folder.

    Raises:
        UserError: no pictures, a broken picture, or an output folder with other features.
    """
    records = _records(options)
    output = Path(options.output)
    device = dist.start(options.device)
    try:
        started = time.monotonic()
        dist.on_main(lambda: _prepare(options, output, records))
        extractor = Extractor.load(output, device)
        mine = records[dist.rank() :: dist.world_size()]
        with ExitStack() as stack:
            sinks = _Sinks(stack, options, output, extractor.feature_size)
            for batch in _batches([r for r in mine if sinks.lack_features(r)], options.batch_size):
                pictures, boxes = _read(batch, options)
                features = extractor(pictures, boxes)
                sinks.add_boxes(batch, pictures, boxes or extractor.boxes(pictures))
                for record, rows in zip(batch, features, strict=True):
                    sinks.add_features(record, rows)
            # Features of earlier versions have no boxes beside them.
            for batch in _batches([r for r in mine if sinks.lack_boxes(r)], options.batch_size):
                pictures, boxes = _read(batch, options)
                sinks.add_boxes(batch, pictures, boxes or extractor.boxes(pictures))
        dist.barrier()
        if dist.is_main():
            _report(output, extractor, len(records), time.monotonic() - started)
    finally:
        dist.stop()
    return output


class _Sinks:
    """The four folders that are written; what is there already is left as it is."""

    def __init__(self, stack: ExitStack, options: ExtractOptions, output: Path, width: int) -> None:
        self.store = options.format == "store"
        widths = {"att": width, "fc": width, "box": 4, OWN_BOXES: 4}
        self._sinks = {
            name: stack.enter_context(
                writing_features(
                    output / name,
                    store=self.store,
                    width=each,
                    # Half precision is too coarse for pixels, and boxes are small.
                    dtype="float16" if self.store and each == width else "float32",
                    rank=dist.rank(),
                )
            )
            for name, each in widths.items()
        }

    def lack_features(self, record: CaptionRecord) -> bool:
        return any(record.image_id not in self._sinks[name] for name in ("att", "fc"))

    def lack_boxes(self, record: CaptionRecord) -> bool:
        return any(record.image_id not in self._sinks[name] for name in ("box", OWN_BOXES))

    def add_features(self, record: CaptionRecord, rows: np.ndarray) -> None:
        self._add("att", record, rows)
        self._add("fc", record, rows.mean(axis=0, keepdims=self.store))

    def add_boxes(
        self, batch: Sequence[CaptionRecord], pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray]
    ) -> None:
        for record, picture, relative in zip(batch, pictures, boxes, strict=True):
            self._add("box", record, relative * ([picture.width, picture.height] * 2))
            self._add(OWN_BOXES, record, np.clip(relative, 0, 1))

    def _add(self, name: str, record: CaptionRecord, rows: np.ndarray) -> None:
        if record.image_id not in self._sinks[name]:
            self._sinks[name].add(record.image_id, rows)


def _records(options: ExtractOptions) -> Sequence[CaptionRecord]:
    if options.images:
        return open_pictures(options.images).records
    return open_set(Path(options.dataset_json)).records


def _prepare(options: ExtractOptions, output: Path, records: Sequence[CaptionRecord]) -> None:
    """Make the extractor, fit it on the training pictures (all, where there is no split) and save it."""
    config = ExtractorConfig(
        backbone=options.backbone,
        weights=_origin(options.weights),
        scales=options.scale_pairs(),
        colour=not options.no_colour,
        crops=bool(options.boxes),
    )
    extractor = make_extractor(config, options.weights or None, seed=options.seed)
    if has_extractor(output):
        known = Extractor.load(output)
        if known.config != config:
            raise UserError(
                f"{output} holds features of {known.config}, not of {config}: choose another --output"
            )
        if not _equal_weights(known.network, extractor.network):
            given = options.weights or f"random ones of seed {options.seed}"
            raise UserError(
                f"{output} holds features of other weights of {config.backbone} than {given}: choose another "
                "--output"
            )
        return
    train = [record for record in records if record.split == "train"] or list(records)
    train = train[:: max(1, len(train) // FITTED)]
    read = (_read(batch, options) for batch in _batches(train, options.batch_size))
    extractor.fit_to(torch.from_numpy(np.concatenate(extractor(*pair))) for pair in read)
    extractor.save(output)


def _equal_weights(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _origin(weights: str) -> str:
    return Path(weights).name if weights else "random"


def _batches(records: Sequence[CaptionRecord], size: int) -> Iterator[Sequence[CaptionRecord]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


def _read(
    batch: Sequence[CaptionRecord], options: ExtractOptions
) -> tuple[list[Image.Image], list[np.ndarray] | None]:
    """Pictures, and their boxes relative to the pictures' sizes where boxes are given, cut at the edges.

    Raises:
        UserError: a picture is missing or damaged, or boxes are, or do not lie in their picture.
    """
    pictures = [read_picture(record.path) for record in batch]
    if not options.boxes:
        return pictures, None
    source = open_features(options.boxes)
    boxes = []
    for record, picture in zip(batch, pictures, strict=True):
        where = f"{options.boxes}: image {record.image_id} ({record.file})"
        boxes.append(_relative(source.get(record.image_id), picture.size, where))
    return pictures, boxes


def _relative(boxes: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Boxes (S, 4) in pixels relative to a picture of some width and height; a pixel over an edge is cut."""
    if boxes.shape[1] != 4:
        raise UserError(f"{where}: rows of {boxes.shape[1]} numbers, expected x1, y1, x2, y2")
    sides = np.array([*size, *size])
    right = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & ((boxes >= -1) & (boxes <= sides + 1)).all(axis=1)
    if not right.all():
        row = int(np.argmin(right))
        raise UserError(
            f"{where}: box {row} is {boxes[row].tolist()}, expected x1, y1, x2, y2 in pixels inside the "
            f"picture: 0 <= x1 < x2 <= {size[0]}, 0 <= y1 < y2 <= {size[1]}"
        )
    return np.clip(boxes / sides, 0, 1)


def _report(output: Path, extractor: Extractor, count: int, seconds: float) -> None:
    config, size = extractor.config, extractor.feature_size
    what = "boxes" if config.crops else f"{config.regions} regions"
    print(
        f"{output}: {count} pictures, {what} of {size} numbers "
        f"({config.backbone}, weights: {config.weights}) in {seconds:.1f} s"
    )
    print(f"train with: --input_att_dir {output / 'att'} --att_feat_size {size}")
    print(f"Up-Down reads also: --input_fc_dir {output / 'fc'} --fc_feat_size {size}")
    print(f"relation transformers read also: --input_rel_box_dir {output / OWN_BOXES}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``extract``."""
    options = parse_extract(argv)
    if options.dry_run:
        print(options)
        return
    extract(options)


if __name__ == "__main__":
    main()
