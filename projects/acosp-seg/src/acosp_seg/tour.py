"""The tour: what `train` alone does, a dense and a pruned network on embedded street scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from acosp_seg.compare import Rival, constant_row, draw, rivals, row_of, table_of
from acosp_seg.config import Config
from acosp_seg.data import SegmentationData, open_data
from acosp_seg.lowering import TOUR_PRUNED
from acosp_seg.segmenter import Segmenter
from prunelab import dist
from prunelab.data.segmentation import Sample
from prunelab.doors import runs_root
from prunelab.hub import is_model_folder
from prunelab.tour import begin_tour, end_tour
from prunelab.util import write_json

RESULTS = "tour.json"
COMPACT = "compact"
"""Folder of the network that has only the kept channels."""
FIGURE = "predictions.png"
"""What the networks see."""


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
    run = cfg.run
    folder = begin_tour(
        "a dense and a pruned network on embedded streets", runs_root(), run.output, resume=run.resume
    )
    dense = with_output(cfg, folder / "dense")
    pruned = replace(with_output(cfg, folder / "pruned"), prune=replace(cfg.prune, **TOUR_PRUNED))
    places = {"dense": train(dense), "pruned": train(pruned)}
    if dist.is_main():
        shown = [rival for name, run in places.items() for rival in _rivals(name, run, folder / COMPACT)]
        data = open_data(dense)
        assert isinstance(data, SegmentationData)
        report(folder, shown, data.samples["test"], cfg, time.monotonic() - started)
    return folder


def with_output(cfg: Config, folder: Path) -> Config:
    """The configuration with another folder, as a run of its own."""
    return replace(cfg, run=replace(cfg.run, output=str(folder), tour=False))


def _rivals(name: str, run: Path, scratch: Path) -> list[Rival]:
    """The best network of a run; its last one where the run was cut before there was a best one."""
    best = run / "best"
    place = best if is_model_folder(best) else run / "last"
    return rivals(name, Segmenter.from_pretrained(place), place, scratch)


def report(folder: Path, shown: list[Rival], samples: list[Sample], cfg: Config, seconds: float) -> None:
    """Print the table, write ``tour.json`` and the picture of predictions, and name what to try next."""
    rows = [constant_row(samples, cfg), *(row_of(rival, samples, cfg) for rival in shown)]
    kept = TOUR_PRUNED["sparsity"]
    note = (
        f"pruned: {kept:.0%} of each prunable layer's channels are masked, but for 8 that stay; compact: the "
        f"same network without them; this start took {seconds:.0f} s"
    )
    table = table_of(rows, samples, cfg, [note])
    write_json(folder / RESULTS, {"rows": rows, "seconds": seconds, "preset": cfg.run.preset})
    draw([shown[0], shown[-1]], samples, folder / FIGURE)
    places = [
        ("table", folder / RESULTS),
        ("pictures with their classes", folder / FIGURE),
        *((f"{rival.name} model", rival.file.parent) for rival in shown),
    ]
    demo = f"uv run --package acosp-seg demo --model {shown[-1].file.parent} {samples[0].image}"
    end_tour(table, places, demo)
