"""Files that the original, and others, can read: a network's weights under the names that they know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from channel_prune.files.bundle import write_bundle
from channel_prune.files.weights import COUNTER, PREFIX
from channel_prune.model.names import original_names, to_original
from prunelab.errors import UserError
from prunelab.util import atomic_write

SCOPES = ("model", "pruned_model")
"""Scopes of the original's graphs: of its full network, and of its pruned one."""


def write_original(
    path: str | Path, model: nn.Module, *, pruned: bool, step: int = 0, notes: Mapping[str, Any] | None = None
) -> Path:
    """Write a network's weights as the original's checkpoint.

    Args:
        path: ``NAME.npz`` for arrays under the original's names. Any other name is a TensorFlow checkpoint,
            as ``models/model.ckpt-0``, which the original restores. A network that the original has not gets
            a torch file as published for it, ``.th`` in place of ``.npz``: a state dict under ``state_dict``,
            with ``module.`` before its names.
        model: a full network; channels that were pruned are zeros.
        pruned: whether it is the pruned network of the original, or its full one.
        step: training step to note.
        notes: plain values for a torch file.

    Returns:
        What was written; of a TensorFlow checkpoint, its name, to which ``.index`` and the like are added.

    Raises:
        UserError: the network is slim, which the original cannot have, or the file cannot be written.
    """
    path = Path(path)
    if any(hasattr(module, "select") for module in model.modules()):
        raise UserError("format original: the network is slim, expected a full one, with channels of zeros")
    if not original_names(model):
        path = path.with_suffix(".th") if path.suffix == ".npz" else path
        state = {f"{PREFIX}{k}": v.cpu() for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
        with atomic_write(path) as file:
            torch.save({**(notes or {}), "state_dict": state}, file)
        return path
    scope = SCOPES[pruned]
    arrays = {f"{scope}/{name}": array for name, array in to_original(model).items()}
    arrays[f"{scope}/global_step"] = np.array(step, np.int64)
    if path.suffix != ".npz":
        return write_bundle(path, arrays)
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - names are no other arguments
    return path
