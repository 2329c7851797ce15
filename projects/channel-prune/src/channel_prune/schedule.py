"""How long a training is, and its learning rate at every step.

| symbol | meaning | formula |
|---|---|---|
| W | processes | |
| B | pictures of a step, all processes together | batch_size W |
| N | training pictures | nb_smpls_train |
| E | the share of the paper's epochs that is trained | nb_epochs_rat |
| r0 | first learning rate | lrn_rate_init B / batch_size_norm, or lrn_rate_init |
| n | step, from 0 | |

Fine-tuning a pruned network uses the schedule of training from scratch once more, from its first step and
with its full first rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from channel_prune.config import Config
from prunelab.errors import UserError
from prunelab.optim import piecewise, staircase


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """A schedule that is counted in epochs, at E = 1."""

    length: float
    """Epochs in all."""
    bounds: tuple[float, ...] = ()
    """Epochs after which the rate falls."""
    factors: tuple[float, ...] = (1.0,)
    """Of r0, from bound to bound."""


SCHEDULES = {
    "cifar": Epochs(length=250, bounds=(100, 150, 200), factors=(1.0, 0.1, 0.01, 0.001)),
    "ilsvrc": Epochs(length=100, bounds=(30, 60, 80, 90), factors=(1.0, 0.1, 0.01, 1e-3, 1e-4)),
    "mobilenet_v2": Epochs(length=412),
    "constant": Epochs(length=0),
}
"""Those that epochs count, if nb_iters does not; the one of SSD counts steps."""
STAIR, STAIR_RATE = 2.5, 0.98**2.5
"""Epochs that a rate of MobileNet-v2 lasts, and its fall after them."""


def iterations(cfg: Config, world_size: int = 1) -> int:
    """Steps of a whole training.

    Raises:
        UserError: there are none: fewer pictures than a batch, or too small a share of the epochs.
    """
    optim, data = cfg.optim, cfg.data
    if optim.nb_iters is not None:
        return optim.nb_iters
    if optim.schedule == "ssd":
        return cfg.detect.nb_iters_train
    batch = data.batch_size * world_size  # B
    epochs = SCHEDULES[optim.schedule].length
    count = int(data.nb_smpls_train * epochs * optim.nb_epochs_rat / batch)
    if count < 1:
        raise UserError(
            f"nb_epochs_rat is {optim.nb_epochs_rat:g}: {data.nb_smpls_train} pictures in batches of {batch} "
            f"make no step in {epochs * optim.nb_epochs_rat:g} epochs; expected a larger share"
        )
    return count


def learning_rate(cfg: Config, step: int, world_size: int = 1) -> float:
    """The rate of a step.

    Args:
        cfg: names the schedule and its numbers.
        step: n; the first is 0.
        world_size: W.
    """
    optim, data, detect = cfg.optim, cfg.data, cfg.detect
    if optim.schedule == "ssd":  # counted in steps, whatever the number of processes
        rates = [optim.lrn_rate_init * rate for rate in detect.lrn_rate_dcy_rates]
        return max(piecewise(step, bounds=detect.lrn_rate_dcy_bnds, values=rates), detect.lrn_rate_min)
    batch = data.batch_size * world_size  # B
    base = optim.lrn_rate_init  # r0
    if optim.batch_size_norm is not None:
        base *= batch / optim.batch_size_norm
    if optim.schedule == "mobilenet_v2":
        # int() as the original cuts; a training of less than a step a stair falls at every step.
        every = max(1, int(data.nb_smpls_train * (STAIR * optim.nb_epochs_rat) / batch))
        return staircase(step, base=base, rate=STAIR_RATE, every=every)
    chosen = SCHEDULES[optim.schedule]
    each = data.nb_smpls_train / batch
    bounds = [int(each * (epoch * optim.nb_epochs_rat)) for epoch in chosen.bounds]
    return piecewise(step, bounds=bounds, values=[base * factor for factor in chosen.factors])
