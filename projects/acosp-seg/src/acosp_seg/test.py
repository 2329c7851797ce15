"""``test``: predict whole pictures by sliding windows, write label maps, and score them.

# H, W picture, K classes
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from acosp_seg.cli import parse_test
from acosp_seg.config import Config
from acosp_seg.data import SegmentationData, open_data
from acosp_seg.draw import file_names, write_color, write_gray
from acosp_seg.layout import resolve
from acosp_seg.loading import load
from acosp_seg.lowering import lower_test
from acosp_seg.segmenter import class_table, windows_of
from prunelab import dist
from prunelab.config import to_plain, yaml_text
from prunelab.data.segmentation import Sample, read_label, read_list, read_sample
from prunelab.errors import UserError, entry
from prunelab.metrics import ClassificationMeter, SegmentationMeter, areas, areas_closed_bin, areas_histc
from prunelab.progress import Progress
from prunelab.report import result_table
from prunelab.util import atomic_write

EVERY = 10
"""Pictures between two lines of progress."""


def test(cfg: Config) -> dict[str, float]:
    """Predict the pictures of ``test_list`` (or take what an earlier test predicted), and score them.

    Every process takes its share of the pictures; each picture counts once.

    Args:
        cfg: what is tested, where files go.

    Returns:
        ``mIoU``, ``mAcc`` and ``allAcc``, of a classifier ``mAcc`` and ``allAcc``; nothing without labels, or
        if scores are not wanted.

    Raises:
        UserError: no model, no data, or they do not fit each other.
    """
    device = dist.start(cfg.run.device)
    try:
        folder = resolve(cfg.test.save_folder)
        if cfg.model.arch == "resnet18":
            return _classify(cfg, folder, device)
        samples = chosen(listed(cfg, folder), cfg)
        names = file_names([sample.image for sample in samples], cut_at_dot=cfg.quirks.names_cut_at_dot)
        job = _Job(cfg, folder, _meter(cfg) if cfg.test.calc_results else None)
        own = list(zip(samples, names, strict=True))[dist.rank() :: dist.world_size()]
        if cfg.test.has_prediction:
            job.score(own)
        else:
            job.predict(own, device)
        if job.meter is None or not all(sample.has_label for sample in samples):
            if dist.is_main():
                print(f"label maps: {folder / 'gray'} and {folder / 'color'}")
            return {}
        scores = job.meter.merged().scores()
        figures = {"mIoU": scores.miou, "mAcc": scores.macc, "allAcc": scores.allacc}
        if dist.is_main():
            rows = list(zip(job.classes, scores.iou, scores.accuracy, strict=True))
            table = resolve(cfg.test.result_path)
            write_table(table, ["class", "IoU", "Acc"], [("mean", scores.miou, scores.macc), *rows])
            _print(f"{len(samples)} pictures", figures, ["class", "IoU", "Acc"], rows)
            print(f"label maps: {folder / 'gray'} and {folder / 'color'}")
            print(f"scores: {table}")
        return figures
    finally:
        dist.stop()


@torch.inference_mode()
def _classify(cfg: Config, folder: Path, device: torch.device) -> dict[str, float]:
    """Score the classifier on its test pictures."""
    batches = open_data(cfg, folder / "fake_data").loader(
        "test", rank=dist.rank(), world_size=dist.world_size()
    )
    segmenter = load(cfg.test.model_path, config=cfg, device=device)
    meter = ClassificationMeter(cfg.model.classes)
    for x, y in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16"):
            meter.update(segmenter.model(x.to(device)), y)
    meter = meter.merged()
    figures = {"mAcc": meter.mean_accuracy, "allAcc": meter.accuracy}
    if dist.is_main():
        rows = list(zip(segmenter.names, meter.class_accuracy, strict=True))
        _print(f"{meter.count} pictures", figures, ["class", "Acc"], rows)
        if cfg.test.calc_results and cfg.test.result_path:
            table = resolve(cfg.test.result_path)
            write_table(table, ["class", "Acc"], [("mean", meter.mean_accuracy), *rows])
            print(f"scores: {table}")
    return figures


def listed(cfg: Config, folder: Path) -> list[Sample]:
    """The pictures of ``test_list``; of a data set without list files its test pictures.

    Raises:
        UserError: the list or the data set is missing.
    """
    data = cfg.data
    embedded = data.fake_data or (data.dataset == "tiny" and not data.data_root)
    if data.test_list and not embedded:  # the one list that is needed
        return read_list(resolve(data.test_list), resolve(data.data_root), data.split)
    found = open_data(cfg, folder / "fake_data")
    assert isinstance(found, SegmentationData)
    return found.samples["test"]


def chosen(samples: Sequence[Sample], cfg: Config) -> list[Sample]:
    """The part of the list that ``index_start``, ``index_step`` and ``max_steps`` name.

    Raises:
        UserError: nothing is left.
    """
    start, step = cfg.test.index_start, cfg.test.index_step
    part = list(samples[start : start + step if step else None])[: cfg.run.max_steps]
    if not part:
        raise UserError(
            f"index_start is {start} and index_step {step}: no picture left of {len(samples)} in "
            f"{cfg.data.test_list or 'the test set'}"
        )
    return part


def _meter(cfg: Config) -> SegmentationMeter:
    """Sums of areas, counted as the configuration's quirks say."""
    classes, void = cfg.model.classes, cfg.data.ignore_label
    if cfg.quirks.void_in_metrics:
        # The original forgets its ignore_label here.
        return SegmentationMeter(classes, 255, areas_closed_bin)
    return SegmentationMeter(classes, void, areas_histc if cfg.quirks.void_below_classes else areas)


