"""How to decode, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prunelab.errors import UserError

Ranking = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """What the summed log-probability of a finished beam is divided by.

    ``""`` divides by 1; ``wu_a`` by ((5 + length) / 6)^a (Wu et al. 2016, eq. 14); ``avg_a`` by the length,
    where the number ``a`` must be given and has no effect.
    """

    kind: Literal["", "wu", "avg"] = ""
    alpha: float = 0.0

    @classmethod
    def parse(cls, text: str) -> LengthPenalty:
        """Read ``""``, ``wu_0.9`` or ``avg_0``.

        Raises:
            UserError: anything else.
        """
        if not text:
            return cls()
        kind, _, number = text.partition("_")
        try:
            alpha = float(number)
        except ValueError:
            alpha = math.nan
        match kind:
            case "wu" | "avg" if math.isfinite(alpha):
                return cls(kind=kind, alpha=alpha)
            case _:
                raise UserError(
                    f"length_penalty {text!r} is unknown: expected '', 'wu_A' or 'avg_A' with a number A"
                )

    def divisor(self, length: int) -> float:
        """The number that the sum of a caption of ``length`` tokens, eos included, is divided by."""
        match self.kind:
            case "":
                return 1.0
            case "wu":
                return (5 + length) ** self.alpha / 6**self.alpha
            case "avg":
                return float(length)


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Which search, and its knobs. The defaults decode greedily."""

    max_length: int = 18
    """Most generated tokens L, eos included and bos not."""
    bos: int = 2
    """Id fed at the start."""
    eos: int = 3
    """Id that ends a caption."""
    pad: int = 0
    """Id that fills up the result."""
    beam_size: int = 1
    """Beams K kept for each image; 1 is greedy."""
    num_samples: int = 0
    """Random captions for each image; 0 searches instead."""
    temperature: float = 1.0
    """Divides log-probabilities: before a sample is drawn, or (from the second token on) before beams are
    ranked."""
    constraint: bool = False
    """Forbid a token that repeats the one before it."""
    forbidden: tuple[int, ...] = ()
    """Ids that are never chosen, such as that of an unknown word."""
    group_size: int = 1
    """Groups of a diverse beam search; must divide ``beam_size``."""
    diversity_lambda: float = 0.5
    """What a token loses for each beam of an earlier group that holds it at the same place."""
    length_penalty: str = ""
    """``""``, ``wu_A`` or ``avg_A``, see `LengthPenalty`; for ``ranking="sum"``."""
    ranking: Ranking = "sum"
    """``sum``: finished beams leave the beam and are ranked by penalised sum. ``mean``: they stay in it
    with their sum until all K are finished, and are then ranked by sum / length, where the length counts
    bos too."""
    early_stop: bool = True
    """Stop an image as soon as no further step can change its result."""
    record_after_end: bool = False
    """Greedy and sampling: keep stepping rows that have ended, fed with their own choices, and record those
    log-probabilities until the whole batch has ended, as the original captioning system does."""
    restore_ended: bool = False
    """Beam search with ``sum``: a beam that has ended stays in the beam with 1000 taken off its sum and may
    be stored again, as in the original captioning system. Without it, ended beams are stored once."""
    gradients: bool = False
    """Let gradients flow from the log-probabilities of samples and beams into the model."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.max_length < 1:
            raise UserError(f"max_length {self.max_length} is too small: expected at least 1")
        if self.beam_size < 1 and self.num_samples < 1:
            raise UserError(f"beam_size {self.beam_size} is too small: expected at least 1")
        if self.num_samples < 0:
            raise UserError(f"num_samples {self.num_samples} is negative: expected 0 or more")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature {self.temperature} is not usable: expected a number above 0")
        if self.ranking not in ("sum", "mean"):
            raise UserError(f"ranking {self.ranking!r} is unknown: expected 'sum' or 'mean'")
        if self.group_size < 1:
            raise UserError(f"group_size {self.group_size} is too small: expected at least 1")
        if self.num_samples < 1 and self.beam_size % self.group_size:
            raise UserError(
                f"group_size {self.group_size} does not divide beam_size {self.beam_size}: expected a divisor"
            )
        if not math.isfinite(self.diversity_lambda):
            raise UserError(
                f"diversity_lambda {self.diversity_lambda} is not usable: expected a finite number"
            )
        LengthPenalty.parse(self.length_penalty)
        if self.ranking == "mean" and (self.length_penalty or self.group_size > 1):
            raise UserError("ranking 'mean' goes with no length_penalty and group_size 1: expected neither")

    @property
    def penalty(self) -> LengthPenalty:
        """The parsed length penalty."""
        return LengthPenalty.parse(self.length_penalty)
