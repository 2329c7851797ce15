"""Any trained network by its place: a model folder of ours, a run, or a file of the original."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from acosp_seg.config import Config
from acosp_seg.layout import resolve
from acosp_seg.model import build
from acosp_seg.model.checkpoint import load_original, read_original
from acosp_seg.recognise import config_of, recognise
from acosp_seg.segmenter import Segmenter
from prunelab.errors import UserError
from prunelab.hub import is_model_folder

INSIDE = ("best", "last", "compact", "pruned/best", "dense/best")
"""Model folders in the folder of a run or of a tour, the preferred one first."""


def find_model(path: str | Path) -> Path:
    """The file or model folder that a path means.

    Args:
        path: a file, a model folder, a run of ours, a tour, or a folder of the original's checkpoints, of
            which the one of the last epoch is taken.

    Raises:
        UserError: nothing is there.
    """
    place = resolve(path)
    if place.is_file() or is_model_folder(place):
        return place
    for name in INSIDE:
        if is_model_folder(place / name):
            return place / name
    files = [*place.glob("train_epoch_*.pth"), *place.glob("model/train_epoch_*.pth")]
    if files:
        return max(files, key=lambda file: int(re.sub(r"\D", "", file.stem) or 0))
    raise UserError(
        f"{place}: no model there, expected a model folder, a run, or a file such as train_epoch_100.pth"
    )


def load(path: str | Path, *, config: Config | None = None, device: str | torch.device = "cpu") -> Segmenter:
    """Load a network from whatever holds one.

    Args:
        path: see `find_model`.
        config: sizes, data set and windows that are wanted; None: those of the model folder, or of the
            published network that a file's tensors show.
        device: where the network goes.

    Raises:
        UserError: nothing is there, or it is a network of other classes than the configuration's.
    """
    place = find_model(path)
    if place.is_dir():
        return _with_config(Segmenter.from_pretrained(place, device=device), config, place)
    file = read_original(place)
    found = recognise(file.state, where=str(place))
    if config is None:
        config = config_of(found)
    for name in ("arch", "classes"):
        _check(name, getattr(found, name), getattr(config.model, name), place)
    model = build(_untrained(config).model, criterion_ignore=config.data.ignore_label)
    load_original(model, place)
    return Segmenter(model=model.to(device).eval(), config=config)


def _with_config(segmenter: Segmenter, config: Config | None, place: Path) -> Segmenter:
    """A model folder's network with another configuration around it."""
    if config is None:
        return segmenter
    own = segmenter.config.model
    for name in ("arch", "classes"):
        _check(name, getattr(own, name), getattr(config.model, name), place)
    names = () if config.data.names_path else segmenter.names
    colors = segmenter.colors[:0] if config.data.colors_path else segmenter.colors
    return Segmenter(
        model=segmenter.model,
        config=replace(config, model=own),
        names=names,
        colors=colors,
        notes=segmenter.notes,
    )


def _untrained(config: Config) -> Config:
    """Without the file of first weights, all of which others will replace."""
    return replace(config, model=replace(config.model, pretrained=""))


def _check(name: str, found: object, wanted: object, place: Path) -> None:
    if found != wanted:
        raise UserError(f"{place}: a network with {name} {found}, expected {wanted} as configured")
