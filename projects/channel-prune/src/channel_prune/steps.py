"""One step of training: loss, masks, optimiser.

| symbol | meaning | equation | shape |
|---|---|---|---|
| x | pictures, normalised | | (B, 3, H, W) |
| y | classes | | (B,) |
| s | logits of the network | | (B, K) |
| t | logits of the teacher, the full network, in evaluation mode | | (B, K) |
| w | parameters that decay; of each, how fast | loss_w_dcy, SSD's scales a tenth of it | |
| R | decay | lambda/2 sum ||w||^2 | () |
| D | distillation | loss_w_dst mean CE(softmax(t/T), s/T) | () |
| L | what is minimised | mean CE(y, s) + R + D; SSD: its own loss + R | () |
| M | masks: 1 where a convolution's input channel is kept | | (1, C, 1, 1) |
| a | momentum | mu a + M dL/dw, then w - lr a | |

The gradient of R is not made by backward but added by the optimiser (its ``weight_decay``); to mask it needs
no second product, since weights under a mask are exactly 0 and so is their decay. torch's SGD without
dampening is TensorFlow's momentum: its first buffer is the first gradient, as 0 mu + g is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, Optimizer

from channel_prune.choosing.masks import Masks
from channel_prune.config import Config, OptimConfig
from channel_prune.detect.loss import detection_loss
from channel_prune.model.decay import decay_groups
from prunelab.optim import GuardedStep, guarded_step

Distillation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From pictures x and logits s to the term D, ()."""
MANY_CLASSES = 100
"""From as many classes on, the five most likely ones count too."""


def make_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """SGD with momentum, or Adam; parameters in groups by how fast they decay.

    Adam's decay is a part of the gradient as SGD's is, so a weight under a mask stays 0 with it, too.
    """
    groups = decay_groups(model, optim)
    if optim.optimizer == "adam":
        return Adam(groups, lr=optim.lrn_rate_init)
    return SGD(groups, lr=optim.lrn_rate_init, momentum=optim.momentum)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give all groups the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def decay(optimizer: Optimizer) -> Tensor:
    """R at the present weights, ()."""
    terms = [
        group["weight_decay"] / 2 * get_total_norm(group["params"]).square()
        for group in optimizer.param_groups
        if group["weight_decay"] and group["params"]
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def update(optimizer: Optimizer, masks: Masks | None) -> GuardedStep:
    """Average the gradients over the processes, mask them, and make the optimiser's step.

    Args:
        optimizer: holds all parameters; they have gradients.
        masks: M; None: a full network.

    Raises:
        UserError: a gradient is not finite; nothing is changed then.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    clip = None if masks is None else lambda _: masks.mask_gradients()
    return guarded_step(optimizer, params, clip=clip)


def classify_step(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    masks: Masks | None = None,
    distillation: Distillation | None = None,
    amp: str = "off",
) -> dict[str, Tensor]:
    """One update of a classifier with the loss L, at the rate that the optimiser holds.

    Args:
        model: in training mode.
        optimizer: from `make_optimizer`.
        x: this rank's pictures, on the model's device.
        y: their classes.
        masks: of a pruned network.
        distillation: gives D from x and s.
        amp: ``bf16`` runs the network in mixed precision.

    Returns:
        ``loss`` (L at the weights before the update) and the shares of right answers, of this rank.

    Raises:
        UserError: a gradient is not finite (nothing is changed then).
    """
    optimizer.zero_grad(set_to_none=True)
    R = decay(optimizer)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp == "bf16"):
        s = model(x)
        data = classify_loss(x, y, s, distillation)
    data.backward()
    update(optimizer, masks)
    right = {name: count / len(y) for name, count in right_answers(s.detach(), y).items()}
    return {"loss": data.detach() + R, **right}


def detect_step(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    targets: Mapping[str, Tensor],
    number: int,
    cfg: Config,
    *,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """One update of a detector; see `classify_step`.

    Args:
        model: in training mode.
        optimizer: from `make_optimizer`.
        x: this rank's pictures, on the model's device.
        targets: their boxes and labels (`channel_prune.detect.loss.detection_loss`).
        number: updates that were made before, by which the classification loss warms up.
        cfg: the run's configuration.
        masks: of a pruned network.

    Returns:
        ``loss``, ``ce``, ``loc`` and ``accuracy`` of the anchors, of this rank.

    Raises:
        UserError: a gradient is not finite (nothing is changed then).
    """
    optimizer.zero_grad(set_to_none=True)
    R = decay(optimizer)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16"):
        outputs = model(x)
    terms = detection_loss(outputs, targets, number, cfg)
    terms["loss"].backward()
    update(optimizer, masks)
    return {**terms, "loss": terms["loss"].detach() + R}


def classify_loss(x: Tensor, y: Tensor, s: Tensor, distillation: Distillation | None) -> Tensor:
    """L without R: mean CE(y, s) + D."""
    loss = F.cross_entropy(s, y)
    return loss if distillation is None else loss + distillation(x, s)


def right_answers(s: Tensor, y: Tensor) -> dict[str, Tensor]:
    """How many pictures have their class among the k most likely ones, for the figures of `tops`, each ()."""
    names = tops(s.shape[1])
    best = s.topk(max(names.values()), dim=1).indices  # (B, k), the most likely first
    right = best == y[:, None]
    return {name: right[:, :k].any(dim=1).sum() for name, k in names.items()}


def tops(classes: int) -> dict[str, int]:
    """The figures of a classifier and their k: ``accuracy`` of few classes, two of many as in ILSVRC-12."""
    return {"accuracy": 1} if classes < MANY_CLASSES else {"acc_top1": 1, "acc_top5": 5}
