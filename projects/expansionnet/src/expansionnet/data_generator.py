"""``data-generator``: the backbone's features of all pictures of a data set, which training then reads.

Writes the original's HDF5 file, or a feature store of ours, by the name of the output. Any number of
processes (torchrun) share the pictures; a killed one goes on with ``--resume``. A JSON file beside the output
says what the features were computed with.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from expansionnet.cli import parse_data_generator
from expansionnet.config import Config, DataConfig, ModelConfig, RunOptions
from expansionnet.data import SPLITS, open_records, with_generated
from expansionnet.features.extractor import FeatureExtractor, Origin
from expansionnet.features.files import Hdf5Parts
from expansionnet.features.preprocess import Preprocess
from expansionnet.features.visual import picture_notes
from expansionnet.files import backbone as backbone_files
from expansionnet.layout import FAKE_DATA, found, written
from expansionnet.model.swin import build_swin
from expansionnet.options import GenerateOptions
from prunelab import dist
from prunelab.data.captions import CaptionRecord
from prunelab.data.loader import make_loader
from prunelab.data.store import FeatureStore, FeatureWriter, is_store
from prunelab.errors import UserError, entry
from prunelab.progress import Progress, duration
from prunelab.util import human_bytes

HDF5_ENDINGS = (".hdf5", ".h5")
"""Names of outputs that are HDF5 files."""
PRECISION = {"fp32": "float32", "fp16": "float16"}
LINE_SECONDS = 30.0
"""Off a terminal, a line of progress comes about so often."""


class Writer(Protocol):
    """Where a process puts features."""

    def add(self, image_id: int, rows: np.ndarray, /) -> None:
        """Write the features of one picture."""
        ...


class Target(Protocol):
    """An output, complete or not."""

    def prepare(self, origin: Origin, /) -> list[int]:
        """Ids of the pictures that it lacks; on rank 0 alone."""
        ...

    def writer(self, rank: int, /) -> AbstractContextManager[Writer]:
        """What a process writes with."""
        ...

    def finish(self, origin: Origin, /) -> None:
        """Everything is written; on rank 0 alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoreTarget:
    """A feature store of ours."""

    output: Path
    ids: list[int]
    shape: tuple[int, int]
    dtype: str

    @property
    def begun(self) -> bool:
        """Whether there are some features."""
        return is_store(self.output)

    @property
    def whole(self) -> bool:
        """Whether there are all features."""
        return self.begun and not self._missing()

    def _missing(self) -> list[int]:
        store = FeatureStore(self.output)
        return [image_id for image_id in self.ids if image_id not in store]

    def prepare(self, origin: Origin) -> list[int]:
        """See `Target`."""
        if self.begun:
            return self._missing()
        origin.save(self.output)
        return self.ids

    def writer(self, rank: int) -> AbstractContextManager[Writer]:
        """See `Target`."""
        return FeatureWriter(self.output, width=self.shape[1], dtype=self.dtype, rank=rank)

    def finish(self, origin: Origin) -> None:
        """See `Target`."""
        origin.save(self.output)


def generate(options: GenerateOptions) -> Path:
    """Compute the features of all pictures; several processes share the work.

    Returns:
        The file or folder that holds them.

    Raises:
        UserError: no weights, a missing or broken picture, or an output with other features.
    """
    device = dist.start(options.device)
    started = time.monotonic()
    records = _records(options)
    extractor = _extractor(options, device)
    target, origin = _target(options, extractor, records)
    if dist.is_main():
        for line in picture_notes([r.path for r in records.values()], extractor.config.img_size):
            print(line)
    todo = dist.on_main(lambda: _begin(options, target, origin, extractor))
    if todo is None:
        return target.output
    if todo:  # else a kill came when all was done
        share = [records[image_id] for image_id in todo[dist.rank() :: dist.world_size()]]
        with target.writer(dist.rank()) as writer:
            _compute(options, extractor, share, writer, len(todo))
    dist.barrier()
    left = dist.on_main(lambda: _end(options, target, origin, len(todo)))
    if dist.is_main():
        _report(target, origin, left, time.monotonic() - started)
    return target.output


def _records(options: GenerateOptions) -> dict[int, CaptionRecord]:
    """Pictures by id, in the order of the original's file: training pictures from the last to the first."""
    width = options.swin.width
    cfg = Config(
        model=ModelConfig(swin=options.swin, img_feature_dim=width),
        data=DataConfig(
            dataset=options.dataset,
            captions_path=options.captions_path,
            images_path=options.images_path or str(Path(tempfile.gettempdir()) / "images"),
            batch_size=options.batch_size,
            fake_data=options.fake_data,
        ),
        run=RunOptions(seed=options.seed),
    )
    scratch = written(options.output_path).with_name(FAKE_DATA)
    captions = open_records(with_generated(cfg, scratch), lenient=options.preset == "faithful")
    train, val, test = ([r for r in captions.records if r.split == split] for split in SPLITS)
    records = {record.image_id: record for record in (*train[::-1], *test, *val)}
    missing = [record for record in records.values() if not record.path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0].path}: picture is missing, and so are {len(missing) - 1} more of "
            f"{len(records)}; is images_path right?"
        )
    return records


def _extractor(options: GenerateOptions, device: torch.device) -> FeatureExtractor:
    black = options.preset == "faithful"
    if options.random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            extractor = FeatureExtractor(build_swin(options.swin), options.swin, black=black)
    elif not options.save_model_path:
        raise UserError(
            "save_model_path is empty, expected weights of a backbone (or --random_weights True to try)"
        )
    else:
        extractor = FeatureExtractor.open(found(options.save_model_path), black=black)
    backbone = extractor.backbone.to(device)
    if options.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if options.compile:
        backbone.compile()
    return FeatureExtractor(backbone, extractor.config, black=black, amp=options.amp)


