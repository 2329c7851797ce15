"""Which tokens a clip layer keeps.

# B batch, N tokens with the classification token first
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apt_vit.config import METHODS, PruneConfig
from prunelab.doors import check_one_of, check_within
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Turns scores of tokens into those that stay; a greater score is rather pruned.

    What the score is, the method says: the agent's prune probability (``agent``), minus what the
    classification token sees of a token in the block before (``cls-attention``), or `random_score`.
    """

    method: str = "agent"
    """One of `apt_vit.config.METHODS`; ``plain`` prunes nothing."""
    threshold: float = 0.5
    """Tokens whose probability is greater, as a float32 number, are pruned, where keep_rate is None."""
    keep_rate: float | None = None
    """Share of the remaining tokens, the classification token among them, that stay; None: the threshold
    decides."""
    seed: int = 0
    """Of method random, where no generator is given."""

    def __post_init__(self) -> None:
        check_one_of("prune method", self.method, METHODS)
        check_within("threshold", self.threshold, 0, 1)
        if self.keep_rate is not None:
            check_within("keep_rate", self.keep_rate, 0, 1)
        elif self.method in ("random", "cls-attention"):
            raise UserError(f"prune method {self.method} and no keep_rate, expected a share such as 0.7")

    @classmethod
    def of(cls, cfg: PruneConfig) -> Rule:
        """The rule that a configuration describes."""
        return cls(method=cfg.method, threshold=cfg.threshold, keep_rate=cfg.keep_rate)

    @property
    def prunes(self) -> bool:
        """Whether it can prune anything."""
        return self.method != "plain"

    @property
    def needs_agents(self) -> bool:
        """Whether the score is the agents'."""
        return self.method == "agent"

    @property
    def limit(self) -> float:
        """The threshold as the float32 number that probabilities are compared with."""
        return float(np.float32(self.threshold))

    def count(self, tokens: int) -> int:
        """How many of so many remaining tokens stay under the keep rate, at least the classification token.

        Raises:
            ValueError: there is no keep rate.
        """
        if self.keep_rate is None:
            raise ValueError("a rule without keep_rate keeps a number that depends on the picture")
        return max(int(tokens * self.keep_rate + 0.5), 1)

    def prune(self, score: Tensor, alive: Tensor) -> Tensor:
        """Tokens that are pruned now, (B, N) bool; never the first one.

        Under the threshold these may be tokens that were pruned before, which the original prunes again.

        Args:
            score: (B, N), greater ones go first.
            alive: (B, N) bool, tokens that remain.
        """
        if not self.prunes:
            return torch.zeros_like(alive)
        if self.keep_rate is None:
            pruned = score > self.limit
            pruned[:, 0] = False
            return pruned
        first = torch.zeros_like(alive)
        first[:, 0] = True
        ordered = score.masked_fill(~alive, torch.inf).masked_fill(first, -torch.inf)
        # Stable: of equal scores the earlier token is kept.
        order = ordered.argsort(dim=1, stable=True)
        places = torch.arange(score.shape[1], device=score.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, places)
        kept = (alive.sum(1, dtype=torch.float64) * self.keep_rate + 0.5).floor().clamp(min=1)
        return alive & (rank >= kept[:, None])

    def keep(self, score: Tensor, alive: Tensor) -> Tensor:
        """Tokens that remain behind this layer, (B, N) bool; the arguments are those of `prune`."""
        return alive & ~self.prune(score, alive)

    def random_score(
        self,
        batch: int,
        tokens: int,
        layer: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Scores of method random for the tokens of unpruned pictures, (B, N).

        Args:
            batch: pictures B.
            tokens: tokens N of an unpruned picture; dropping ways pick those that remain.
            layer: the clip layer; without a generator it decides the scores, together with the seed.
            generator: draws them, on the CPU.
            device: where they go.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + layer)
        return torch.rand((batch, tokens), generator=generator).to(device)


def likeliest(prune_probability: Tensor) -> Tensor:
    """The patch token with the greatest prune probability (B, N), the first one of equals: (B,)."""
    return prune_probability[:, 1:].argmax(dim=1) + 1
