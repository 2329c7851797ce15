"""Weights from foreign files: recognised by what they hold, never by their name.

What is read: checkpoints of the original (weights before masks, with soft masks, with hard ones), plain state
dicts of such networks, the initial weights of PSPNet's trunk (``resnet50_v2.pth``), torchvision's VGG16 for
SegNet's encoder, and our own model folders. In a file of the original a masked convolution ``X`` has its
weights under ``X.0`` and its mask under ``X.1.mask``; soft masks have their logits beside it, ``X.1.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from acosp import apply_structure, phase
from acosp.inject import hard_to_conv, soft_to_hard_k
from acosp_seg.model.pspnet import PSPNet
from acosp_seg.model.segnet import SegNet
from prunelab.errors import UserError
from prunelab.hub import is_model_folder, load_model_folder, load_state
from prunelab.torchfile import load_pth, state_dict_of
from prunelab.util import StrPath

Layout = Literal["dense", "soft", "hard"]
Kind = Literal["checkpoint", "state dict", "model folder", "trunk", "vgg16"]

PREFIX = "module."
"""Put before every name by the wrapper that the original trains in."""

_MASK = ".1.mask"
_VGG_CONV = re.compile(r"features\.(\d+)\.weight")


@dataclass(frozen=True, kw_only=True)
class OriginalFile:
    """A file that was read and recognised, not yet loaded into a network."""

    path: Path
    kind: Kind
    """What it is."""
    state: dict[str, Tensor] = field(repr=False)
    """Weights by name, without ``module.``."""
    epoch: int | None = None
    """The epoch to go on with, as a checkpoint says it."""
    optimizer: dict[str, Any] | None = field(default=None, repr=False)
    """The state of a checkpoint's optimizer; `acosp_seg.model.original.load_optimizer` reads it."""

    @property
    def layout(self) -> Layout:
        """Whether its weights come without masks, with soft or with hard ones."""
        return layout(self.state)

    def __str__(self) -> str:
        """One line for people."""
        masks = {"dense": "no masks", "soft": "soft masks", "hard": "hard masks"}[self.layout]
        text = {
            "checkpoint": f"a checkpoint of the original: {masks}, next epoch {self.epoch}",
            "state dict": f"a state dict: {masks}",
            "model folder": f"a model folder: {masks}",
            "trunk": "initial weights of a ResNet trunk",
            "vgg16": "torchvision's VGG16",
        }[self.kind]
        return f"{text}, {len(self.state)} entries"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a file gave to a network."""

    file: OriginalFile
    loaded: tuple[str, ...]
    """Names of the network that were filled."""
    missing: tuple[str, ...]
    """Names of the network that the file does not have; they keep their values."""
    unused: tuple[str, ...]
    """Names of the file that the network has no place for."""

    def __str__(self) -> str:
        """One line for people."""
        text = f"{self.file.path}: {self.file}; {len(self.loaded)} loaded"
        for what, names in (("kept as they were", self.missing), ("not used", self.unused)):
            if names:
                text += f", {len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        return text


# ------------------------------------------------------------------------------------------------- reading


def masked_convs(state: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Names of the masked convolutions of a state dict, each with ``soft`` or ``hard``.

    A batch norm's ``X.1.weight`` looks like logits; only a mask beside it tells them apart.
    """
    names = [key.removesuffix(_MASK) for key in state if key.endswith(_MASK)]
    return {name: "soft" if f"{name}.1.weight" in state else "hard" for name in names}


def layout(state: Mapping[str, Tensor]) -> Layout:
    """Whether a state dict is of a network without masks, with soft or with hard ones."""
    kinds = set(masked_convs(state).values())
    return "dense" if not kinds else "soft" if "soft" in kinds else "hard"


def read_original(path: StrPath) -> OriginalFile:
    """Read a file and recognise what it is.

    Raises:
        UserError: nothing is there, it is broken, or it holds something else than weights (such as a whole
            pickled network, which is not unpickled).
    """
    path = Path(path)
    if is_model_folder(path):
        return OriginalFile(path=path, kind="model folder", state=load_model_folder(path).state)
    content = load_pth(path)
    state = _plain_names(state_dict_of(content, path, ["state_dict"]), path)
    if isinstance(content.get("state_dict"), Mapping):
        epoch, optimizer = content.get("epoch"), content.get("optimizer")
        return OriginalFile(path=path, kind="checkpoint", state=state, epoch=epoch, optimizer=optimizer)
    kind: Kind = "state dict"
    if {"conv1.weight", "layer1.0.conv3.weight"} <= state.keys():
        kind = "trunk"
    elif any(map(_VGG_CONV.fullmatch, state)):
        kind = "vgg16"
    return OriginalFile(path=path, kind=kind, state=state)


