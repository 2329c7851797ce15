"""Learning rates as multipliers of the base rate: a linear warm-up, then a cosine, a line or nothing."""

from __future__ import annotations

import math

from apt_vit.config import OptimConfig

CYCLES = 0.5
"""Periods of the cosine between the warm-up's end and the last update."""


def rate(update: int, cfg: OptimConfig) -> float:
    """Multiplier of the base rate at an update.

    Beyond the last update nothing is held: the cosine rises again, as the original's does.

    Args:
        update: k, from 0; which of an update's two neighbours it is, `apt_vit.steps.Updates` decides.
        cfg: the decay, its warm-up w and its length T in updates.
    """
    k, w, T = update, cfg.warmup_steps, cfg.num_steps
    if k < w and cfg.decay_type != "constant":
        return k / max(1, w)
    match cfg.decay_type:
        case "cosine":
            progress = (k - w) / max(1, T - w)
            return max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * CYCLES * progress)))
        case "linear":
            return max(0.0, (T - k) / max(1, T - w))
        case _:  # constant, warmup_constant
            return 1.0
