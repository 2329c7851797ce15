"""One step of training: losses, optimiser, schedule.

| symbol | meaning | equation | shape |
|---|---|---|---|
| y | token ids of captions, bos to eos, padded with 0 (``seqs``) | | (N, T) |
| m | 1 on real tokens, bos and eos too (``masks``) | | (N, T) |
| P | columns that the model predicts: T - 1, or T with the original's wasted last one | | |
| L | columns that count, min(T - 1, P) | | |
| V | size of the vocabulary | | |
| log p | log-probability of each next token (``logprobs``) | | (N, P, V) |
| e | label smoothing | | |
| J | cross-entropy | -sum(m[1:] log p[y[1:]]) / sum(m[1:]) | () |
| J_e | smoothed | sum(m[1:] KL(q ‖ p)) / sum(m[1:]); q = 1 - e on the target, e / (V - 1) elsewhere | () |
| r, b | reward of a sampled caption, and what it is compared with (`smp_caption.learning.scst`) | | (B, n) |
| R | self-critical | -sum(m (r - b) log p[sample]) / sum(m), m on the sample's tokens | () |
| s | annealed sparsity loss of supermasks (`prunelab.mask`) | w (1 - a) abs(target - sparsity) | () |
| c | updates done before this one, from 0 | | |
| M | updates of the whole run | | |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from prunelab import dist
from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX, in_scope, parse_scope
from prunelab.mask.sparsity import SparsityLoss
from prunelab.optim import Schedule, cosine, guarded_step, noam, step
from smp_caption.config import Config, OptimConfig, PruneConfig
from smp_caption.learning.scst import SelfCritical
from smp_caption.model import Inputs, Network

MASK_EPSILON = 1e-2
"""Epsilon of Adam for mask logits."""
NOAM_BETAS, NOAM_EPSILON = (0.9, 0.98), 1e-9
FUSED = ("cpu", "cuda")
"""Kinds of devices for which torch has Adam in one kernel."""
MASK_GROUP = "pruning_mask"
"""Key of an optimiser group that holds masks and that the schedule leaves alone."""


class Pruner(Protocol):
    """What a step needs of a pruner."""

    def drawing(self) -> AbstractContextManager[None]:
        """Within it the step's masks are drawn."""
        ...

    def loss(self, step: int) -> SparsityLoss | None:
        """The sparsity loss of the step that follows `step` finished ones, for methods that have one."""
        ...

    def updated(self, step: int) -> bool:
        """Prune after update number `step`, from 1, if it is time; whether masks changed."""
        ...


def drawing(pruner: Pruner | None) -> AbstractContextManager[None]:
    """Within it a step's masks are drawn; nothing happens for a dense model, which has no pruner."""
    return nullcontext() if pruner is None else pruner.drawing()


def caption_loss(
    logprobs: Tensor, seqs: Tensor, masks: Tensor, *, smoothing: float = 0.0, cut_prediction: bool = True
) -> Tensor:
    """J, or J_e with smoothing: the mean over all real tokens of the batch but bos.

    Args:
        logprobs: (N, P, V) log-probabilities.
        seqs: (N, T) or (B, K, T) token ids.
        masks: ones and zeros of the same shape.
        smoothing: e in [0, 1).
        cut_prediction: see `token_loss`.

    Raises:
        UserError: see `token_loss`.
    """
    target, mask = seqs.flatten(0, -2)[:, 1:], masks.flatten(0, -2)[:, 1:]
    return token_loss(logprobs, target, mask, smoothing=smoothing, cut_prediction=cut_prediction)


