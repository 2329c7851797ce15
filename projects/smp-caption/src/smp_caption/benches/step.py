"""Rows of ``bench`` about training: a step dense, pruned, and by the original's plain way.

The plain way is `smp_caption.benches.reference`. A pruned step draws its masks once, or (as the original) at
each call of a layer; beside the dense step, both are told in times of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunelab.bench import Figure, Result, Row, compare
from prunelab.mask import masks, use_samples
from prunelab.mask.sparsity import anneal_rate
from prunelab.optim import Schedule
from smp_caption.benches.reference import make_masks_plain, train_step_plain
from smp_caption.benches.sizes import (
    FULL,
    FULL_ORT,
    KNOWN,
    KNOWN_ORT,
    STEPS,
    Batch,
    Sizes,
    random_batch,
    row_config,
)
from smp_caption.config import Config
from smp_caption.model import build
from smp_caption.pruner import Pruner, mask_spec
from smp_caption.steps import drawing, make_optimizer, make_schedule, train_step

CERTAIN = 1000.0
"""A logit whose draw is always 1, and with a minus sign always 0."""
AT_EACH_CALL = "ours, masks at each call"


class _Pruner(Pruner):
    """A pruner whose masks may be given, so that both sides of a check have the same."""

    given: Mapping[str, Tensor] | None = None

    def drawing(self) -> AbstractContextManager[None]:
        return super().drawing() if self.given is None else use_samples(self.model, self.given)


class _Trainer:
    """One side of a training row: a model with its optimiser, and how a step is made.

    Calling it makes a step and gives the trainer itself, which the row's check starts anew.
    """

    def __init__(self, cfg: Config, batch: Batch, *, plain: bool = False) -> None:
        self.cfg, self.batch, self.plain = cfg, batch, plain
        torch.manual_seed(8888)
        self.model = build(cfg.model, mask_spec(cfg.model, cfg.prune)).train()
        if plain:
            make_masks_plain(self.model)
        self.first = copy.deepcopy(self.model.state_dict())
        self.pruner = _Pruner(self.model, cfg, STEPS) if cfg.model.pruned else None
        self.reset()

    def reset(self) -> None:
        """Go back to the first weights."""
        self.model.load_state_dict(self.first)
        self.optimizer: Optimizer = make_optimizer(self.model, self.cfg.optim, self.cfg.prune)
        self.schedule: Schedule = make_schedule(self.optimizer, self.cfg, STEPS)

    def step(self) -> float:
        """One update; its loss."""
        model, optimizer, cfg, pruner = self.model, self.optimizer, self.cfg, self.pruner
        update = STEPS // 2
        if not self.plain:
            found = train_step(
                model, optimizer, self.schedule, self.batch, cfg, epoch=0, update=update, pruner=pruner
            )
            return float(found["train/loss"])
        self.schedule.step()
        with drawing(pruner):
            return train_step_plain(
                model,
                optimizer,
                self.batch,
                grad_clip=cfg.optim.grad_clip,
                sparsity_target=cfg.prune.prune_sparsity_target,
                sparsity_weight=cfg.sparsity_weight * (1 - anneal_rate(update, STEPS)),
            )

    def __call__(self) -> _Trainer:
        self.step()
        return self


def _near(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether no entry differs by more than a ten-thousandth of the largest, or than what stands for 0."""
    if ours is None or theirs is None:
        return ours is theirs
    return bool((ours - theirs).detach().abs().max() <= 1e-4 * theirs.detach().abs().max() + 1e-8)


def _equal_steps(ours: _Trainer, other: _Trainer, prepare: Callable[[_Trainer], None]) -> bool:
    """Whether one step from equal weights has equal loss, clipped gradients and new weights.

    Against a dense network, masks and the loss, of which theirs is a part, are left out.
    """
    losses = []
    for side in (ours, other):
        side.reset()
        prepare(side)
        losses.append(side.step())
        if side.pruner is not None:
            side.pruner.given = None
    parameters = dict(ours.model.named_parameters())
    pairs = [(parameters[name], theirs) for name, theirs in other.model.named_parameters()]
    same_loss = abs(losses[0] - losses[1]) <= 1e-5 * abs(losses[1])
    same_kind = ours.cfg.model.pruned == other.cfg.model.pruned
    return (same_loss or not same_kind) and all(
        _near(one.grad, two.grad) and _near(one, two) for one, two in pairs
    )


