"""Any classifier by its place: a model folder, a run, a file of the original, of google's or of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from apt_vit.classifier import KIND, Classifier
from apt_vit.files import npz, timm_weights
from apt_vit.files.original import AGENT, count_agents
from apt_vit.files.recognise import KINDS, Weights, class_names_of, config_of, read_weights
from apt_vit.files.weights import Loaded, fill
from apt_vit.model import VisionTransformer, build
from apt_vit.model.initialise import fresh_agents
from apt_vit.preprocess import Preprocess
from prunelab.config import to_plain
from prunelab.errors import UserError
from prunelab.hub import is_model_folder, load_model_folder
from prunelab.util import StrPath

INSIDE = ("best", "last")
"""Model folders in the folder of a run, the preferred one first."""
SUFFIXES = (".npz", ".bin", ".safetensors", ".pth", ".pt")
"""Of the files that are looked for in a folder."""
FOLDER = "a model folder"
OF_AGENTS = ("clip_layers", "normalise_agent_input")
"""What agents have learnt with, without which they are not taken over."""


def find_model(path: StrPath) -> Path:
    """The model folder or file of weights that a path means.

    Args:
        path: a model folder or a file of one, a run or a tour of ours, a file of weights, or a folder
            with one such file.

    Raises:
        UserError: nothing is there, or a folder holds several files.
    """
    place = Path(path)
    if place.is_file():
        return place.parent if is_model_folder(place.parent) and place.suffix != ".bin" else place
    for folder in (place, *(place / name for name in INSIDE)):
        if is_model_folder(folder):
            return folder
    found = [file for file in sorted(place.glob("*")) if file.suffix in SUFFIXES] if place.is_dir() else []
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        raise UserError(f"{place}: holds several files of weights ({names}), expected the name of one")
    if not found:
        missing = "no network in it" if place.is_dir() else "no such file or folder"
        raise UserError(f"{place}: {missing}, expected a model folder, a run, {KINDS}")
    return found[0]


def _place(path: StrPath) -> Path | str:
    """`find_model`, but of what is not there and looks like no file: the id of a model on the Hub."""
    known = Path(path).exists() or Path(path).suffix in SUFFIXES
    return find_model(path) if known else str(path)


def open_weights(
    path: StrPath, typed: Mapping[str, Any] | None = None, *, device: str | torch.device = "cpu"
) -> tuple[Classifier, Loaded]:
    """A classifier from whatever holds one, and what its file lacked.

    What a file does not have keeps its first values: agents are fresh and prune nothing.

    Args:
        path: see `find_model`; or the id of a model on the Hub.
        typed: what a file does not tell, see `apt_vit.files.recognise.config_of`. A model folder tells all.
        device: where the network goes.

    Raises:
        UserError: nothing is there, it is damaged, or it is no network that is known.
    """
    place = _place(path)
    if not isinstance(place, Path) or is_model_folder(place):
        classifier = Classifier.from_pretrained(place, device=device)
        return classifier, Loaded(what=FOLDER)
    weights = read_weights(place)
    typed = typed or {}
    model, loaded = _adopted(weights, typed)
    classifier = _classifier(weights, model)
    names = tuple(typed.get("class_names") or classifier.class_names)
    return replace(classifier, class_names=names).to(device), loaded


def fill_from(
    model: VisionTransformer, path: StrPath, *, zero_head: bool = True, edge_zeros: bool = False
) -> Loaded:
    """Begin with weights from whatever holds some: put them into a network, in place.

    Position embeddings are resized to its pictures. Agents and the last layer are taken where the file has as
    many and as large ones, agents behind the same blocks as far as that is known; else agents stay as they
    are, and the last layer becomes zeros.

    Args:
        model: the network.
        path: see `find_model`; or the id of a model on the Hub.
        zero_head: of google's npz: begin with a last layer of zeros, as the original does.
        edge_zeros: see `apt_vit.files.positions.resize`.

    Returns:
        What was loaded, with the lines that the original prints and logs meanwhile.

    Raises:
        UserError: nothing is there, or another network; the first differing names and shapes are given.
    """
    place = _place(path)
    if not isinstance(place, Path) or is_model_folder(place):
        found = load_model_folder(place, kind=KIND)
        theirs = found.config.get("model") or {}
        same = all(to_plain(getattr(model.cfg, name)) == theirs.get(name) for name in OF_AGENTS)
        state = found.state if same else {k: v for k, v in found.state.items() if not k.startswith(AGENT)}
        return fill(model, state, where=str(place), what=FOLDER, head="fit", edge_zeros=edge_zeros)
    weights = read_weights(place)
    if weights.kind == "npz":
        return npz.fill_npz(
            model, weights.arrays, where=weights.path, zero_head=zero_head, edge_zeros=edge_zeros
        )
    return _fill(model, weights, edge_zeros=edge_zeros)


def _fill(model: VisionTransformer, weights: Weights, *, edge_zeros: bool) -> Loaded:
    """Put a file's weights into a network; the last layer where it fits."""
    where, state, unused, optional = weights.path, weights.state, (), (AGENT,)
    if weights.kind == "npz":
        head = "head/bias" in weights.arrays
        state, unused = npz.translate(weights.arrays, model, where=where, head=head)
    elif weights.kind == "timm":
        state, unused = timm_weights.translate(weights.state, model.state_dict(), where=where)
        optional = timm_weights.MAY_MISS
    return fill(
        model,
        state,
        where=where,
        what=weights.what,
        head="fit",
        edge_zeros=edge_zeros,
        unused=unused,
        optional=optional,
    )


def _adopted(weights: Weights, typed: Mapping[str, Any]) -> tuple[VisionTransformer, Loaded]:
    """The network that weights are of, around them; agents that they lack are fresh ones."""
    cfg = config_of(weights, typed)
    model = build(cfg)
    if not count_agents(weights.state):
        fresh_agents(model.agents.values(), torch.Generator().manual_seed(0))
    edge_zeros = typed.get("preset") == "faithful"
    return model.eval(), _fill(model, weights, edge_zeros=edge_zeros)


def _classifier(weights: Weights, model: VisionTransformer) -> Classifier:
    """A classifier around a foreign network: what lies beside its file, or what is usual for its kind."""
    if weights.kind == "original" and weights.facts:
        return Classifier.around(model, weights.facts, where=weights.path)
    preprocess = Preprocess(size=model.cfg.img_size)
    if weights.kind == "timm":
        preprocess = timm_weights.preprocess_of_timm(model.cfg, weights.facts)
    return Classifier(model=model, preprocess=preprocess, class_names=class_names_of(weights, model.cfg))
