"""Where captions, pictures, features, weights and runs lie, and what they are called.

The original keeps everything below ``./github_ignore_material`` in the folder that it is started in: data in
``raw_data``, checkpoints in ``saves``. So does this; what is not there is looked for in the folders that
PRUNELAB_DATA and PRUNELAB_RUNS name, and new things go to the latter where it is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from expansionnet.config import Config, RunOptions
from prunelab import doors
from prunelab.errors import UserError

RAW_DATA, SAVES = "github_ignore_material/raw_data", "github_ignore_material/saves"
"""The original's folders of data and of checkpoints."""
CAPTIONS_FILE = "captions.json"
"""Own captions, in captions_path."""
VOCABULARY_FILE = "vocabulary.json"
"""The words of a model, in its folder."""
FAKE_DATA = "fake_data"
"""Folder of generated data, in a run."""
XE, REINFORCE = "xe", "rf"
"""Kinds of training: by cross entropy, by reward."""
KINDS = (XE, REINFORCE, f"end_to_end_{XE}", f"end_to_end_{REINFORCE}")
"""Kinds of runs; each has a folder of its name."""


def run_kind(cfg: Config) -> str:
    """Which of `KINDS` a run is."""
    training = REINFORCE if cfg.scst.reinforce else XE
    return f"end_to_end_{training}" if cfg.model.is_end_to_end else training


def found(path: str | Path) -> Path:
    """The file or folder that a path of a command line means; the path as typed where there is none.

    First what is there as typed, then the same name in the original's folders of data and of checkpoints, in
    PRUNELAB_DATA and in PRUNELAB_RUNS; each with and without ``.pth``, which the original's documents now
    write and now leave out.
    """
    return next((spot for spot in _spots(Path(path)) if spot.exists()), Path(path))


def _spots(path: Path) -> Iterator[Path]:
    """Where a path may lie, the likeliest first."""
    forms = [path]
    if path.suffix in ("", ".pth") and path.name:
        forms.append(path.with_suffix("" if path.suffix else ".pth"))
    yield from forms
    if path.is_absolute():
        return
    roots = [Path(RAW_DATA), Path(SAVES)] if _below(path) != path else []
    roots += [Path(os.environ[name]) for name in ("PRUNELAB_DATA", "PRUNELAB_RUNS") if os.environ.get(name)]
    for root in roots:
        yield from (root / _below(form) for form in forms)


def _below(path: Path) -> Path:
    """A path without the original's folder of data or of checkpoints in front."""
    for folder in (RAW_DATA, SAVES):
        if path.is_relative_to(folder):
            return path.relative_to(folder)
    return path


def written(path: str | Path) -> Path:
    """The place of something new: as typed where that or its folder is there, else below PRUNELAB_RUNS."""
    typed, runs = Path(path), os.environ.get("PRUNELAB_RUNS")
    stays = typed.is_absolute() or typed.exists() or (len(typed.parts) > 1 and typed.parent.is_dir())
    return typed if stays or not runs else Path(runs) / _below(typed)


def run_folder(cfg: Config) -> Path:
    """The folder of a run: ``output``, else the one of its kind in ``save_path``."""
    return Path(cfg.run.output) if cfg.run.output else saves(cfg) / run_kind(cfg)


def saves(cfg: Config) -> Path:
    """The folder of the original's checkpoints: ``save_path``.

    A run with an ``output`` keeps them there, in ``saves``, unless ``save_path`` was set as well.
    """
    if cfg.run.output and cfg.run.save_path == RunOptions().save_path:
        return Path(cfg.run.output) / "saves"
    return written(cfg.run.save_path)


def newest_model() -> Path:
    """The best model of the newest run, in the folder of runs or among the original's checkpoints.

    Raises:
        UserError: there is none.
    """
    roots = list(dict.fromkeys([doors.runs_root(), written(SAVES)]))
    newest = doors.newest_model(*roots)
    if newest is None:
        places = " and ".join(map(str, roots))
        raise UserError(f"no trained model in {places}: run `train` first, or name one with --model")
    return newest