def token_loss(
    logprobs: Tensor, target: Tensor, mask: Tensor, *, smoothing: float = 0.0, cut_prediction: bool = True
) -> Tensor:
    """The masked mean of -log p, or of KL(q ‖ p) with smoothing, over the L columns that both sides have.

    In several processes each divides by the mean number of tokens of a process, so that the mean of their
    gradients is the gradient of the whole batch's mean. Collective: all ranks call it.

    Args:
        logprobs: (N, P, V) log-probabilities.
        target: (N, T - 1) ids that follow.
        mask: (N, T - 1) ones and zeros.
        smoothing: e in [0, 1).
        cut_prediction: with smoothing, leave out predictions that have no target. The original does not, and
            stops with an error where there are some.

    Raises:
        UserError: smoothing under the original's rule with more predictions than targets.
    """
    if smoothing > 0 and not cut_prediction and logprobs.shape[1] > target.shape[1]:
        raise UserError(
            f"label_smoothing {smoothing}: the original fails on {logprobs.shape[1]} predictions for "
            f"{target.shape[1]} targets; use preset fixed or quirks.last_column_fed false"
        )
    length = min(logprobs.shape[1], target.shape[1])
    logprobs, target = logprobs[:, :length], target[:, :length]
    mask = mask[:, :length].to(logprobs.dtype)
    picked = logprobs.gather(2, target.unsqueeze(2)).squeeze(2)  # (N, L)
    each = _smoothed(logprobs, picked, smoothing) if smoothing > 0 else -picked
    return (each * mask).sum() / dist.mean_over_ranks(mask.sum())


def _smoothed(logprobs: Tensor, picked: Tensor, e: float) -> Tensor:
    """KL(q ‖ p) of each token, (N, L), without building q."""
    v = logprobs.shape[-1]
    other = e / (v - 1)
    negative_entropy = (1 - e) * math.log(1 - e) + e * math.log(other)
    return negative_entropy - (1 - e - other) * picked - other * logprobs.sum(-1)


def make_optimizer(model: nn.Module, optim: OptimConfig, prune: PruneConfig) -> Optimizer:
    """The optimiser: group 0 holds all parameters but masks, group 1 (supermask only) the trained masks.

    Parameters come in order of registration, shared ones once, so that state files are the original's.
    """
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [{"params": [p for name, p in named if not name.endswith(MASK_SUFFIX)]}]
    if prune.prune_type == "supermask":
        frozen = parse_scope(prune.prune_mask_freeze_scope)
        active = [p for name, p in named if name.endswith(MASK_SUFFIX) and not in_scope(name, frozen)]
        own = {"lr": prune.prune_supermask_lr, "weight_decay": 0.0, "eps": MASK_EPSILON, MASK_GROUP: True}
        groups.append({"params": active, **own})
    return _optimizer(groups, optim)


def _optimizer(groups: list[dict[str, Any]], optim: OptimConfig) -> Optimizer:
    # One pass over weight, gradient and both moments instead of ten; the same numbers but for rounding.
    fused = True if all(p.device.type in FUSED for group in groups for p in group["params"]) else None
    if optim.lr_scheduler == "noam":
        return Adam(groups, lr=0.0, betas=NOAM_BETAS, eps=NOAM_EPSILON, fused=fused)
    rate, decay, momentum = optim.learning_rate, optim.weight_decay, optim.optim_alpha
    match optim.optim:
        case "adam":
            betas = (optim.optim_alpha, optim.optim_beta)
            return Adam(
                groups, lr=rate, betas=betas, eps=optim.optim_epsilon, weight_decay=decay, fused=fused
            )
        case "rmsprop":
            return RMSprop(groups, lr=rate, alpha=momentum, eps=optim.optim_epsilon, weight_decay=decay)
        case "adagrad":
            return Adagrad(groups, lr=rate, weight_decay=decay)
        case "sgd":
            return SGD(groups, lr=rate, weight_decay=decay)
        case "sgdm":
            return SGD(groups, lr=rate, momentum=momentum, weight_decay=decay)
        case "sgdmom":
            return SGD(groups, lr=rate, momentum=momentum, weight_decay=decay, nesterov=True)
        case other:
            raise UserError(f"optim is {other!r}, which no optimiser is built for")


def learning_rate(optim: OptimConfig, *, d_model: int, max_step: int) -> Callable[[int], float]:
    """The schedule as a function of the update's number from 1 (``noam``, ``cosine``) or the epoch from 0.

    Args:
        optim: which schedule, and its numbers.
        d_model: width that ``noam`` scales with.
        max_step: updates M of the whole run, at which ``cosine`` arrives.
    """
    match optim.lr_scheduler:
        case "noam":
            factor, warmup = optim.noamopt_factor, optim.noamopt_warmup
            return lambda s: noam(s, d_model=d_model, factor=factor, warmup=warmup)
        case "cosine":
            base, minimum = optim.learning_rate, optim.learning_rate_min
            return lambda s: cosine(s, base=base, minimum=minimum, total=max_step)
        case "step":
            start, every = optim.learning_rate_decay_start, optim.learning_rate_decay_every
            base, rate = optim.learning_rate, optim.learning_rate_decay_rate
            return lambda epoch: step(epoch, base=base, start=start, every=every, rate=rate)
        case other:
            raise UserError(f"lr_scheduler is {other!r}, which no schedule is built for")