def _plain_names(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not state:
        raise UserError(f"{path}: holds no weights")
    if all(name.startswith(PREFIX) for name in state):
        return {name.removeprefix(PREFIX): value for name, value in state.items()}
    return state


# ------------------------------------------------------------------------------------------------- loading


def load_original(model: nn.Module, path: StrPath) -> LoadReport:
    """Load a file into a network, in place, and bring the network's masks to the kind that the file has.

    Weights without masks go into a masked network too: its masks stay. Soft masks that have to be made for
    the file keep as many channels as their stored values say (all, before the first training step) and have
    no schedule; a network that is to be trained further gets its masks from the pruner first.

    Args:
        model: one of this project's networks, or any with the file's names.
        path: see the top of this file.

    Raises:
        UserError: the file cannot be read or is of another network; the first differing names and shapes are
            given.
    """
    file = read_original(path)
    if file.kind == "trunk":
        return _load_trunk(model, file)
    if file.kind == "vgg16":
        return _load_vgg(model, file)
    if file.layout == "dense":
        return _load_parts(model, file, file.state, complete=True)
    _suit_masks(model, file)
    load_state(model, file.state, where=str(file.path))
    return LoadReport(file=file, loaded=tuple(file.state), missing=(), unused=())


def _load_parts(
    model: nn.Module, file: OriginalFile, dense: Mapping[str, Tensor], *, complete: bool
) -> LoadReport:
    """Load weights that have no masks, given by the names of the network without masks.

    Args:
        model: the network, masked or not.
        file: where they come from.
        dense: what is loaded; entries of the file that are none of its values count as not used.
        complete: whether everything but masks must be there.
    """
    own = model.state_dict()
    masked = masked_convs(own)
    mapped = {}
    for name, value in dense.items():
        owner, _, last = name.rpartition(".")
        mapped[f"{owner}.0.{last}" if owner in masked else name] = value
    kept = {f"{conv}.1.{last}" for conv in masked for last in ("mask", "weight")} & own.keys()
    if not complete:
        kept = own.keys() - mapped.keys()
    load_state(model, {**{name: own[name] for name in kept}, **mapped}, where=str(file.path))
    given = {id(value) for value in dense.values()}
    return LoadReport(
        file=file,
        loaded=tuple(mapped),
        missing=tuple(name for name in own if name in kept),
        unused=tuple(name for name, value in file.state.items() if id(value) not in given),
    )


def _load_trunk(model: nn.Module, file: OriginalFile) -> LoadReport:
    """Put a ResNet's weights under the names that they have in PSPNet; the classifier is not used."""
    if not isinstance(model, PSPNet):
        raise UserError(f"{file.path}: {file}, expected weights of {type(model).__name__}")
    deep = "conv3.weight" in file.state
    if deep != model.deep_base:
        has, wants = ("three 3x3", "one 7x7") if deep else ("one 7x7", "three 3x3")
        raise UserError(
            f"{file.path}: a ResNet whose stem is {has} convolution{'s' if deep else ''}"
            f"{'' if deep else ' (as in torchvision)'}, expected {wants}: PSPNet starts from "
            "resnet50_v2.pth, or from random weights if pretrained is empty"
        )
    stem = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
    dense = {}
    for name, value in file.state.items():
        first, _, rest = name.partition(".")
        if first != "fc":
            dense[f"layer0.{stem[first]}.{rest}" if first in stem else name] = value
    return _load_parts(model, file, dense, complete=False)


def _load_vgg(model: nn.Module, file: OriginalFile) -> LoadReport:
    """Put VGG16's convolutions into SegNet's encoder, which has the same ones in the same order."""
    if not isinstance(model, SegNet):
        raise UserError(f"{file.path}: {file}, expected weights of {type(model).__name__}")
    places = sorted(
        int(found[1])
        for name, value in file.state.items()
        if (found := _VGG_CONV.fullmatch(name)) and value.dim() == 4
    )
    targets = model.encoder_convs()
    if len(places) != len(targets):
        raise UserError(f"{file.path}: {len(places)} convolutions, expected the {len(targets)} of VGG16")
    dense = {
        f"{target}.{last}": file.state[f"features.{place}.{last}"]
        for place, target in zip(places, targets, strict=True)
        for last in ("weight", "bias")
    }
    return _load_parts(model, file, dense, complete=False)


def _suit_masks(model: nn.Module, file: OriginalFile) -> None:
    """Give a network masks of the kind that a file has; their values come with its weights."""
    have, want = phase(model), file.layout
    if have == want:
        return
    if (have, want) == ("soft", "hard"):
        soft_to_hard_k(model)
        return
    hard_to_conv(model)  # back to no masks; what it multiplies into the weights is overwritten
    layers = {}
    for name, kind in masked_convs(file.state).items():
        mask = file.state[name + _MASK]
        layers[name] = {"kind": kind, "channels": len(mask)}
        if kind == "soft":
            layers[name] |= _soft_facts(file.state, name)
    try:
        apply_structure(model, {"layers": layers, "frozen": []})
    except ValueError as error:
        raise UserError(f"{file.path}: weights of another model: {error}") from error


def _soft_facts(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """What a soft mask needs besides its values; what a file does not say is as a pruner starts."""
    mask, order = state[name + _MASK], list(state)
    return {
        # Just k logits lie above the level at which the sigmoid is one half.
        "k": max(int((mask > 0.5).sum()), 1),
        # Logits that are learned are parameters, which a state dict lists before the mask.
        "learnable": order.index(f"{name}.1.weight") < order.index(name + _MASK),
        "temperature": 1.0,
        "initial_temperature": 1.0,
        "final_temperature": 0.001,
        "min_step": 0,
        "max_step": 1,
    }
