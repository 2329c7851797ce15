"""Where data, networks and runs lie.

The original keeps everything in the folder that it is started in: data in ``./data``, networks in
``./output``, TensorBoard in ``./logs``. So does this, unless PRUNELAB_DATA and PRUNELAB_RUNS name others.
"""

from __future__ import annotations

import os
from pathlib import Path

from apt_vit.config import Config, RunOptions
from prunelab import doors
from prunelab.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
STREAMS = (0, 1)
"""Streams of which the original keeps the best network: unpruned, pruned."""
FAKE_DATA = "fake_data"
"""Folder of generated data, in a run."""


def data_root() -> Path:
    """The folder of data sets: PRUNELAB_DATA, else ``./data``."""
    return Path(os.environ.get("PRUNELAB_DATA") or "./data")


def data_dir(dataset: str) -> str:
    """The folder of a data set that no flag names: its own one in `data_root`, else `data_root`."""
    named = data_root() / dataset
    return str(named if named.is_dir() else data_root())


def place(path: str | Path) -> Path:
    """The place that a relative path of the original means: in PRUNELAB_RUNS where that is set.

    What exists in the working folder alone means itself.
    """
    typed, runs = Path(path), os.environ.get("PRUNELAB_RUNS")
    if not runs or typed.is_absolute():
        return typed
    below = Path(runs) / typed
    return typed if typed.exists() and not below.exists() else below


def run_folder(cfg: Config) -> Path:
    """The folder of a run: ``output``, else that of its name in ``output_dir``."""
    return Path(cfg.run.output) if cfg.run.output else place(cfg.run.output_dir) / cfg.run.name


def output_folder(cfg: Config) -> Path:
    """The folder of the original's checkpoint files: ``output_dir``, else ``output``."""
    alone = cfg.run.output and cfg.run.output_dir == RunOptions().output_dir
    return Path(cfg.run.output) if alone else place(cfg.run.output_dir)


def checkpoint_file(cfg: Config, stream: int) -> Path:
    """The original's file of the best network of a stream: 0 unpruned, 1 pruned."""
    return output_folder(cfg) / f"{stream}_{cfg.run.name}_checkpoint.bin"


def log_folder(cfg: Config) -> Path:
    """The original's folder of TensorBoard: that of the run's name in ``log_dir``.

    A run with an ``output`` keeps it there, in ``logs``, unless ``log_dir`` was set as well.
    """
    own = cfg.run.output and cfg.run.log_dir == RunOptions().log_dir
    root = Path(cfg.run.output) / cfg.run.log_dir if own else place(cfg.run.log_dir)
    return root / cfg.run.name


def count_classes(folder: Path) -> int:
    """How many classes a folder of pictures has: folders in it, or in its ``train``; 0 where it is none."""
    spot = folder / "train" if (folder / "train").is_dir() else folder
    if not spot.is_dir():
        return 0
    return sum(entry.is_dir() and not entry.name.startswith(".") for entry in spot.iterdir())


def newest_model() -> Path:
    """The best model of the newest tour or run, among the tours and the original's networks.

    Raises:
        UserError: there is none.
    """
    roots = list(dict.fromkeys([doors.runs_root(), place(RunOptions().output_dir)]))
    found = doors.newest_model(*roots)
    if found is None:
        places = " and ".join(map(str, roots))
        raise UserError(f"no trained model in {places}: run `train` first, or name one with --model")
    return found


def run_config(model: Path) -> Path | None:
    """The configuration of the run that holds a model: ``config.yaml`` beside it or in the two folders above.

    None where there is no such file, as for a file of weights from elsewhere.
    """
    for folder in (model, *model.resolve().parents[:2]):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    return None
