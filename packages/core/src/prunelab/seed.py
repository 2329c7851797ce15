"""Seeds: one derived from another by a path of names, all generators set at once, their states as data."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunelab.errors import UserError


def derive(seed: int, *keys: int | str) -> int:
    """Derive a seed of its own for whatever ``keys`` name; the same on every machine and Python version.

    Args:
        seed: the run's seed.
        keys: a path of whole numbers and strings; ``1`` and ``"1"`` differ, and so do ``"ab"`` and
            ``"a", "b"``.

    Returns:
        A whole number in [0, 2**63).
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in (seed, *keys):
        kind = "s" if isinstance(key, str) else "i"
        text = (key if isinstance(key, str) else str(int(key))).encode()
        digest.update(f"{kind}{len(text)}:".encode() + text)  # the length makes the joined bytes unambiguous
    return int.from_bytes(digest.digest(), "big") >> 1


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's (legacy) and torch's generators, accelerators included.

    Args:
        seed: any whole number >= 0; NumPy gets its lowest 32 bits.

    Raises:
        UserError: the seed is negative or needs more than 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise UserError(f"seed is {seed}; expected a whole number from 0 to 2**64 - 1")
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the global state is what third-party code draws from
    torch.manual_seed(seed)


@dataclass(frozen=True, kw_only=True)
class RngState:
    """The states of this process's global random generators, taken at one moment."""

    tensors: Mapping[str, torch.Tensor]
    """``python`` (625,) int64, ``numpy`` (624,) int64, ``torch`` (n,) uint8, and ``cuda`` (m,) uint8 where in
    use."""
    plain: Mapping[str, Any]
    """What is not an array: versions, positions, the second value of a Gaussian pair."""

    @classmethod
    def capture(cls) -> RngState:
        """Take the states of Python, NumPy (legacy), torch's CPU and the present CUDA device."""
        version, words, gauss_next = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - see seed_all
        tensors = {
            "python": torch.tensor(words, dtype=torch.int64),
            "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            tensors["cuda"] = torch.cuda.get_rng_state()
        plain = {
            "python": [version, gauss_next],
            "numpy": [name, int(position), int(has_gauss), float(cached)],
        }
        return cls(tensors=tensors, plain=plain)

    def restore(self) -> None:
        """Set the generators to these states; a CUDA state is skipped where there is no such device."""
        version, gauss_next = self.plain["python"]
        random.setstate((version, tuple(self.tensors["python"].tolist()), gauss_next))
        name, position, has_gauss, cached = self.plain["numpy"]
        keys = self.tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002 - see seed_all
        torch.set_rng_state(self.tensors["torch"].to("cpu", torch.uint8))
        if "cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["cuda"].to("cpu", torch.uint8))

    def state_dict(self) -> dict[str, Any]:
        """Both parts as one mapping, for a checkpoint."""
        return {"tensors": dict(self.tensors), "plain": dict(self.plain)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RngState:
        """The inverse of `state_dict`."""
        return cls(tensors=state["tensors"], plain=state["plain"])


@contextmanager
def preserved() -> Iterator[None]:
    """Give all global generators their states back when the block ends, whatever it drew."""
    before = RngState.capture()
    try:
        yield
    finally:
        before.restore()
