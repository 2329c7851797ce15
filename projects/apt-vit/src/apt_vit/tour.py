"""The tour: what `train` alone does: a small network learns shapes, and which of its tokens to drop."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from apt_vit.config import Config
from apt_vit.lowering import TOUR
from apt_vit.options import ExportOptions
from apt_vit.summary import SUMMARY, table_of
from prunelab import dist
from prunelab.doors import runs_root
from prunelab.tour import begin_tour, end_tour
from prunelab.util import read_json, write_json

RESULTS = "tour.json"
PRUNE: Mapping[str, Any] = {"keep_rate": 0.7}
"""How the tour prunes, besides what is so by default."""
EXPORTED = {"onnx": "exported.onnx", "original": "exported.bin"}
"""What the best model is exported as."""


def tour(cfg: Config, train: Callable[[Config], Path]) -> Path:
    """Train a small network with its agents, compare it unpruned and with tokens dropped, and export it.

    A tour that was stopped goes on with ``train --resume``.

    Args:
        cfg: the run's configuration, but for its folder and `PRUNE`.
        train: runs a configuration and returns its folder.

    Returns:
        The tour's folder; ``tour.json`` in it holds the figures of the table.
    """
    started = time.monotonic()
    run = cfg.run
    dist.start(run.device)
    what = "a small vision transformer and its agents trained on generated pictures"
    folder = begin_tour(what, runs_root(), run.output, resume=run.resume)
    train(configured(cfg, folder))
    if dist.is_main() and (folder / SUMMARY).is_file():
        report(folder, run.preset, started)
    return folder


def configured(cfg: Config, folder: Path) -> Config:
    """The configuration of the tour's run."""
    run = replace(cfg.run, output=str(folder), name="tour")
    return replace(cfg, prune=replace(cfg.prune, **PRUNE), run=run)


def export_best(model: Path, folder: Path) -> Path:
    """Export a model: as an ONNX graph, or where that is not installed as the original's checkpoint."""
    from apt_vit.export import export

    has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    how = "onnx" if has_onnx else "original"
    return export(
        ExportOptions(
            model=str(model),
            format=how,
            output=str(folder / EXPORTED[how]),
            keep_rate=PRUNE["keep_rate"] if has_onnx else None,
        )
    )


def report(folder: Path, preset: str, started: float) -> None:
    """Export the best model, print the table, write ``tour.json``, and name what was written."""
    best = folder / "best"
    exported = export_best(best, folder)
    found = read_json(folder / SUMMARY)
    seconds = time.monotonic() - started
    write_json(folder / RESULTS, {**found, "seconds": seconds, "preset": preset})
    note = (
        f"dropped: each clip layer keeps {PRUNE['keep_rate']:.0%} of the tokens that reach it, as its "
        f"agent says; ms: in batches of {TOUR['eval_batch_size']}; preset {preset}; this start took "
        f"{seconds:.0f} s"
    )
    end_tour(
        table_of(found["rows"], found["title"], [note]),
        [("table", folder / RESULTS), ("model", best), ("exported", exported)],
        f"uv run --package apt-vit demo --model {best}",
    )
