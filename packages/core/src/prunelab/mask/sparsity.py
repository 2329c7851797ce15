"""How sparse masks are, the loss that makes them sparser, and the schedule of gradual pruning.

Masks come as mappings by name, see `prunelab.mask.masks`. Counts and sparsities are 0-dimensional
tensors on the masks' device, so that reading them is the caller's decision (a read makes a GPU wait).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prunelab.errors import UserError
from prunelab.mask.criteria import check_target
from prunelab.mask.layers import in_scope
from prunelab.mask.supermask import MaskKind, round_mask, through_sigmoid


def active(masks: Mapping[str, Tensor], scope: tuple[str, ...]) -> dict[str, Tensor]:
    """The masks whose names start with none of the frozen prefixes."""
    return {name: mask for name, mask in masks.items() if not in_scope(name, scope)}


def _size(masks: Mapping[str, Tensor]) -> int:
    size = sum(mask.numel() for mask in masks.values())
    if not size:
        raise UserError("there are no mask entries to count: expected at least one active mask")
    return size


def nnz(masks: Mapping[str, Tensor], kind: MaskKind) -> Tensor:
    """Number of weights that the masks keep (supermask: after rounding), int64."""
    _size(masks)
    kept = [round_mask(mask) if kind == "supermask" else mask.detach() for mask in masks.values()]
    counts = [torch.count_nonzero(mask) for mask in kept]
    return torch.stack([count.to(counts[0].device) for count in counts]).sum()


def total_sparsity(masks: Mapping[str, Tensor], kind: MaskKind) -> Tensor:
    """One minus the kept fraction over all given masks together, in [0, 1]."""
    return 1 - nnz(masks, kind) / _size(masks)


def per_mask_sparsity(masks: Mapping[str, Tensor], kind: MaskKind) -> dict[str, Tensor]:
    """The sparsity of each mask by its name."""
    return {name: total_sparsity({name: mask}, kind) for name, mask in masks.items()}


@dataclass(frozen=True, kw_only=True)
class SparsityReport:
    """How many weights masks keep."""

    kept: dict[str, int]
    """Weights that each mask keeps, by the mask's name."""
    sizes: dict[str, int]
    """All weights behind each mask."""

    @property
    def nnz(self) -> int:
        """Masked weights that are kept, all masks together."""
        return sum(self.kept.values())

    @property
    def size(self) -> int:
        """All masked weights."""
        return sum(self.sizes.values())

    @property
    def sparsity(self) -> float:
        """Share of the masked weights that is pruned, in [0, 1]."""
        return 1 - self.nnz / self.size

    @property
    def each(self) -> dict[str, float]:
        """The sparsity of each mask by its name."""
        return {name: 1 - self.kept[name] / size for name, size in self.sizes.items()}

    def crowded(self, limit: float = 0.999) -> list[str]:
        """Names of masks that prune more than ``limit`` of their weights, so that hardly anything passes."""
        return [name for name, sparsity in self.each.items() if sparsity > limit]

    def __str__(self) -> str:
        lines = [f"{100 * sparsity:6.2f} %  {name}" for name, sparsity in self.each.items()]
        lines.append(
            f"{100 * self.sparsity:6.2f} %  of {self.size} masked weights are 0, {self.nnz} are kept"
        )
        return "\n".join(lines)


def report(masks: Mapping[str, Tensor], kind: MaskKind) -> SparsityReport:
    """Count what masks keep, each and together; reads them (which a GPU waits for) once."""
    _size(masks)
    counts = torch.stack([nnz({name: mask}, kind).cpu() for name, mask in masks.items()]).tolist()
    sizes = {name: mask.numel() for name, mask in masks.items()}
    return SparsityReport(kept=dict(zip(masks, counts, strict=True)), sizes=sizes)


def average(masks: Mapping[str, Tensor]) -> Tensor:
    """Mean of the raw mask values (logits for a supermask) over all entries of all masks together."""
    total = torch.stack([mask.detach().sum(dtype=torch.float64) for mask in masks.values()]).sum()
    return total / _size(masks)


class _RoundedSparsity(torch.autograd.Function):
    """1 - mean(round(sigmoid(m))) over several tensors; backward -1/N * s * (1 - s), or -1/N with bypass."""

    @staticmethod
    def forward(ctx: Any, bypass: bool, *logits: Tensor) -> Tensor:
        ctx.bypass = bypass
        ctx.size = sum(m.numel() for m in logits)
        ctx.save_for_backward(*logits)
        kept = torch.stack([torch.count_nonzero(m > 0) for m in logits]).sum()
        return 1 - kept.to(torch.float32) / ctx.size

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        each = -grads[0] / ctx.size
        out: list[Tensor | None] = [None]
        for logits, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True):
            if not wanted:
                out.append(None)
            elif ctx.bypass:
                out.append(each.expand_as(logits).clone())
            else:
                out.append(through_sigmoid(each, logits))
        return tuple(out)


