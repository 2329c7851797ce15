"""The tour: what `train` alone does: a small network, trained, pruned, fine-tuned and made slim."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from channel_prune.config import Config
from channel_prune.summary import SUMMARY, table_of
from prunelab import dist
from prunelab.doors import runs_root
from prunelab.tour import begin_tour, end_tour
from prunelab.util import read_json, write_json

RESULTS = "tour.json"
DENSE, PRUNED = "dense", "pruned"
"""Sub-folders: the runs."""
PRUNING: Mapping[str, Mapping[str, Any]] = {
    "optim": {"nb_epochs_rat": 0.025, "lrn_rate_init": 0.05},
    "prune": {"prune_ratio": 0.5},
}
"""What the pruned run has otherwise than the dense one."""


def tour(cfg: Config, train: Callable[[Config], Path]) -> Path:
    """Train the full network, choose its channels, fine-tune, make it slim, and say what came out.

    Stages lie in sub-folders, so a tour that was stopped goes on with ``train --resume``.

    Args:
        cfg: the full network's run.
        train: runs one configuration and returns its folder.

    Returns:
        The tour's folder; ``tour.json`` in it holds the figures of the table.
    """
    started = time.monotonic()
    run = cfg.run
    what = "a small network trained, pruned and made slim on generated pictures"
    folder = begin_tour(what, runs_root(), run.output, resume=run.resume)
    train(replace(cfg, run=replace(run, output=str(folder / DENSE))))
    pruned = pruning_of(cfg, folder)
    train(pruned)
    if dist.is_main() and (folder / PRUNED / SUMMARY).is_file():
        report(folder, cfg, time.monotonic() - started)
    return folder


def pruning_of(cfg: Config, folder: Path) -> Config:
    """The configuration of the tour's second run."""
    return replace(
        cfg,
        optim=replace(cfg.optim, **PRUNING["optim"]),
        prune=replace(cfg.prune, **PRUNING["prune"]),
        run=replace(
            cfg.run,
            learner="chn-pruned-rmt",
            output=str(folder / PRUNED),
            save_path=str(folder / DENSE / "last"),
        ),
    )


def report(folder: Path, cfg: Config, seconds: float) -> None:
    """Print the table, write ``tour.json``, and name what was written and what to try next."""
    found = read_json(folder / PRUNED / SUMMARY)
    ratio = PRUNING["prune"]["prune_ratio"]
    note = (
        f"pruned: {ratio:.0%} of every convolution's input channels have no weights, but for the first "
        f"one's; slim: the same network without them; this start took {seconds:.0f} s"
    )
    write_json(folder / RESULTS, {**found, "seconds": seconds, "preset": cfg.run.preset})
    places = {
        "table": RESULTS,
        "full network": f"{DENSE}/last",
        "masked network": f"{PRUNED}/last",
        "slim network": f"{PRUNED}/slim",
    }
    end_tour(
        table_of(found["rows"], found["figures"], found["title"], [note]),
        [(what, folder / place) for what, place in places.items()],
        f"uv run --package channel-prune demo --model {folder / PRUNED / 'slim'}",
    )
