"""Learning rates of the paper, as functions of the micro-batch, and the original's record of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from expansionnet.config import OptimConfig
from prunelab.errors import UserError
from prunelab.optim import Schedule

ANNEAL = 0.8
"""Factor of ``annealing``, whatever anneal_coeff says."""


def rate(it: int, cfg: OptimConfig, batches_per_epoch: int) -> float:
    """Learning rate of micro-batch ``it``, from 0.

    ``custom_warmup_anneal`` rises as a hyperbola (a hundredth of lr is reached a hundred micro-batches before
    the end of the warm-up) and holds min_lr only after it; ``annealing`` rises linearly from 0 and has no
    least rate. Both fall by a factor every ``anneal_every_epoch`` epochs, in the warm-up too.

    Args:
        it: number of the micro-batch, over all epochs.
        cfg: which schedule, and its numbers.
        batches_per_epoch: micro-batches of an epoch.
    """
    falls = it // (batches_per_epoch * cfg.anneal_every_epoch)
    match cfg.sched_type:
        case "custom_warmup_anneal":
            least = cfg.min_lr if it >= cfg.warmup_iters else 0.0
            return max(least, cfg.lr / max(cfg.warmup_iters - it, 1) * cfg.anneal_coeff**falls)
        case "annealing":
            warm = min(it, cfg.warmup_iters) / cfg.warmup_iters if cfg.warmup_iters else 1.0
            return warm * cfg.lr * ANNEAL**falls
        case other:
            raise UserError(f"sched_type is {other!r}, which no schedule is built for")


def make_schedule(optimizer: Optimizer, cfg: OptimConfig, batches_per_epoch: int) -> Schedule:
    """A schedule that is stepped once before each micro-batch and then holds that micro-batch's rate."""
    return Schedule(optimizer, lambda count: rate(count - 1, cfg, batches_per_epoch))


def from_original(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of our schedule, from that of the original's (torch's LambdaLR after the same micro-batches).

    Raises:
        UserError: it is not the state of one.
    """
    done = state.get("last_epoch")
    if not isinstance(done, int) or done < 0:
        raise UserError(f"scheduler state has last_epoch {done!r}, expected the micro-batches done so far")
    return {"count": done, "lr": None}


def to_original(schedule: Schedule) -> dict[str, Any]:
    """The original's scheduler state after the same micro-batches; it holds the next one's rate."""
    count = schedule.count
    return {
        "base_lrs": [1.0],
        "last_epoch": count,
        "_step_count": count + 1,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [schedule.rate(count + 1)],
        "lr_lambdas": [None],
    }
