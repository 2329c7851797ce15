"""Google's arrays as the recorded folders describe them, and for networks of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apt_vit.files.npz import npz_name
from apt_vit.files.original import AGENT
from apt_vit.model import VisionTransformer
from testing.parity import Folder

HEADS = ("query", "key", "value")


def arrays_of(folder: Folder) -> dict[str, np.ndarray]:
    """The arrays of a folder, made by the recipe of its README."""
    keys = folder.json("keys.json")
    made = {}
    for number, name in enumerate(sorted(keys["shapes"])):
        shape = keys["shapes"][name]
        draws = np.random.RandomState(keys["seed"] + number).standard_normal(shape)
        if name.endswith("/scale"):
            values = 1 + 0.1 * draws
        elif name.endswith("/bias"):
            values = 0.05 * draws
        elif name == "cls" or name.endswith("pos_embedding"):
            values = 0.4 * draws
        else:
            of_heads = any(word in name for word in HEADS)
            fan = folder.facts["hidden_size"] if of_heads else np.prod(shape[:-1])
            values = 0.8 * draws / np.sqrt(fan)
        made[name] = values.astype(np.float32)
    return made


def npz_of(model: VisionTransformer, file: Path) -> dict[str, np.ndarray]:
    """Write a network's weights as google's file, with an array that nobody needs."""
    arrays: dict[str, np.ndarray] = {"pre_logits/bias": np.zeros(3, np.float32)}
    heads = model.cfg.num_heads
    for name, tensor in model.state_dict().items():
        if name.startswith(AGENT):
            continue
        place, _ = npz_name(name)
        array = tensor.numpy()
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            array = array.T
        if ".attn." in name and not name.endswith("out.bias"):
            out = ".out." in name
            array = (
                array.reshape(heads, -1, array.shape[-1])
                if out
                else array.reshape(*array.shape[:-1], heads, -1)
            )
        arrays[place] = array.copy()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - names are no other arguments
    return arrays
