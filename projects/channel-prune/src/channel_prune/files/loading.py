"""Any trained network by its place: a model folder, a run, a foreign file; and how one is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from channel_prune.config import Config, NetConfig
from channel_prune.data import Data
from channel_prune.files.adopt import adopt
from channel_prune.files.recognise import recognise
from channel_prune.files.saved import KIND, Saved, check_same, network_of
from channel_prune.files.weights import fill, find_weights, read_weights
from channel_prune.model import build
from prunelab.errors import UserError
from prunelab.hub import is_model_folder, load_model_folder, load_state
from prunelab.surgery import Structure

if TYPE_CHECKING:
    from channel_prune.classifier import Classifier
    from channel_prune.detector import Detector

INSIDE = ("best", "last", "pruned/best", "pruned/last", "dense/best", "dense/last", "chosen")
"""Model folders in the folder of a run or of a tour, the preferred one first."""
SLIM = ("slim", "pruned/slim")
"""Slim networks there."""


def find_model(path: str | Path, *, slim: bool = False) -> Path:
    """The model folder or foreign file that a path means.

    Args:
        path: a model folder, a run or a tour of ours, a foreign file, a TensorFlow checkpoint's name, or a
            folder that holds one of these.
        slim: of a pruned run, whether the slim network is meant, or the one with channels of zeros.

    Raises:
        UserError: nothing is there.
    """
    place = Path(path)
    if is_model_folder(place):
        return place
    for name in (*SLIM, *INSIDE) if slim else INSIDE:
        if is_model_folder(place / name):
            return place / name
    found = find_weights(place)
    if found is None:
        raise UserError(
            f"{place}: no network there, expected a model folder, a run, a TensorFlow checkpoint, or a file "
            "of weights (.npz, .pth, .th, .safetensors)"
        )
    return found


def load(path: str | Path, *, net: str = "", device: str | torch.device = "cpu") -> Classifier | Detector:
    """A network ready for use, from whatever holds one; of a pruned run, the slim one.

    Args:
        path: see `find_model`; or the id of a model on the Hub.
        net: name of the network that foreign weights are of; empty: told from their names and shapes.
        device: where it goes.

    Raises:
        UserError: nothing is there, or it is no network that is known.
    """
    from channel_prune.classifier import Classifier  # a training needs neither
    from channel_prune.detector import Detector

    here = Path(path).exists() or find_weights(path) is not None
    place = find_model(path, slim=True) if here else path
    if here and not is_model_folder(place):
        weights = read_weights(place)
        saved, _ = adopt(weights, recognise(weights, net=net))
        saved.model.to(torch.device(device))
    else:
        saved = Saved.read(place, device=device)
    return Detector(saved=saved) if saved.net.detects else Classifier(saved=saved)


def load_network(path: str | Path, net: NetConfig) -> nn.Module:
    """A network with its weights, in evaluation mode.

    Args:
        path: see `find_model`.
        net: what is expected there.

    Raises:
        UserError: nothing is there, or another network; the first differing names and shapes are given.
    """
    place = find_model(path)
    if place.is_dir():
        found = load_model_folder(place, kind=KIND)
        check_same(network_of(found), net, place)
        model = build(net, found.structure)
        load_state(model, found.state, where=str(place))
        return model.eval()
    model = build(net)
    fill(model, read_weights(place))
    return model.eval()


def save_network(
    folder: str | Path,
    cfg: Config,
    data: Data,
    model: nn.Module,
    *,
    structure: Structure | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network of a run as a model folder, with what is needed to use it."""
    saved = Saved(
        model=model,
        net=cfg.net,
        preprocess=data.preprocess,
        classes=data.classes,
        dataset=cfg.data.dataset,
        detect=cfg.detect,
        structure=structure,
        notes=notes or {},
    )
    return saved.save(folder)
