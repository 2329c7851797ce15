"""The rule by which the recorded numbers' weights were filled: a hash of key and position, no random numbers.

Every value is a function of its state-dict key (without ``module.``), its flat position and a prefix, so
weights need not be stored and equal keys get equal values whatever the order of construction.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def uniform(key: str, count: int, prefix: str = "") -> np.ndarray:
    """Return ``count`` numbers in (0, 1) for a key, float64, shape (count,)."""
    x = np.arange(count, dtype=np.uint32)  # arithmetic of arrays of this type is modulo 2^32, as the rule's
    x *= np.uint32(0x9E3779B1)
    x += np.uint32(zlib.crc32((prefix + key).encode("utf-8")))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return (x + 0.5) / 2.0**32


def kind_of(key: str, shape: tuple[int, ...], keys: Mapping[str, object]) -> str:
    """Name what an entry is: w, gamma, gamma3, bias, rm, rv, nbt, logits or mask."""
    owner, _, name = key.rpartition(".")
    by_name = {"running_mean": "rm", "running_var": "rv", "num_batches_tracked": "nbt", "mask": "mask"}
    if name in by_name:
        return by_name[name]
    if name == "weight" and f"{owner}.mask" in keys:
        return "logits"
    if len(shape) >= 2:
        return "w"
    if name == "bias":
        return "bias"
    return "gamma3" if ".bn3." in key else "gamma"


def kept_channels(sparsity: float, channels: int, min_remaining: int = 8) -> int:
    """Return the number of channels that a mask of the rule keeps."""
    return max(math.ceil((1 - sparsity) * channels), min_remaining)


def _hard_mask(u: np.ndarray, sparsity: float, min_remaining: int) -> np.ndarray:
    mask = np.zeros(len(u))
    mask[np.argsort(u)[len(u) - min(kept_channels(sparsity, len(u), min_remaining), len(u)) :]] = 1
    return mask


def values(
    key: str,
    shape: tuple[int, ...],
    kind: str,
    *,
    prefix: str = "",
    hard: bool = False,
    sparsity: float = 0.0,
    min_remaining: int = 8,
) -> np.ndarray:
    """Return one entry by the rule, float64, of the given shape.

    Args:
        key: State-dict key of the original layout, without ``module.``.
        shape: Shape of the entry.
        kind: See `kind_of`; ``input`` for network inputs.
        prefix: Prefix of the key that a set of recorded numbers states.
        hard: Whether masks are those of a hard model.
        sparsity: Share of pruned channels, for hard masks.
        min_remaining: Fewest kept channels of a hard mask.
    """
    u = uniform(key, math.prod(shape), prefix)
    centred = 2 * u - 1
    filled = {
        "w": lambda: math.sqrt(6 / math.prod(shape[1:])) * centred,
        "gamma": lambda: 0.8 + 0.4 * u,
        "gamma3": lambda: 0.4 + 0.2 * u,
        "bias": lambda: 0.1 * centred,
        "rm": lambda: 0.2 * centred,
        "rv": lambda: 0.8 + 0.4 * u,
        "nbt": lambda: np.zeros_like(u),
        "logits": lambda: math.sqrt(3) * centred,
        "mask": lambda: _hard_mask(u, sparsity, min_remaining) if hard else np.ones_like(u),
        "input": lambda: 2 * centred,
    }[kind]()
    return filled.reshape(shape)


@torch.no_grad()
def fill(
    module: nn.Module,
    *,
    prefix: str = "",
    hard: bool = False,
    sparsity: float = 0.0,
    min_remaining: int = 8,
) -> dict[str, Tensor]:
    """Fill all parameters and buffers of a module in place by the rule and return its state dict."""
    state = module.state_dict()
    for key, tensor in state.items():
        shape = tuple(tensor.shape)
        kind = kind_of(key, shape, state)
        array = values(
            key, shape, kind, prefix=prefix, hard=hard, sparsity=sparsity, min_remaining=min_remaining
        )
        tensor.copy_(torch.from_numpy(array.astype(np.float32)))
    return state


def check(tensor: Tensor | np.ndarray) -> list[float]:
    """Return [sum, sum of absolute values, first, last] in double precision."""
    flat = torch.as_tensor(tensor).detach().double().flatten()
    return [float(flat.sum()), float(flat.abs().sum()), float(flat[0]), float(flat[-1])]
