"""Which token a single action removes: the likeliest one, or one at random.

# B pictures, N tokens, the classification token (place 0) among them
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from apt_vit.config import Config
from apt_vit.tokens.rules import likeliest
from prunelab.errors import UserError
from prunelab.seed import derive

Source: TypeAlias = random.Random | torch.Generator
"""Where random actions come from: Python's numbers for the original's, a generator on the CPU for ours."""

LIKELIEST = 0
"""Stands among drawn places for the likeliest token; no action removes the token at place 0."""


def choose(prune_prob: Tensor, cfg: Config, rng: Source) -> Tensor:
    """The token that each picture's single action removes.

    What is drawn does not depend on the probabilities, so nothing is read back from an accelerator.

    Args:
        prune_prob: (B, N) float32. The likeliest token is the first of the greatest probabilities: at 1 many
            tokens tie that differ in their logits.
        cfg: share of the likeliest token, and which places are tried at random.
        rng: `Draws.begin` gives the one that fits the configuration.

    Returns:
        (B,) places from 1.

    Raises:
        UserError: the batch has no place to try (`within_batch`).
    """
    batch, tokens = prune_prob.shape
    if isinstance(rng, random.Random):
        drawn = within_batch(batch, tokens, cfg.prune.greedy_share, rng)
    else:
        drawn = anywhere(batch, tokens, cfg.prune.greedy_share, rng)
    drawn = drawn.to(prune_prob.device, non_blocking=True)
    return torch.where(drawn == LIKELIEST, likeliest(prune_prob), drawn)


def within_batch(batch: int, tokens: int, greedy_share: float, rng: random.Random) -> Tensor:
    """The original's draws, picture by picture: places 1 to B - 1, whatever N is.

    Returns:
        (B,) int64 places, `LIKELIEST` for the likeliest token.

    Raises:
        UserError: a place is to be tried where B is 1, or one that the sequence does not have.
    """
    drawn = []
    for _ in range(batch):
        if rng.random() > 1 - greedy_share:
            drawn.append(LIKELIEST)
            continue
        if batch < 2:
            raise UserError(
                "a micro-batch of 1 picture has no token to try at random (explore_within_batch tries tokens "
                "1 to B - 1); expected at least 2 pictures, the last ones of an epoch too"
            )
        drawn.append(rng.randint(1, batch - 1))
        if drawn[-1] >= tokens:
            raise UserError(
                f"a micro-batch of {batch} pictures drew token {drawn[-1]} of sequences of {tokens} "
                "(explore_within_batch tries tokens 1 to B - 1); expected a micro-batch of at most "
                f"{tokens} pictures"
            )
    return torch.tensor(drawn)


def anywhere(batch: int, tokens: int, greedy_share: float, rng: torch.Generator) -> Tensor:
    """Draws over all patch tokens, places 1 to N - 1.

    Returns:
        (B,) int64 places, `LIKELIEST` for the likeliest token.
    """
    greedy = torch.rand(batch, generator=rng, dtype=torch.float64) < greedy_share
    places = torch.randint(1, tokens, (batch,), generator=rng)
    return places.masked_fill(greedy, LIKELIEST)


class Draws:
    """The random numbers of training steps, apart from dropout; they go into checkpoints.

    The original's actions come from one row of Python's numbers that all processes share; ours from numbers
    of their own for each micro-batch and process, so that only a count is to be remembered.

    Args:
        cfg: seed and quirks.
        rank: of this process.
    """

    def __init__(self, cfg: Config, rank: int = 0) -> None:
        self._seed = cfg.run.seed
        self._python = cfg.quirks.explore_within_batch
        self._rank = 0 if cfg.quirks.same_exploration else rank
        self._row = random.Random(self._seed) if self._python and cfg.quirks.same_exploration else None
        self.count = 0

    def begin(self) -> Source:
        """Count a micro-batch and give its source of actions, for all its layers in their order."""
        self.count += 1
        if self._row is not None:
            return self._row
        seed = derive(self._seed, "actions", self._rank, self.count)
        return random.Random(seed) if self._python else torch.Generator().manual_seed(seed)

    def generator(self) -> torch.Generator:
        """Numbers for the random pruning of the micro-batch that was begun last."""
        return torch.Generator().manual_seed(derive(self._seed, "pruning", self._rank, self.count))

    def state_dict(self) -> dict[str, Any]:
        """Micro-batches so far, and the state of the row that processes share."""
        if self._row is None:
            return {"count": self.count}
        version, words, gauss = self._row.getstate()
        return {"count": self.count, "version": version, "words": torch.tensor(words), "gauss": gauss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same configuration."""
        if (self._row is not None) != ("words" in state):
            raise ValueError("it was written with other settings of explore_within_batch or same_exploration")
        self.count = int(state["count"])
        if self._row is not None:
            self._row.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))