class _Job:
    """One process's pictures."""

    def __init__(self, cfg: Config, folder: Path, meter: SegmentationMeter | None) -> None:
        self.cfg, self.folder, self.meter = cfg, folder, meter
        self.classes, self.colors = class_table(cfg)
        self.progress = Progress("test", quiet=not dist.is_main())

    def predict(self, pictures: Sequence[tuple[Sample, str]], device: torch.device) -> None:
        """Predict pictures, write them, and take their areas in; the next is read meanwhile."""
        cfg = self.cfg
        segmenter = load(cfg.test.model_path, config=cfg, device=device)
        self.classes, self.colors = segmenter.names, segmenter.colors
        if cfg.run.channels_last:
            segmenter.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if cfg.run.compile:
            segmenter.model.compile()
        folded = cfg.run.preset == "fixed" and not cfg.run.compile
        predictor = segmenter.predictor(windows_of(cfg), amp=cfg.run.amp == "bf16", folded=folded)
        with ThreadPoolExecutor(2) as pool:
            read = [pool.submit(read_sample, sample) for sample, _ in pictures[:1]]
            written: list[Future[None]] = []
            for number, (sample, name) in self._shown(pictures):
                read += [pool.submit(read_sample, after) for after, _ in pictures[number : number + 1]]
                image, target = read.pop(0).result()
                labels = predictor.labels(image)
                for future in written:
                    future.result()  # an error of writing is told, and no more than two files wait
                gray, color = self._files(name)
                written = [
                    pool.submit(write_gray, gray, labels),
                    pool.submit(write_color, color, labels, self.colors),
                ]
                self._count(labels, target, sample)
            for future in written:
                future.result()

    def score(self, pictures: Sequence[tuple[Sample, str]]) -> None:
        """Take in the areas of predictions that lie in the folder already."""
        for _, (sample, name) in self._shown(pictures):
            gray = self._files(name)[0]
            if not gray.is_file():
                raise UserError(f"{gray}: no such prediction, but has_prediction is true")
            if sample.has_label:
                self._count(read_label(gray), read_label(sample.label), sample)

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / "gray" / f"{name}.png", self.folder / "color" / f"{name}.png"

    def _count(self, labels: np.ndarray, target: np.ndarray | None, sample: Sample) -> None:
        if self.meter is None or target is None:
            return
        if labels.shape != target.shape:
            raise UserError(
                f"{sample.label}: label map of {target.shape[0]}x{target.shape[1]}, expected "
                f"{labels.shape[0]}x{labels.shape[1]} as the prediction has"
            )
        if self.meter.rule is areas:
            check_values(target, self.meter.classes, self.meter.void, sample.label)
        self.meter.update(labels, target)

    def _shown(self, pictures: Sequence[tuple[Sample, str]]) -> Iterator[tuple[int, tuple[Sample, str]]]:
        """Number the pictures from 1, and show how far it is."""
        start = time.monotonic()
        self.progress.begin(0, len(pictures), 0.0)
        try:
            for number, picture in enumerate(pictures, 1):
                yield number, picture
                seconds = time.monotonic() - start
                self.progress.step(number, seconds)
                if not self.progress.live and (number % EVERY == 0 or number == len(pictures)):
                    self.progress.line(self.progress.place(number, seconds).replace("step", "picture"))
        finally:
            self.progress.close()


def check_values(target: np.ndarray, classes: int, void: int, path: Path) -> None:
    """Refuse labels that are neither a class nor void.

    Raises:
        UserError: there are some.
    """
    counts = np.bincount(target.ravel(), minlength=256)
    counts[:classes] = 0
    counts[void] = 0
    if counts.any():
        values = ", ".join(map(str, np.flatnonzero(counts)[:8]))
        raise UserError(f"{path}: label values {values}, expected 0 to {classes - 1} and {void} for void")


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    """Write scores as CSV, every figure in full.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _print(
    what: str, figures: Mapping[str, float], columns: Sequence[str], rows: Sequence[Sequence[str | float]]
) -> None:
    title = f"{what}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    formats = dict.fromkeys(columns[1:], ".4f")
    result_table(title, columns, rows, formats=formats).print()


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``test``."""
    raw = parse_test(argv)
    cfg = lower_test(raw)
    if raw.print_config:
        print(yaml_text(to_plain(cfg)))
    elif cfg.run.dry_run:
        print(f"{cfg.model.arch} on {cfg.data.dataset}: configuration is right; nothing was run")
    else:
        test(cfg)


if __name__ == "__main__":
    main()