def _target(
    options: GenerateOptions, extractor: FeatureExtractor, records: dict[int, CaptionRecord]
) -> tuple[Hdf5Parts | StoreTarget, Origin]:
    swin, output = extractor.config, written(options.output_path)
    random = options.random_weights
    weights = backbone_files.beside(output) if random else found(options.save_model_path)
    origin = Origin(
        swin=swin,
        sha256=extractor.digest(),
        weights=str(weights.resolve()),
        dtype=options.dtype,
        amp=options.amp,
        black_pictures=extractor.preprocess.black,
    )
    kind = Hdf5Parts if output.suffix in HDF5_ENDINGS else StoreTarget
    shape, dtype = (swin.tokens, swin.width), PRECISION[options.dtype]
    return kind(output=output, ids=list(records), shape=shape, dtype=dtype), origin


def _begin(
    options: GenerateOptions,
    target: Hdf5Parts | StoreTarget,
    origin: Origin,
    extractor: FeatureExtractor,
) -> list[int] | None:
    """Look at what is there, and find the pictures whose features are to be computed; None: all are there.

    Random weights are kept from here on: what is trained on the features may need them.

    Raises:
        UserError: something else is there, or an unfinished output and no ``resume``.
    """
    output = target.output
    same = origin.same_as(Origin.beside(output))
    if same and target.whole:
        print(f"{output}: holds these features already; nothing was computed")
        return None
    if isinstance(target, Hdf5Parts):
        if not target.begun and output.exists():
            _may_replace(options, output)
    elif not same and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: holds other things, expected the features of this backbone, or nothing")
    if target.begun and not options.resume:
        raise UserError(f"{output}: an unfinished one is there already: --resume goes on with it")
    todo = target.prepare(origin)
    if options.random_weights:
        extractor.save(backbone_files.beside(output))
    return todo


def _may_replace(options: GenerateOptions, output: Path) -> None:
    """The original replaces a file of features, and its documents build on that; nothing else is replaced."""
    with open(output, "rb") as file:
        hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    if not hdf5 or options.preset != "faithful":
        raise UserError(f"{output}: is there already, with other features: choose another output_path")
    print(f"{output}: holds other features, which stay until the new ones are whole")


def _compute(
    options: GenerateOptions,
    extractor: FeatureExtractor,
    records: Sequence[CaptionRecord],
    writer: Writer,
    everyone: int,
) -> None:
    """Compute and write the features of this process's pictures."""
    batches = _batches(options, extractor.preprocess, records)
    steps = -(-len(records) // options.batch_size)
    if options.max_steps is not None:
        steps = min(steps, options.max_steps)
    progress = Progress("features", quiet=not dist.is_main())
    begun = told = time.monotonic()
    progress.begin(0, steps, 0.0)
    try:
        for step, (images, start) in zip(range(1, steps + 1), batches, strict=False):
            if options.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            features = extractor.tokens(images).cpu().numpy()
            for record, rows in zip(records[start : start + len(features)], features, strict=True):
                writer.add(record.image_id, rows)
            now = time.monotonic()
            progress.step(step, now - begun)
            if not progress.live and now - told > LINE_SECONDS:
                told = now
                done = min(everyone, (start + len(features)) * dist.world_size())
                left = progress.left(step, now - begun)
                progress.line(f"about {done} of {everyone} pictures, {left} left")
    finally:
        progress.close()


def _batches(
    options: GenerateOptions, preprocess: Preprocess, records: Sequence[CaptionRecord]
) -> Iterator[tuple[torch.Tensor, int]]:
    """Prepared pictures, and the place of the first of them."""
    if not records:
        return iter(())
    return iter(
        make_loader(
            range(len(records)),
            batch_size=options.batch_size,
            collate=partial(_prepared, preprocess, records),
            seed=options.seed,
            shuffle=False,
            drop_last=False,
            workers=options.workers,
            pin_memory=True,
        )
    )


def _prepared(
    preprocess: Preprocess, records: Sequence[CaptionRecord], places: Sequence[int]
) -> tuple[torch.Tensor, int]:
    return preprocess.batch(records[place].path for place in places), places[0]


def _end(options: GenerateOptions, target: Target, origin: Origin, todo: int) -> int:
    """Finish the output, unless ``max_steps`` stopped the work; returns the number of pictures left."""
    world, most = dist.world_size(), (options.max_steps or todo) * options.batch_size
    left = todo - sum(min(most, len(range(rank, todo, world))) for rank in range(world))
    if not left:
        target.finish(origin)
    return left


def _report(target: Hdf5Parts | StoreTarget, origin: Origin, left: int, seconds: float) -> None:
    output, count = target.output, len(target.ids)
    if left:
        print(f"{output}: {left} of {count} pictures are left; the same command with --resume goes on")
        return
    tokens, width = target.shape
    size = human_bytes(count * tokens * width * np.dtype(target.dtype).itemsize)
    print(
        f"{output}: {count} pictures, {tokens} x {width} numbers of {origin.dtype} each ({size}), in "
        f"{duration(seconds)}"
    )
    print(f"train with: --is_end_to_end False --features_path {output} --img_feature_dim {width}")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``data-generator``."""
    options = parse_data_generator(argv)
    if options.dry_run:
        print(options)
        return
    generate(options)


if __name__ == "__main__":
    main()
