"""Weights from foreign files: read by what they hold, never by their name.

| file | as |
|---|---|
| a checkpoint of TensorFlow (``model.ckpt-N.index`` and its ``.data-...``), or a folder with some | arrays |
| ``.npz``: the arrays of such a checkpoint | arrays |
| a torch file: a state dict, or a checkpoint that holds one; of any age | state dict |
| ``.safetensors`` | state dict |

Arrays have the original's names and layouts (`channel_prune.model.names`); a state dict has torch's. Nothing
is unpickled but torch's own tensors.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from channel_prune.files.bundle import find_bundle, read_bundle
from channel_prune.model.names import from_original, original_names, without_scope
from prunelab.errors import UserError
from prunelab.hub import load_state
from prunelab.torchfile import load_pth, state_dict_of

PREFIX = "module."
"""Put before every name by a wrapper that many train in."""
COUNTER = "num_batches_tracked"
"""End of the names of torch's counters, which no other program has."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Entries of a checkpoint that may be its state dict."""
SUFFIXES = (".npz", ".th", ".pth", ".pt", ".safetensors")
"""Of the files that are looked for in a folder."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A foreign file that was read."""

    path: Path
    what: str
    """What it is, for people."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """Variables under the original's names, without the scope of the graph; empty for a state dict."""
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Weights under torch's names, without ``module.``; empty for variables."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that lie beside the weights, such as a score."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight in its file's own layout, by name."""
        return {name: tuple(value.shape) for name, value in (self.arrays or self.state).items()}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a file gave to a network."""

    filled: tuple[str, ...]
    """Names of the network that came from the file."""
    missing: tuple[str, ...]
    """Names of the network that the file does not have; they keep their values."""
    unused: tuple[str, ...]
    """Names of the file that the network has no place for."""


def find_weights(path: str | Path) -> Path | None:
    """The foreign file that a path means: a file, a TensorFlow checkpoint's name, or a folder with one."""
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        return find_bundle(path) or (files[0] if len(files) == 1 else None)
    return find_bundle(path) or (path if path.is_file() else None)


def read_weights(path: str | Path) -> Weights:
    """Read a foreign file.

    Raises:
        UserError: nothing is there, it is damaged, or it holds something else than weights (such as a whole
            pickled network, which is not unpickled).
    """
    found = find_weights(path)
    if found is None:
        raise UserError(f"{path}: no such file, expected weights: a TensorFlow checkpoint, .npz, .pth or .th")
    if not found.is_file():
        return _original(found, read_bundle(found), "a TensorFlow checkpoint")
    with found.open("rb") as file:
        head = file.read(9)
    if zipfile.is_zipfile(found):
        with zipfile.ZipFile(found) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _arrays(found)
    elif head[8:] == b"{":
        return _state(found, _safetensors(found), "a safetensors file")
    return _torch(found)


def _arrays(path: Path) -> Weights:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or not only arrays of numbers") from error
    if any("/" in name for name in arrays):
        return _original(path, arrays, "arrays of the original's variables")
    return _state(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, "arrays")


def _original(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> Weights:
    if not arrays:
        raise UserError(f"{path}: holds no weights")
    return Weights(path=path, what=what, arrays={without_scope(name): arrays[name] for name in arrays})


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or cut off, expected weights") from error


def _torch(path: Path) -> Weights:
    content = load_pth(path)
    state = state_dict_of(content, path, inside=NESTED)
    if any(isinstance(content.get(name), Mapping) for name in NESTED):
        return _state(path, state, "a checkpoint of PyTorch", notes=_plain(content))
    return _state(path, state, "a state dict of PyTorch")


def _state(
    path: Path, state: Mapping[str, Tensor], what: str, notes: Mapping[str, Any] | None = None
) -> Weights:
    if not state:
        raise UserError(f"{path}: holds no weights")
    wrapped = all(name.startswith(PREFIX) for name in state)
    plain = {name.removeprefix(PREFIX) if wrapped else name: value for name, value in state.items()}
    return Weights(path=path, what=what, state=plain, notes=notes or {})


def _plain(content: Mapping[Any, Any]) -> dict[str, Any]:
    found = {str(name): value for name, value in content.items()}
    found = {name: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for name, v in found.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}


# -------------------------------------------------------------------------------------------------- loading


def fill(model: nn.Module, weights: Weights, *, strict: bool = True) -> Loaded:
    """Load a foreign file into a network, in place.

    Args:
        model: the network; for variables of the original one that says their names.
        weights: what was read.
        strict: whether names that one side lacks are an error; else they are told.

    Raises:
        UserError: weights of another network; the first differing names and shapes are given.
    """
    state = dict(weights.state)
    if weights.arrays:
        if not original_names(model):
            raise UserError(
                f"{weights.path}: {weights.what}, expected a state dict: the original has no "
                f"{type(model).__name__}"
            )
        state = from_original(weights.arrays, model)
    own = model.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER) and name not in state}
    state = counters | {name: value for name, value in state.items() if name in own or COUNTER not in name}
    missing = tuple(name for name in own if name not in state)
    unused = tuple(name for name in state if name not in own)
    if not strict:
        state = {name: own[name] for name in missing} | state
        state = {name: value for name, value in state.items() if name not in unused}
    load_state(model, state, where=str(weights.path))
    filled = tuple(name for name in state if name not in missing and name not in counters)
    if not filled:
        raise UserError(
            f"{weights.path}: none of its weights belongs to {type(model).__name__}: it has "
            f"{', '.join(list(weights.shapes)[:3])}, ..., expected {', '.join(list(own)[:3])}, ..."
        )
    return Loaded(filled=filled, missing=missing, unused=unused)
