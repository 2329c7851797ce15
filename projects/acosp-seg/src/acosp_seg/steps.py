"""One step of training: loss, optimiser, schedule.

| symbol | meaning | equation | shape |
|---|---|---|---|
| x | pictures, normalised | | (B, 3, H, W) |
| y | labels, some of them void | | (B, H, W) |
| L | main loss: mean cross-entropy of the logits over pixels that are not void | | () |
| A | the same of the auxiliary head (PSPNet's alone; 0 for others) | | () |
| w | weight of the auxiliary loss, ``aux_weight`` | | () |
| J | what is minimised | L + w A | () |
| n | iterations of the whole run that are done | | |
| N | iterations of the whole run | | |
| r | learning rate of the trunk after n iterations | base (1 - n / N)^power; base (1 + cos(pi n / N)) / 2 | |

The masks' logits are parameters like all others: no loss of their own, and weight decay. What presses
channels out is their number, which is fixed, and the temperature (`acosp.soft_topk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from acosp_seg.config import OptimConfig
from acosp_seg.model.network import Network
from prunelab.optim import cosine, guarded_step, poly


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step found, before it changed the weights; tensors without graph, of this rank alone."""

    prediction: Tensor
    """Most likely classes (B, h, w), or (B,) of a classifier."""
    target: Tensor
    """The labels that the main loss compared them with; the same shape."""
    main: Tensor
    """L, ()."""
    aux: Tensor
    """A, ()."""
    loss: Tensor
    """J, ()."""


def group_factors(model: Network, optim: OptimConfig) -> list[float]:
    """How much faster than the trunk each group of the optimiser learns, in the groups' order."""
    trunk, new = model.groups()
    # SegNet and ResNet-18 have no head that is new: all of their blocks learn alike.
    factor = optim.head_factor if model.cfg.arch == "psp" else 1.0
    return [1.0] * len(trunk) + [factor] * len(new)


def make_optimizer(model: Network, optim: OptimConfig) -> Optimizer:
    """One group of parameters for each top-level block, in the order of the original's files.

    Within a group parameters come in order of registration, mask logits among them.
    """
    trunk, new = model.groups()
    factors = group_factors(model, optim)
    groups = [
        {"params": list(model.get_submodule(name).parameters()), "lr": optim.base_lr * factor}
        for name, factor in zip((*trunk, *new), factors, strict=True)
    ]
    decay = optim.weight_decay
    if optim.optimiser == "adam":
        return Adam(groups, lr=optim.base_lr, weight_decay=decay)
    return SGD(groups, lr=optim.base_lr, momentum=optim.momentum, weight_decay=decay)


def learning_rate(optim: OptimConfig, done: int, per_epoch: int) -> float:
    """The rate r of the next iteration.

    Args:
        optim: schedule and length of the run.
        done: iterations n that are done, of all epochs.
        per_epoch: iterations of an epoch.
    """
    if optim.lr_schedule == "cosine_epoch":
        return cosine(done // per_epoch, base=optim.base_lr, minimum=0.0, total=optim.epochs)
    total = optim.epochs * per_epoch  # N
    if optim.lr_schedule == "cosine":
        return cosine(done, base=optim.base_lr, minimum=0.0, total=total)
    return poly(done, base=optim.base_lr, total=total, power=optim.power)


def set_rates(optimizer: Optimizer, rate: float, factors: Sequence[float]) -> None:
    """Give each group its learning rate."""
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        group["lr"] = rate * factor


def train_step(
    model: Network,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    aux_weight: float,
    amp: str = "off",
) -> Outcome:
    """One update with the loss J, at the rates that the optimiser holds.

    Args:
        model: in training mode.
        optimizer: from `make_optimizer`.
        x: this rank's pictures, on the model's device.
        y: their labels.
        aux_weight: w.
        amp: ``bf16`` runs the network in mixed precision.

    Raises:
        UserError: a gradient is not finite (nothing is changed then).
    """
    optimizer.zero_grad(set_to_none=True)  # pruned away logits must have no gradient at all, not one of zeros
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp == "bf16"):
        prediction, main, aux = model.losses(x, y)
    loss = main + aux_weight * aux
    loss.backward()
    guarded_step(optimizer, [p for group in optimizer.param_groups for p in group["params"]])
    return Outcome(
        prediction=prediction,
        target=at_size(y, prediction),
        main=main.detach(),
        aux=aux.detach(),
        loss=loss.detach(),
    )


def at_size(y: Tensor, prediction: Tensor) -> Tensor:
    """The labels where a prediction, smaller by a whole factor (``zoom_factor`` < 8), has its pixels."""
    if y.shape == prediction.shape:
        return y
    step = (y.shape[1] - 1) // (prediction.shape[1] - 1)
    return y[:, ::step, ::step]
