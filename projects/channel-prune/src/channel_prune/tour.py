"""The tour: what `train` alone does: a small network, trained, pruned, fine-tuned and made slim."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from channel_prune.config import Config
from channel_prune.layout import runs_root
from channel_prune.summary import SUMMARY, table_of
from prunelab import dist
from prunelab.runfolder import tour_folder
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
    # So small a network gains nothing from a second thread, and loses a lot where the machine is busy.
    torch.set_num_threads(1)
    run = cfg.run
    folder = dist.on_main(lambda: tour_folder(runs_root(), run.output, resume=run.resume))
    if dist.is_main():
        print(
            "train without arguments is the tour: a small network trained, pruned and made slim on generated "
            f"pictures, about two minutes on two CPU cores (train --help lists the rest). Folder: {folder}"
        )
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
        f"pruned: {ratio:.0%} of every convolution's input channels have no weights, but for the first one's; "
        f"slim: the same network without them; this start took {seconds:.0f} s"
    )
    write_json(folder / RESULTS, {**found, "seconds": seconds, "preset": cfg.run.preset})
    print()
    table_of(found["rows"], found["figures"], found["title"], [note]).print()
    print()
    for what, where in (
        ("table", RESULTS),
        ("full network", f"{DENSE}/last"),
        ("masked network", f"{PRUNED}/last"),
        ("slim network", f"{PRUNED}/slim"),
    ):
        print(f"{what}: {folder / where}")
    print(f"next: uv run --package channel-prune demo --model {folder / PRUNED / 'slim'}")