@dataclass(frozen=True, kw_only=True)
class SparsityLoss:
    """The parts of one value of the sparsity loss."""

    loss: Tensor
    """|target - sparsity|, 0-dimensional."""
    anneal_rate: float
    """Falls from 1 to 0 over training."""
    scaled: Tensor
    """loss * weight * (1 - anneal_rate): what is added to the task's loss; carries the gradient."""


def anneal_rate(step: int, max_step: int) -> float:
    """Half a cosine from 1 at step 0 to 0 at ``max_step`` and after."""
    return (1 + math.cos(math.pi * min(1.0, step / max_step))) / 2


def sparsity_loss(
    masks: Mapping[str, Tensor],
    *,
    target: float,
    weight: float,
    step: int,
    max_step: int,
    bypass_sigmoid_grad: bool = False,
) -> SparsityLoss:
    """Pull the sparsity of supermasks towards a target, more strongly as training goes on.

    The sparsity is that of the rounded masks; its gradient goes straight through the rounding:
    ``sign(target - sparsity) * weight * (1 - a) / N * s * (1 - s)`` for each of N mask entries.

    Args:
        masks: logits of the active masks, by name.
        target: wanted sparsity, in [0, 1).
        weight: factor of the loss.
        step: updates done before this one, from 0.
        max_step: updates of the whole run, at least 1.
        bypass_sigmoid_grad: leave out the factor ``s * (1 - s)``.

    Returns:
        The raw loss, the annealing rate and the scaled loss.

    Raises:
        UserError: a target out of range, ``max_step`` below 1, or no masks.
    """
    check_target(target)
    if max_step < 1:
        raise UserError(f"max_step {max_step} is out of range: expected at least 1")
    _size(masks)
    now = _RoundedSparsity.apply(bypass_sigmoid_grad, *masks.values())
    assert isinstance(now, Tensor)
    loss = (target - now).abs()
    rate = anneal_rate(step, max_step)
    return SparsityLoss(loss=loss.detach(), anneal_rate=rate, scaled=loss * (weight * (1 - rate)))


@dataclass(frozen=True, kw_only=True)
class GradualSchedule:
    """Cubic growth of the sparsity from 0 to a target, in a number of equal intervals of steps."""

    target: float
    """Sparsity at the end, in [0, 1)."""
    start: int
    """First step (counted from 1, after the optimizer's) at which masks are computed."""
    intervals: int
    """Number of intervals between the first and the last computation, at least 1."""
    frequency: int = 1000
    """Steps in one interval."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_target(self.target)
        if self.intervals < 1 or self.frequency < 1:
            raise UserError(
                f"gradual pruning has {self.intervals} intervals of {self.frequency} steps: "
                "expected at least 1 of each (train longer, or prune more often)"
            )

    @classmethod
    def over_run(
        cls, *, target: float, max_step: int, max_epochs: int, frequency: int = 1000
    ) -> GradualSchedule:
        """The schedule of a whole run: from the second epoch on, for at most half of all steps.

        Args:
            target: sparsity at the end, in [0, 1).
            max_step: updates of the whole run.
            max_epochs: epochs of the whole run.
            frequency: steps between two computations.

        Raises:
            UserError: the run is too short for one interval.
        """
        start = int(max_step / max_epochs)
        intervals = int((0.5 * max_step - start) / frequency)
        if intervals < 1:
            raise UserError(
                f"gradual pruning of a run of {max_step} steps and {max_epochs} epochs has no room for "
                f"an interval of {frequency} steps: expected 0.5 * {max_step} - {start} >= {frequency}"
            )
        return cls(target=target, start=start, intervals=intervals, frequency=frequency)

    @property
    def end(self) -> int:
        """The last step at which masks are computed."""
        return self.start + self.frequency * self.intervals

    def sparsity_at(self, step: int) -> float | None:
        """The sparsity to prune to after this step, or None where masks stay as they are."""
        if not self.start <= step <= self.end or (step - self.start) % self.frequency:
            return None
        progress = (step - self.start) / (self.end - self.start)
        return self.target - self.target * (1 - progress) ** 3
