"""The tour: what `train` alone does, a dense and a pruned network on embedded street scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from acosp_seg.config import Config
from acosp_seg.data import SegmentationData, open_data
from acosp_seg.draw import paint
from acosp_seg.layout import runs_root
from acosp_seg.lowering import TOUR_PRUNED
from acosp_seg.segmenter import Segmenter, class_table
from prunelab import dist
from prunelab.data.segmentation import Sample, read_image, read_label
from prunelab.flops import count
from prunelab.hub import is_model_folder
from prunelab.metrics import Scores, SegmentationMeter, best_constant
from prunelab.report import Cell, Format, gallery, latency, result_table
from prunelab.runfolder import tour_folder
from prunelab.util import human_bytes, write_json

RESULTS = "tour.json"
COMPACT = "compact"
"""Folder of the network that has only the kept channels."""
SHOWN = 12
"""Pictures on the page."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network of the table."""

    name: str
    """Row of the table."""
    folder: Path
    """Its model folder."""
    segmenter: Segmenter


def tour(cfg: Config, train: Callable[[Config], Path]) -> Path:
    """Train dense, train pruned, make the pruned network small, and say what came out.

    Stages lie in sub-folders, so a tour that was stopped goes on with ``train --resume``.

    Args:
        cfg: the dense run's configuration.
        train: runs one stage and returns its folder.

    Returns:
        The tour's folder; ``tour.json`` in it holds the figures of the table.
    """
    started = time.monotonic()
    # So small a network gains nothing from a second thread, and loses a lot where the machine is busy.
    torch.set_num_threads(1)
    run = cfg.run
    folder = dist.on_main(lambda: tour_folder(runs_root(), run.output, resume=run.resume))
    if dist.is_main():
        print(
            "train without arguments is the tour: a dense and a pruned network on embedded streets, about "
            f"two minutes on two CPU cores (train --help lists the rest). Folder: {folder}"
        )
    dense = with_output(cfg, folder / "dense")
    pruned = replace(with_output(cfg, folder / "pruned"), prune=replace(cfg.prune, **TOUR_PRUNED))
    stages = [_stage(name, train(config)) for name, config in (("dense", dense), ("pruned", pruned))]
    if dist.is_main():
        small = stages[-1].segmenter.compact()
        place = small.save_pretrained(folder / COMPACT)
        stages.append(Stage(name="pruned, compact", folder=place, segmenter=small))
        data = open_data(dense)
        assert isinstance(data, SegmentationData)
        report(folder, stages, data.samples["test"], cfg, time.monotonic() - started)
    return folder


def with_output(cfg: Config, folder: Path) -> Config:
    """The configuration with another folder, as a run of its own."""
    return replace(cfg, run=replace(cfg.run, output=str(folder), tour=False))


def _stage(name: str, run: Path) -> Stage:
    """The best network of a run; its last one, hardened, where it was cut before that."""
    best = run / "best"
    place = best if is_model_folder(best) else run / "last"
    return Stage(name=name, folder=place, segmenter=Segmenter.from_pretrained(place).hardened())


def scores_of(segmenter: Segmenter, samples: list[Sample], void: int) -> Scores:
    """What a network's predictions for whole pictures are worth."""
    meter = SegmentationMeter(segmenter.config.model.classes, void)
    predictor = segmenter.predictor()
    for sample in samples:
        labels = predictor.labels(read_image(sample.image))
        meter.update(torch.from_numpy(labels), torch.from_numpy(read_label(sample.label)))
    return meter.scores()


def _row(stage: Stage, samples: list[Sample], void: int) -> dict[str, Cell]:
    """A network's line of the table."""
    segmenter = stage.segmenter
    scores = scores_of(segmenter, samples, void)
    image = read_image(samples[0].image)
    test = segmenter.config.test
    cost = count(segmenter.model, torch.zeros(1, 3, test.test_h, test.test_w))
    one = latency(lambda: segmenter.segment(image))
    return {
        "model": stage.name,
        "mIoU": scores.miou,
        "mAcc": scores.macc,
        "MACs": cost.macs,
        "parameters": cost.parameters,
        "file": (stage.folder / "model.safetensors").stat().st_size,
        "ms / picture": 1000 * one.median,
    }


def _constant_row(samples: list[Sample], cfg: Config) -> dict[str, Cell]:
    """What saying one class of every pixel is worth."""
    meter = SegmentationMeter(cfg.model.classes, cfg.data.ignore_label)
    for sample in samples:
        labels = torch.from_numpy(read_label(sample.label))
        meter.update(labels, labels)
    best, scores = best_constant(meter.areas.target)
    names, _ = class_table(cfg)
    return {"model": f"best constant answer ({names[best]})", "mIoU": scores.miou, "mAcc": scores.macc}


def report(folder: Path, stages: list[Stage], samples: list[Sample], cfg: Config, seconds: float) -> None:
    """Print the table, write ``tour.json`` and the page of predictions, and name what to try next."""
    void = cfg.data.ignore_label
    rows = [_constant_row(samples, cfg), *(_row(stage, samples, void) for stage in stages)]
    columns = ["model", "mIoU", "mAcc", "MACs", "parameters", "file", "ms / picture"]
    formats: dict[str, Format] = {
        "mIoU": ".3f",
        "mAcc": ".3f",
        "file": human_bytes,
        "ms / picture": ".1f",
    }
    size = f"{cfg.test.test_w}x{cfg.test.test_h}"
    title = f"{len(samples)} test pictures of {size}, preset {cfg.run.preset}"
    kept = TOUR_PRUNED["sparsity"]
    note = (
        f"pruned: {kept:.0%} of each prunable layer's channels are masked; compact: the same network without "
        f"them; this start took {seconds:.0f} s"
    )
    table = result_table(title, columns, rows, formats=formats, notes=[note])
    write_json(folder / RESULTS, {"rows": rows, "seconds": seconds, "preset": cfg.run.preset})
    draw_page(folder, stages, samples[:SHOWN])
    print()
    table.print()
    print()
    for what, where in (
        ("table", folder / RESULTS),
        ("pictures with their classes", folder / "predictions.html"),
        *((f"{stage.name} model", stage.folder) for stage in stages),
    ):
        print(f"{what}: {where}")
    print(f"next: uv run --package acosp-seg demo --model {stages[-1].folder} {samples[0].image}")


def draw_page(folder: Path, stages: list[Stage], samples: list[Sample]) -> None:
    """Write ``predictions.html`` and ``.png``: each picture, its truth, and what two networks say."""
    dense, small = stages[0].segmenter, stages[-1].segmenter
    items = []
    for sample in samples:
        image, truth = read_image(sample.image), read_label(sample.label)
        maps = [paint(labels, dense.colors) for labels in (truth, dense.segment(image), small.segment(image))]
        # Four panels, two by two, every pixel as a square that can be seen.
        panels = np.concatenate([np.concatenate(row, axis=1) for row in ((image, maps[0]), maps[1:])])
        height, width = panels.shape[:2]
        shown = Image.fromarray(panels).resize((3 * width, 3 * height), Image.Resampling.NEAREST)
        items.append((shown, [("above", "picture, truth"), ("below", f"dense, {stages[-1].name}")]))
    pages = folder / "predictions.html", folder / "predictions.png"
    gallery(items, *pages, title="Street scenes and what the networks see")
