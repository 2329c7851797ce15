"""Files of weights of every kind, recognised by content: safetensors, torch's ``.pth``, our packed ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import packed
from prunelab.torchfile import load_pth, state_dict_of

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
        return state_dict_of(load_pth(path), path, inside), {}
    raise UserError(f"{path}: is no file of weights: expected safetensors, a torch .pth or a packed file")


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is no whole safetensors file ({error})") from error
