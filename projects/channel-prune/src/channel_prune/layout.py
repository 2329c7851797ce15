"""Where data, networks and runs lie.

The original keeps everything in the folder that it is started in: networks in ``./models`` and its likes,
places of data sets in ``path.conf``. So does this, unless PRUNELAB_DATA and PRUNELAB_RUNS name other folders.
"""

from __future__ import annotations

import os
from pathlib import Path

from channel_prune.config import Config, RunOptions
from prunelab import doors
from prunelab.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
"""The project's folder, where its sources run from a checkout."""
PATH_CONF = "path.conf"
"""The original's file of places: ``data_dir_local_cifar10 = /data/cifar10`` a line."""
MODES = ("local", "docker", "seven")
"""Ways to start the original; each has its own places in `PATH_CONF`."""
NAMES = {"voc": "pascalvoc"}
"""Data sets that have another name in `PATH_CONF`."""
PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")


def data_root() -> Path:
    """The folder of data sets: PRUNELAB_DATA, else ``data`` in the working folder."""
    return Path(os.environ.get("PRUNELAB_DATA") or "data")


def read_path_conf(path: Path) -> dict[str, str]:
    """The places that a ``path.conf`` of the original names; lines with ``None`` name none.

    Raises:
        UserError: a line that is neither empty, a comment nor KEY = VALUE.
    """
    places = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals):
            raise UserError(f"{path}, line {number}: {line.strip()!r}, expected KEY = VALUE")
        if value.strip("'\"") not in ("", "None"):
            places[key] = value.strip("'\"")
    return places


def data_dir(dataset: str) -> str:
    """The folder of a data set that no flag names: what ``path.conf`` says, else its name in `data_root`.

    ``path.conf`` is looked for in the working folder, then in the project's. Of its places those of the mode
    count that CHANNEL_PRUNE_MODE names, else those of ``local``.
    """
    mode = os.environ.get("CHANNEL_PRUNE_MODE") or "local"
    if mode not in MODES:
        raise UserError(f"CHANNEL_PRUNE_MODE is {mode!r}, expected one of {', '.join(MODES)}")
    for path in (Path(PATH_CONF), PROJECT / PATH_CONF):
        if path.is_file():
            place = read_path_conf(path).get(f"data_dir_{mode}_{NAMES.get(dataset, dataset)}")
            if place:
                return place
            break
    return str(data_root() / dataset)


def place(path: str | Path) -> Path:
    """The place that a path of the original means, say ``./models/model.ckpt``: the folder ``./models``.

    What exists means itself: a file of weights, or one of our folders. A relative path starts in
    PRUNELAB_RUNS where that is set, unless it exists in the working folder alone.
    """
    found = Path(path)
    roots = [doors.runs_root(), Path()] if os.environ.get("PRUNELAB_RUNS") else [Path()]
    folder = found.parent if ".ckpt" in found.name else found
    spots = [root / part for part in (found, folder) for root in roots]  # an absolute part has no root
    return next((spot for spot in spots if spot.exists()), roots[0] / folder)


def run_folder(cfg: Config) -> Path:
    """The folder of a run: ``output``, else that of the network which the learner writes."""
    if cfg.run.output:
        return Path(cfg.run.output)
    return place(cfg.run.save_path_cpr if cfg.run.prunes else cfg.run.save_path)


def full_model(cfg: Config) -> Path:
    """Where the full network lies that is pruned, or that is the teacher: ``weights``, else ``save_path``."""
    return Path(cfg.net.weights) if cfg.net.weights else place(cfg.run.save_path)


def teacher(cfg: Config) -> Path:
    """Where the teacher lies: the folder of ``save_path_dst`` if there is one, else the full network."""
    own = place(cfg.distill.save_path_dst)
    return own if own.exists() else full_model(cfg)


def chosen_folder(cfg: Config) -> Path:
    """Where the network with chosen channels lies before it is fine-tuned.

    It is the folder of ``save_path_ws``; in a run with a folder of its own, and no such path typed,
    ``chosen`` in that.
    """
    if cfg.run.output and cfg.run.save_path_ws == RunOptions().save_path_ws:
        return Path(cfg.run.output) / "chosen"
    return place(cfg.run.save_path_ws)


def count_classes(folder: Path) -> tuple[int, int]:
    """How many classes and training pictures a folder has; both 0 where it is none.

    Args:
        folder: has a folder of pictures for every class, itself or in ``train``.
    """
    place = folder / "train" if (folder / "train").is_dir() else folder
    if not place.is_dir():
        return 0, 0
    found = [entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return len(found), sum(file.suffix.lower() in PICTURES for entry in found for file in entry.rglob("*.*"))


def newest_model() -> Path:
    """The slim network of the newest tour or run where runs lie, or the best one of a run without.

    Raises:
        UserError: there is none.
    """
    root = doors.runs_root()
    found = doors.newest_model(root, kind="slim") or doors.newest_model(root)
    if found is None:
        raise UserError(f"{root} holds no trained model: run `train` first, or name one with --model")
    return found


def run_config(model: Path) -> Path | None:
    """The configuration of the run that holds a model: ``config.yaml`` beside it or in the two folders above.

    Of what lies in a tour beside its runs it is that of the pruned run. None where there is no such file.
    """
    above = [model, *model.resolve().parents[:2]]
    for folder in [*above, *(spot / "pruned" for spot in above[:2])]:
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    return None
