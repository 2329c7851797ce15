"""``extract``: pictures to region features, for training on one's own pictures.

Writes ``OUTPUT/att`` (regions, (S, F) a picture), ``OUTPUT/fc`` (their mean, (F,)), and the extractor
itself, which goes along into every model that is trained on these features, so that ``demo`` can caption a
picture file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from prunelab import dist
from prunelab.data.captions import CaptionRecord, open_captions, open_pictures
from prunelab.data.features import open_features
from prunelab.data.pictures import read_picture
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write
from smp_caption.cli import parse_extract
from smp_caption.extractor import Extractor, ExtractorConfig, has_extractor, make_extractor
from smp_caption.options import ExtractOptions

FITTED = 200
"""About this many pictures, spread evenly, give the features' mean and spread."""


class Writer(Protocol):
    """Where features go: a folder of files or a store."""

    def __contains__(self, image_id: int, /) -> bool:
        """Whether this picture's features are written."""
        ...

    def add(self, image_id: int, rows: np.ndarray, /) -> None:
        """Write one picture's features."""
        ...


class FolderWriter:
    """One ``<id>.npy`` a picture, the layout of the original's features."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, image_id: int) -> bool:
        return (self.folder / f"{image_id}.npy").is_file()

    def add(self, image_id: int, rows: np.ndarray) -> None:
        """Write ``rows`` in single precision; a file is there whole or not at all."""
        with atomic_write(self.folder / f"{image_id}.npy") as file:
            np.save(file, rows.astype(np.float32))


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
            att, fc = (
                _writer(stack, output / name, options.format, extractor.feature_size)
                for name in ("att", "fc")
            )
            missing = [r for r in mine if r.image_id not in att or r.image_id not in fc]
            for batch in _batches(missing, options.batch_size):
                features = extractor(*_read(batch, options))
                for record, rows in zip(batch, features, strict=True):
                    _add(att, record.image_id, rows)
                    _add(fc, record.image_id, rows.mean(axis=0, keepdims=options.format == "store"))
        dist.barrier()
        if dist.is_main():
            _report(output, extractor, len(records), time.monotonic() - started)
    finally:
        dist.stop()
    return output


def _add(writer: Writer, image_id: int, rows: np.ndarray) -> None:
    if image_id not in writer:
        writer.add(image_id, rows)


def _records(options: ExtractOptions) -> Sequence[CaptionRecord]:
    if options.images:
        return open_pictures(options.images).records
    return open_captions(options.dataset_json).records


def _writer(stack: ExitStack, folder: Path, kind: str, width: int) -> Writer:
    if kind == "npy":
        return FolderWriter(folder)
    from prunelab.data.store import FeatureWriter

    writer: AbstractContextManager[FeatureWriter] = FeatureWriter(folder, width=width, rank=dist.rank())
    return stack.enter_context(writer)


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
    """Pictures, and their boxes relative to the pictures' sizes where boxes are given."""
    pictures = [read_picture(record.path) for record in batch]
    if not options.boxes:
        return pictures, None
    source = open_features(options.boxes)
    sizes = (np.array([picture.width, picture.height] * 2) for picture in pictures)
    boxes = [source.get(record.image_id) / size for record, size in zip(batch, sizes, strict=True)]
    if any(each.shape[1] != 4 for each in boxes):
        raise UserError(f"{options.boxes}: rows of {boxes[0].shape[1]} numbers, expected x1, y1, x2, y2")
    return pictures, boxes


def _report(output: Path, extractor: Extractor, count: int, seconds: float) -> None:
    config, size = extractor.config, extractor.feature_size
    what = "boxes" if config.crops else f"{config.regions} regions"
    print(
        f"{output}: {count} pictures, {what} of {size} numbers "
        f"({config.backbone}, weights: {config.weights}) in {seconds:.1f} s"
    )
    print(
        f"train with: --input_att_dir {output / 'att'} --input_fc_dir {output / 'fc'} "
        f"--att_feat_size {size} --fc_feat_size {size}"
    )


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