def _drawn(side: _Trainer) -> dict[str, Tensor]:
    """Masks, the same for every side."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(mask.shape, generator=generator) < 0.9 for name, mask in masks(side.model).items()
    }


def _give_masks(side: _Trainer) -> None:
    """Let the next step use given masks, so that gradients of the logits can be compared."""
    if side.pruner is not None:
        side.pruner.given = _drawn(side)


def _make_masks_certain(side: _Trainer) -> None:
    """Let every draw give the same masks, so that the way each side draws is a part of the check."""
    with torch.no_grad():
        for mask, drawn in zip(masks(side.model).values(), _drawn(side).values(), strict=True):
            mask.copy_(torch.where(drawn, CERTAIN, -CERTAIN))


def _keep_all(side: _Trainer) -> None:
    """Let every draw keep every weight: a dense network."""
    with torch.no_grad():
        for mask in masks(side.model).values():
            mask.fill_(CERTAIN)


def _named(sizes: Sizes) -> str:
    return "ORT" if sizes.relations else "Up-Down"


def train_dense(sizes: Sizes, original: str) -> Row:
    """One training step of the dense captioner: forward, loss, backward, clipping, Adam."""
    cfg, batch = row_config(sizes, pruned=False), random_batch(sizes)
    return compare(
        f"training step, {_named(sizes)}, dense",
        _Trainer(cfg, batch),
        _Trainer(cfg, batch, plain=True),
        lambda ours, plain: _equal_steps(ours, plain, _give_masks),
        work=sizes.images * sizes.captions,
        unit="captions",
        note=f"{sizes.step_note()}; the original: {original}",
    )


def train_pruned(sizes: Sizes, original: str) -> Row:
    """One training step of the supermask captioner: masks drawn once for the step, and at each call."""
    cfg, batch = row_config(sizes, pruned=True), random_batch(sizes)
    per_call = row_config(sizes, pruned=True, per_call=True)
    return compare(
        f"training step, {_named(sizes)}, pruned",
        _Trainer(cfg, batch),
        _Trainer(per_call, batch, plain=True),
        lambda ours, plain: (
            _equal_steps(ours, plain, _give_masks) and _equal_steps(ours, plain, _make_masks_certain)
        ),
        extra={AT_EACH_CALL: _Trainer(per_call, batch)},
        work=sizes.images * sizes.captions,
        unit="captions",
        note=f"{sizes.step_note()}; the original: {original}",
    )


def mask_cost(
    sizes: Sizes, once: float | None = None, each_call: float | None = None, note: str = ""
) -> list[Result]:
    """Our pruned training step beside our dense one, masks drawn once or at each call.

    Args:
        sizes: of network and batch.
        once: most times of the dense step with masks drawn once.
        each_call: the same with masks drawn at each call.
        note: more about it.

    Returns:
        The times, and the ratios of their medians.
    """
    batch = random_batch(sizes)
    row = compare(
        f"training step, {_named(sizes)}, pruned beside dense",
        _Trainer(row_config(sizes, pruned=True), batch),
        _Trainer(row_config(sizes, pruned=False), batch),
        lambda pruned, dense: _equal_steps(pruned, dense, _keep_all),
        extra={AT_EACH_CALL: _Trainer(row_config(sizes, pruned=True, per_call=True), batch)},
        work=sizes.images * sizes.captions,
        unit="captions",
        note=f"{sizes.step_note()}{note}",
    )
    dense = row.reference
    found: list[Result] = [replace(row, reference=replace(dense, name="ours, dense"))]
    for words, side, goal in (("once a step", row.ours, once), ("at each call", row.extra[0], each_call)):
        found.append(
            Figure(
                name=f"masks of {_named(sizes)} drawn {words}",
                ours=side.median / dense.median,
                unit="x the dense step",
                at_most=goal,
                note=f"{sizes.step_note()}; medians",
            )
        )
    return found


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "train-dense": lambda: train_dense(KNOWN, "846 ms"),
    "train-pruned": lambda: train_pruned(KNOWN, "2149 ms"),
    "train-mask-cost": lambda: mask_cost(KNOWN, note="; the original: 2.54 x its dense step"),
    "train-ort-dense": lambda: train_dense(KNOWN_ORT, "569 ms"),
    "train-ort-pruned": lambda: train_pruned(KNOWN_ORT, "763 ms"),
    "train-full-mask-cost": lambda: mask_cost(FULL, once=1.25, each_call=1.8),
    "train-full-ort-mask-cost": lambda: mask_cost(FULL_ORT, once=1.3, each_call=1.3),
}
"""What ``bench`` measures of training by cross entropy."""
