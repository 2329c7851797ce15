"""Where data, initial weights, runs and class tables lie.

The original's configurations name absolute folders: ``/data`` for data and initial weights, ``/logs/exp`` for
runs, and a checkout in ``/semseg`` or ``/code/semseg``. Such a path still works where it exists; elsewhere
``/data`` means the folder of PRUNELAB_DATA, and a folder of runs that of PRUNELAB_RUNS.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from prunelab import doors
from prunelab.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
"""The project's folder, where its sources run from a checkout."""
RUN_ROOTS = ("/logs/exp", "/semseg/exp", "/code/semseg/exp")
"""Folders of runs in the original's configurations."""
CHECKOUTS = ("/code/semseg", "/semseg")
"""Checkouts of the original, whose class tables its configurations name."""


def data_root() -> Path:
    """The folder that ``/data`` stands for: PRUNELAB_DATA, else ``/data`` itself."""
    return Path(os.environ.get("PRUNELAB_DATA") or "/data")


def _moved(path: PurePosixPath, root: str, name: str = "") -> Path:
    """A path below one of the original's folders of runs: below the same folder where there is one."""
    if not os.environ.get("PRUNELAB_RUNS") and Path(root).is_dir():
        return Path(path)
    return doors.runs_root() / name / path.relative_to(root)


def resolve(path: str | Path) -> Path:
    """The place that a path of a configuration means on this machine.

    A path that exists means itself; so does one outside the original's fixed folders. ``/data/X`` lies in
    PRUNELAB_DATA; ``/logs/exp/X`` in PRUNELAB_RUNS, else in ``/logs/exp`` where that exists, else in
    ``runs``; ``/checkpoints/X`` and ``/cifar10/X`` in folders of that name there; what a checkout of the
    original held is looked for in the working folder.
    """
    found = Path(path)
    if not found.is_absolute() or found.exists():
        return found
    pure = PurePosixPath(path)
    if pure.is_relative_to("/data"):
        return data_root() / pure.relative_to("/data")
    for root in RUN_ROOTS:
        if pure.is_relative_to(root):
            return _moved(pure, root)
    for root in ("/checkpoints", "/cifar10"):
        if pure.is_relative_to(root):
            return _moved(pure, root, root[1:])
    for root in CHECKOUTS:
        if pure.is_relative_to(root):
            return Path(pure.relative_to(root))
    return found


def find_config(path: str) -> Path:
    """A configuration file as typed, else in this project's folder, whatever the working folder is."""
    typed = Path(path)
    ours = PROJECT / typed
    return ours if not typed.exists() and ours.exists() else typed


def newest_model() -> Path:
    """The best model of the newest run in the folder of runs.

    Raises:
        UserError: there is no run.
    """
    root = doors.runs_root()
    found = doors.newest_model(root)
    if found is None:
        raise UserError(f"{root} holds no trained model: run `train` first, or name one with --model")
    return found


def run_config(model: Path) -> Path:
    """The configuration of the run that holds a model.

    It is ``config.yaml`` in the model's folder or one of the two above; of a tour and of what lies in it
    beside its runs, that of the pruned run.

    Raises:
        UserError: there is none.
    """
    above = [model, *model.resolve().parents[:2]]
    for folder in [*above, *(place / "pruned" for place in above[:2])]:
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    raise UserError(
        f"{model}: no config.yaml beside it, expected a model in a run's folder, or --config FILE"
    )
