"""Foreign files of torch's (``.pth``, ``.pt``): tensors and plain data are read, anything else is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError


def load_pth(path: Path) -> Any:
    """What a file of torch's holds, on the CPU; nothing that could run code is read.

    Raises:
        UserError: missing, damaged, or with an object in it that is neither a tensor nor plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a file of weights")
    try:
        with warnings.catch_warnings():
            # torch announces that it checks sparse tensors, which is what we want of it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged or a forbidden file
        named = re.search(r"GLOBAL `?([\w.]+)", str(error))
        if named:
            raise UserError(
                f"{path}: a whole pickled object (it names {named[1]}), which is refused and was not "
                "unpickled: load it where it was made and save its state_dict() instead"
            ) from error
        raise UserError(f"{path}: no file of weights, or cut off ({type(error).__name__})") from error


def state_dict_of(content: Any, path: Path, inside: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict that a file holds.

    Args:
        content: what `load_pth` gave.
        path: the file, for messages.
        inside: keys under which a checkpoint may have it, the first that is there counts.

    Raises:
        UserError: another kind of object, or one with entries that are no tensors.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a checkpoint or a state dict")
    found = [content[key] for key in inside if isinstance(content.get(key), Mapping)]
    state = found[0] if found else content
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(value).__name__}, expected tensors by name")
    return dict(state)
