"""Any trained network by its place: a model folder of ours, a run, or a file of the original."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from acosp_seg.config import Config, ModelConfig
from acosp_seg.layout import resolve
from acosp_seg.model import build
from acosp_seg.model.checkpoint import LoadReport, OriginalFile, load_original, read_original
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
    segmenter, _ = load_file(file, config or config_of(recognise(file.state, where=str(place))))
    segmenter.model.to(device)
    return segmenter


def load_file(file: OriginalFile, config: Config, *, part: bool = False) -> tuple[Segmenter, LoadReport]:
    """Build a network and load a file of the original into it.

    Args:
        file: what was read.
        config: the network, its data set and windows.
        part: the file holds initial weights of a part; the rest of the network stays new.

    Raises:
        UserError: the file is of another network.
    """
    if not part:
        _check(recognise(file.state, where=str(file.path)), config, file.path)
    model = build(replace(config.model, pretrained=""), criterion_ignore=config.data.ignore_label)
    report = load_original(model, file.path)
    return Segmenter(model=model.eval(), config=config), report


def _with_config(segmenter: Segmenter, config: Config | None, place: Path) -> Segmenter:
    """A model folder's network with another configuration around it."""
    if config is None:
        return segmenter
    own = segmenter.config.model
    _check(own, config, place)
    names = () if config.data.names_path else segmenter.names
    colors = segmenter.colors[:0] if config.data.colors_path else segmenter.colors
    return Segmenter(
        model=segmenter.model,
        config=replace(config, model=own),
        names=names,
        colors=colors,
        notes=segmenter.notes,
    )


def _check(found: ModelConfig, config: Config, place: Path) -> None:
    for name in ("arch", "classes"):
        has, wants = getattr(found, name), getattr(config.model, name)
        if has != wants:
            raise UserError(f"{place}: a network with {name} {has}, expected {wants} as configured")
