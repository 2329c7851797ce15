"""Supermask pruning (SMP): what of it surrounds a training step, a validation and the end of a run.

| symbol | meaning |
|---|---|
| m | mask logit of a weight, trained; kept iff m > 0 |
| s | wanted sparsity, `prune_sparsity_target` |
| w | weight of the sparsity loss |
| M | steps of the whole run |
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.mask import MaskSpec, draw_once, freeze, masks, parse_scope
from prunelab.mask.sparsity import (
    SparsityLoss,
    active,
    average,
    nnz,
    per_mask_sparsity,
    sparsity_loss,
    total_sparsity,
)
from prunelab.util import atomic_write
from smp_caption.config import ModelConfig, PruneConfig

AVAILABLE = ("supermask",)


def mask_spec(model: ModelConfig, prune: PruneConfig) -> MaskSpec | None:
    """The kind of masks that a model of this configuration carries; None for a dense one.

    Raises:
        UserError: a pruning method that is not available.
    """
    if not model.pruned:
        return None
    if prune.prune_type not in AVAILABLE:
        raise UserError(f"prune_type {prune.prune_type} is not available: expected {' or '.join(AVAILABLE)}")
    return MaskSpec(
        kind="supermask",
        init=prune.prune_supermask_init,
        bypass_sigmoid_grad=prune.prune_supermask_bypass_sigmoid_grad,
    )


class SupermaskPruner:
    """The masks of a pruned captioner during training.

    Args:
        model: a captioner with masks.
        name: its ``caption_model``.
        config: how to prune.
        max_step: steps M of the whole run.
        per_call: draw masks at each call of a layer, as the original does; else once a step.
        sample_frozen: draw the masks of ``prune_mask_freeze_scope`` at random in training too, as the
            original does; else they are rounded.

    Attributes:
        active: logits of the masks that are trained, by name.
        weight: weight w of the sparsity loss.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: PruneConfig,
        max_step: int,
        *,
        per_call: bool = False,
        sample_frozen: bool = False,
    ) -> None:
        self.model, self.config, self.max_step, self.per_call = model, config, max_step, per_call
        scope = parse_scope(config.prune_mask_freeze_scope)
        freeze(model, scope, sampled=sample_frozen)
        self.masks: dict[str, nn.Parameter] = masks(model)
        self.active = active(self.masks, scope)
        if not self.active:
            raise UserError(f"prune_mask_freeze_scope {config.prune_mask_freeze_scope!r} freezes every mask")
        self.weight = config.sparsity_weight(name)

    def drawing(self) -> AbstractContextManager[None]:
        """In it a step's masks are drawn: once for the step, or (``per_call``) at each call of a layer."""
        return nullcontext() if self.per_call else draw_once(self.model)

    def loss(self, step: int) -> SparsityLoss:
        """The sparsity loss of the step that follows `step` finished ones."""
        return sparsity_loss(
            self.active,
            target=self.config.prune_sparsity_target,
            weight=self.weight,
            step=step,
            max_step=self.max_step,
            bypass_sigmoid_grad=self.config.prune_supermask_bypass_sigmoid_grad,
        )

    def sparsity(self) -> float:
        """Share of all masked weights that is pruned now, in [0, 1]."""
        return float(total_sparsity(self.masks, "supermask"))

    def on_target(self) -> bool:
        """Whether the nonzeros are as close to the target's as a best checkpoint needs (5 % by default)."""
        size = sum(mask.numel() for mask in self.masks.values())
        wanted = (1 - self.config.prune_sparsity_target) * size
        kept = int(nnz(self.masks, "supermask"))
        return abs(wanted - kept) / wanted <= self.config.best_sparsity_tolerance

    def scalars(self) -> Iterator[tuple[str, Tensor]]:
        """Sparsities for the log: of all masks together, of each, and the mean of all logits."""
        yield "prune/sparsity/all", total_sparsity(self.masks, "supermask")
        for name, value in per_mask_sparsity(self.masks, "supermask").items():
            yield f"prune/sparsity/{name}", value
        yield "prune/all_mask_avg", average(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must agree on."""
        return {"max_step": self.max_step, "weight": self.weight, "active": list(self.active)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a resumed run prunes as the saved one did.

        Raises:
            UserError: another length of the run, weight or scope.
        """
        for key, now in self.state_dict().items():
            if state.get(key) != now:
                raise UserError(f"the saved run prunes with {key} {state.get(key)}, this one with {now}")


def write_sparsities(path: Path, mask_tensors: Mapping[str, Tensor]) -> None:
    """Write ``sparsities.csv``: overall sparsity, number of kept weights, sparsity of each mask."""
    each = per_mask_sparsity(mask_tensors, "supermask")
    total = total_sparsity(mask_tensors, "supermask")
    with atomic_write(path, "w", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sparsity", "nnz", *each])
        kept = int(nnz(mask_tensors, "supermask"))
        rows.writerow([f"{float(total):.5f}", kept, *(f"{float(value):.5f}" for value in each.values())])


def crowded(masks_by_name: Mapping[str, Tensor], limit: float = 0.999) -> list[str]:
    """Names of masks that prune more than `limit` of their weights, so that hardly anything passes."""
    with torch.no_grad():
        each = per_mask_sparsity(masks_by_name, "supermask")
        return [name for name, value in each.items() if float(value) > limit]