def make_schedule(optimizer: Optimizer, cfg: Config, max_step: int) -> Schedule:
    """The schedule of a run of ``max_step`` updates M; it leaves groups of masks alone."""
    rate = learning_rate(cfg.optim, d_model=cfg.noam_width, max_step=max_step)
    return Schedule(optimizer, rate, skip_key=MASK_GROUP)


def cross_entropy(model: Network, batch: Mapping[str, Any], cfg: Config) -> Tensor:
    """J (or J_e) of a batch, with gradients, in single precision.

    Args:
        model: a captioner.
        batch: what the loader gave, on the model's device.
        cfg: the run's configuration.
    """
    with _autocast(batch, cfg):
        logprobs = model(Inputs.of(batch), batch["seqs"], last_column=cfg.quirks.last_column_fed)
    return caption_loss(
        logprobs.float(),
        batch["seqs"],
        batch["masks"],
        smoothing=cfg.optim.label_smoothing,
        cut_prediction=not cfg.quirks.last_column_fed,
    )


def by_reward(
    model: Network, batch: Mapping[str, Any], cfg: Config, rewards: SelfCritical
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """R of a batch, with gradients, and what is logged of it.

    Args:
        model: a captioner.
        batch: what the loader gave, on the model's device; of its captions only the references are read.
        cfg: the run's configuration.
        rewards: samples captions and scores them.
    """
    with _autocast(batch, cfg):
        found = rewards.loss(model, Inputs.of(batch), batch["gts"])
    return found.loss.float(), dict(found.scalars())


def _autocast(batch: Mapping[str, Any], cfg: Config) -> AbstractContextManager[Any]:
    return torch.autocast(batch["seqs"].device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16")


def train_step(
    model: Network,
    optimizer: Optimizer,
    schedule: Schedule,
    batch: Mapping[str, Any],
    cfg: Config,
    *,
    epoch: int,
    update: int,
    pruner: Pruner | None = None,
    rewards: SelfCritical | None = None,
) -> dict[str, Tensor | float]:
    """One update with the loss J + s, or R + s.

    Args:
        model: a captioner in training mode.
        optimizer: from `make_optimizer`.
        schedule: from `make_schedule`.
        batch: what the loader gave, on the model's device.
        cfg: the run's configuration.
        epoch: epoch from 0.
        update: updates c done before this one.
        pruner: draws masks, gives s, and prunes after the update; None for a dense model.
        rewards: makes the step a self-critical one; None: cross entropy.

    Returns:
        Values to log; tensors are not read here.

    Raises:
        UserError: a gradient is not finite (nothing is changed then).
    """
    optimizer.zero_grad(set_to_none=True)
    values: dict[str, Tensor | float] = {}
    with drawing(pruner):
        if rewards is None:
            loss = cross_entropy(model, batch, cfg)
        else:
            loss, values = by_reward(model, batch, cfg, rewards)
        if pruner is not None:
            values["train/caption_loss"] = loss.detach()
            sparsity = pruner.loss(update)
            if sparsity is not None:
                loss = loss + sparsity.scaled
                values["sparsity_loss/loss"] = sparsity.loss
                values["sparsity_loss/anneal_rate"] = sparsity.anneal_rate
                values["sparsity_loss/loss_scaled"] = sparsity.scaled.detach()
        loss.backward()
    rate = schedule.step(at=epoch if cfg.optim.lr_scheduler == "step" else None)
    clip = ("value", cfg.optim.grad_clip) if cfg.optim.grad_clip > 0 else None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    guarded_step(optimizer, parameters, clip=clip)
    if pruner is not None:
        pruner.updated(update + 1)
    return {"train/loss": loss.detach(), "train/learning_rate": rate, **values}
