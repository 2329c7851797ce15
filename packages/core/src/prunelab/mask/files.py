"""Files of weights of every kind, recognised by content: safetensors, torch's ``.pth``, our packed ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed

_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's zip and its older plain form


def load_state(path: Path, *, inside: Sequence[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict.

    Args:
        path: the file, or a model folder that holds ``model.safetensors``.
        inside: keys under which a ``.pth`` that holds more may have the state dict, the first that is there
            counts.

    Returns:
        Name to tensor (sparse ones stay sparse, except in a packed file), and the file's metadata.

    Raises:
        UserError: missing, unreadable, of another kind, or with something in it that is no tensor.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): expected a file of weights") from error
    if head.startswith(packed.MAGIC):
        opened = packed.PackedFile(path)
        return opened.dense(), opened.metadata
    if head[8:9] == b"{":
        return _load_safetensors(path)
    if head.startswith(_PICKLES):
        return _state_in(load_pth(path), path, inside), {}
    raise UserError(f"{path}: is no file of weights: expected safetensors, a torch .pth or a packed file")


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is no whole safetensors file ({error})") from error


def load_pth(path: Path) -> Any:
    """What a file of torch's holds, on the CPU; nothing that could run code is read.

    Raises:
        UserError: missing, damaged, or with something in it that ``weights_only`` forbids.
    """
    try:
        with warnings.catch_warnings():
            # torch announces that it checks sparse tensors, which is what we want of it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a damaged or forbidden file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be loaded with weights_only=True ({reason})") from error


def _state_in(content: Any, path: Path, inside: Sequence[str]) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}: expected a state dict")
    found = [content[key] for key in inside if isinstance(content.get(key), Mapping)]
    state = found[0] if found else content
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(value).__name__}: expected tensors by name")
    return dict(state)
