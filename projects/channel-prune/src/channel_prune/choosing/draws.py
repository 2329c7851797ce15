"""The random numbers of the choice, in the order in which the original draws them, so that all can be given.

Per layer: two numbers (row, column) for each crop of each mini-batch, then the rows that are used, then the
rows that the selection looks at, then the start of the selection.

# N rows, C input channels
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Draws(Protocol):
    """Where the random numbers of the choice come from."""

    def begin(self, layer: int) -> None:
        """What follows belongs to this layer, counted from 0."""
        ...

    def position(self, size: int) -> int:
        """A number from 0 to ``size`` - 1."""
        ...

    def choice(self, rows: int, count: int) -> np.ndarray:
        """``count`` different ones of ``rows`` rows, in random order (count,)."""
        ...

    def start(self, channels: int) -> np.ndarray:
        """Where the selection starts, uniform in [0, 1): (C,)."""
        ...


class SeededDraws:
    """NumPy's generator, begun anew for each layer: a choice that is resumed draws what it would have drawn.

    Args:
        seed: of all layers together.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.begin(0)

    def begin(self, layer: int) -> None:
        """See `Draws`."""
        self._random = np.random.default_rng((self._seed, layer))

    def position(self, size: int) -> int:
        """See `Draws`."""
        return int(self._random.integers(size))

    def choice(self, rows: int, count: int) -> np.ndarray:
        """See `Draws`."""
        return self._random.choice(rows, count, replace=False)

    def start(self, channels: int) -> np.ndarray:
        """See `Draws`."""
        return self._random.random(channels)
