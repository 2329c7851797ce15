"""Pruning of a captioner: what of it surrounds a training step, a validation and the end of a run.

The methods are those of `prunelab.mask.Pruning`; ``prune_type`` chooses one, the run gives its numbers.

| ``prune_type`` | masks come from | when |
|---|---|---|
| ``supermask`` | trained logits | all the time |
| ``mag_grad_blind``, ``mag_grad_uniform`` | the weights | by schedule, after optimiser steps |
| ``mag_blind``, ``mag_uniform``, ``mag_dist`` | the weights of ``start_from`` | once, before training |
| ``lottery_mag_blind``, ``_uniform``, ``_dist`` | the same; then weights go back to the first ones | once |
| ``snip`` | gradients of the first batches | once, before training |
| ``mask_freeze`` | ``start_from`` | never change |
| ``lottery_mask_freeze`` | ``start_from``; weights go back to their first values | never change |
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.hub import is_model_folder, load_model_folder
from prunelab.mask import (
    MASK_SUFFIX,
    Gradual,
    GradualSchedule,
    MaskSpec,
    Pruning,
    Supermask,
    parse_scope,
)
from prunelab.mask import report as sparsity_report
from prunelab.mask.criteria import Scheme
from prunelab.mask.files import load_state
from prunelab.mask.sparsity import SparsityLoss, average, per_mask_sparsity, total_sparsity
from prunelab.util import atomic_write
from smp_caption.config import Config, ModelConfig, PruneConfig
from smp_caption.model.checkpoint import load_original

Batch = TypeVar("Batch")

ONCE: dict[str, Scheme] = {
    "mag_blind": "blind",
    "mag_uniform": "uniform",
    "mag_dist": "dist",
    "lottery_mag_blind": "blind",
    "lottery_mag_uniform": "uniform",
    "lottery_mag_dist": "dist",
}
"""Ways that prune once, before training, by the size of weights."""
GRADUAL: dict[str, Scheme] = {"mag_grad_blind": "blind", "mag_grad_uniform": "uniform"}
"""Ways that prune by schedule."""
KEPT = ("mask_freeze", "lottery_mask_freeze")
"""Ways whose masks come with the checkpoint that the run starts from."""
FIRST_WEIGHTS = ("init", "model_init.pth")
"""A run's weights from before its first step: a model folder of ours, a file of the original."""


def is_lottery(prune_type: str | None) -> bool:
    """Whether weights go back to their first values once the masks are there."""
    return prune_type is not None and prune_type.startswith("lottery_")


def mask_spec(model: ModelConfig, prune: PruneConfig) -> MaskSpec | None:
    """The kind of masks that a model of this configuration carries; None for a dense one."""
    if not model.pruned:
        return None
    if prune.prune_type != "supermask":
        return MaskSpec(kind="fixed")
    return MaskSpec(
        kind="supermask",
        init=prune.prune_supermask_init,
        bypass_sigmoid_grad=prune.prune_supermask_bypass_sigmoid_grad,
    )


def make_pruner(model: nn.Module, cfg: Config, max_step: int) -> Pruner | None:
    """The pruner of a run; None for a dense model.

    Args:
        model: a captioner, with masks of the kind that `mask_spec` says.
        cfg: the run's configuration.
        max_step: steps of the whole run.

    Raises:
        UserError: a scope that fits no mask or freezes all of them, or a run too short for its schedule.
    """
    return Pruner(model, cfg, max_step) if cfg.model.pruned else None


class Pruner:
    """The masks of a pruned captioner during training.

    Args:
        model: a captioner with masks.
        cfg: the run's configuration.
        max_step: steps of the whole run.

    Attributes:
        masks: all masks, by name.
        active: those outside of ``prune_mask_freeze_scope``.
    """

    def __init__(self, model: nn.Module, cfg: Config, max_step: int) -> None:
        self.cfg, self.model, self.max_step = cfg, model, max_step
        self.method = str(cfg.prune.prune_type)
        self.pruning = _pruning(model, cfg, max_step)
        self.masks, self.active = self.pruning.masks, self.pruning.active

    def drawing(self) -> AbstractContextManager[None]:
        """In it a step's masks are drawn: once for the step, or (quirk) at each call of a layer."""
        per_call = self.pruning.kind == "supermask" and self.cfg.quirks.masks_per_call
        return nullcontext() if per_call else self.pruning.drawing()

    def loss(self, step: int) -> SparsityLoss | None:
        """The sparsity loss of the step that follows `step` finished ones; None where there is none."""
        return self.pruning.loss_at(step)

    def prepare(self, batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> list[str]:
        """Prune before the first step of a new run, with the weights in that it starts from.

        Args:
            batches: training batches of this rank; ``snip`` reads the first ``prune_snip_grad_accum``.
            loss_of: a batch to the training loss.

        Returns:
            Lines to say.

        Raises:
            UserError: weights or gradients that cannot be ranked, too few batches, or first weights that are
                missing or of another model.
        """
        prune = self.cfg.prune
        said = []
        if self.method in ONCE:
            self.pruning.prune_by_magnitude(prune.prune_sparsity_target, ONCE[self.method])
        elif self.method == "snip":
            said.append(self._by_snip(batches, loss_of))
        elif self.method not in KEPT:
            return []
        found = sparsity_report(self.masks, self.pruning.kind)
        said.append(
            f"prune_type {self.method}: {100 * found.sparsity:.2f} % of {found.size} weights with masks are 0"
        )
        if is_lottery(self.method):
            said.append(_rewind(self.model, self.cfg))
        return said + [f"warning: {name} prunes more than 99.9 % of its weights" for name in found.crowded()]

    def _by_snip(self, batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> str:
        prune, wanted = self.cfg.prune, self.cfg.prune.prune_snip_grad_accum
        signed = self.cfg.quirks.signed_snip
        self.pruning.prune_by_snip(
            prune.prune_sparsity_target, _first(batches, wanted), loss_of, signed=signed
        )
        return f"gradients of {wanted} batches rank the weights{' (with their sign)' if signed else ''}"

    def updated(self, step: int) -> bool:
        """After optimiser step number `step` (from 1): prune by schedule; whether masks were made anew."""
        return self.pruning.prune_at(step)

    def sparsity(self) -> float:
        """Share of all masked weights that is pruned now, in [0, 1]."""
        return float(total_sparsity(self.masks, self.pruning.kind))

    def on_target(self) -> bool:
        """Whether the nonzeros are as close to the target's as a best checkpoint needs (5 % by default).

        The original counts all masks. Counted otherwise are those that this run makes: none where
        they are kept, and not those in ``prune_mask_freeze_scope``, with which a run might never get there.
        """
        counted = self.masks
        if not self.cfg.quirks.target_of_all_masks:
            if self.method in KEPT:
                return True
            counted = self.active
        found = sparsity_report(counted, self.pruning.kind)
        wanted = (1 - self.cfg.prune.prune_sparsity_target) * found.size
        return abs(wanted - found.nnz) / wanted <= self.cfg.prune.best_sparsity_tolerance

    def scalars(self) -> Iterator[tuple[str, Tensor]]:
        """Sparsities for the log: of all masks together, of each, and the mean of all mask values."""
        yield "prune/sparsity/all", total_sparsity(self.masks, self.pruning.kind)
        for name, value in per_mask_sparsity(self.masks, self.pruning.kind).items():
            yield f"prune/sparsity/{name}", value
        yield "prune/all_mask_avg", average(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must agree on. The masks are in the model; a schedule follows from the step."""
        state: dict[str, Any] = {
            "prune_type": self.method,
            "max_step": self.max_step,
            "active": list(self.active),
        }
        if isinstance(self.pruning, Supermask):
            state["weight"] = self.pruning.weight
        elif isinstance(self.pruning, Gradual):
            state["frequency"] = self.pruning.schedule.frequency
        return state | {"target": self.cfg.prune.prune_sparsity_target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a resumed run prunes as the saved one did.

        Raises:
            UserError: another method, length of the run, target, scope, weight or frequency.
        """
        for key, now in self.state_dict().items():
            if state.get(key) != now:
                raise UserError(f"the saved run prunes with {key} {state.get(key)}, this one with {now}")


def _pruning(model: nn.Module, cfg: Config, max_step: int) -> Pruning:
    """The method itself."""
    prune, method = cfg.prune, str(cfg.prune.prune_type)
    scope = parse_scope(prune.prune_mask_freeze_scope)
    if method == "supermask":
        return Supermask(
            model,
            target=prune.prune_sparsity_target,
            weight=cfg.sparsity_weight,
            max_step=max_step,
            scope=scope,
            sample_frozen=cfg.quirks.frozen_masks_sampled,
        )
    if method in GRADUAL:
        return Gradual(model, schedule=_schedule(cfg, max_step), scheme=GRADUAL[method], scope=scope)
    return Pruning(model, scope=scope)


def _schedule(cfg: Config, max_step: int) -> GradualSchedule:
    """Where the original's run would stop with an error after its first step, this one does before it."""
    frequency = cfg.prune.prune_gradual_frequency
    try:
        return GradualSchedule.over_run(
            target=cfg.prune.prune_sparsity_target,
            max_step=max_step,
            max_epochs=cfg.optim.max_epochs,
            frequency=frequency,
        )
    except UserError as error:
        room = int(0.5 * max_step) - int(max_step / cfg.optim.max_epochs)
        advice = f"; prune_gradual_frequency {max(1, room // 50)} would do" if room > 0 else ""
        raise UserError(f"prune_type {cfg.prune.prune_type}: {error}{advice}") from error


def _first(batches: Iterable[Batch], wanted: int) -> Iterator[Batch]:
    """As many batches as wanted, not kept in memory."""
    count = 0
    for count, batch in enumerate(islice(batches, wanted), 1):  # noqa: B007
        yield batch
    if count < wanted:
        raise UserError(f"prune_snip_grad_accum is {wanted}: expected at most {count}, the batches there are")


def first_weights(cfg: Config) -> Path:
    """The weights from before the first step of the run in ``start_from``, ours or the original's.

    Raises:
        UserError: no start, one that is no run, or a run without them.
    """
    method, start = cfg.prune.prune_type, cfg.run.start_from
    if not start:
        raise UserError(f"prune_type {method} needs start_from: expected the folder of a finished run")
    for place in (Path(start) / name for name in FIRST_WEIGHTS):
        if is_model_folder(place) or place.is_file():
            return place
    raise UserError(
        f"start_from {start} is no folder of a run with {' or '.join(FIRST_WEIGHTS)}, the first weights that "
        f"prune_type {method} goes back to"
    )


def _rewind(model: nn.Module, cfg: Config) -> str:
    place = first_weights(cfg)
    state = {name: value for name, value in read_weights(place).items() if not name.endswith(MASK_SUFFIX)}
    load_original(model, state, str(place), masks_optional=True)
    return f"weights back to those of {place}"


def read_weights(place: Path) -> dict[str, Tensor]:
    """The state dict in a model folder of ours or in a file of any kind."""
    return load_model_folder(place).state if place.is_dir() else load_state(place)[0]


def write_sparsities(path: Path, mask_tensors: Mapping[str, Tensor]) -> None:
    """Write ``sparsities.csv``: overall sparsity, number of kept weights, sparsity of each mask.

    Args:
        path: the file.
        mask_tensors: mask name to logits or to 0/1 values; kept is what is greater than 0.
    """
    found = sparsity_report(mask_tensors, "supermask")
    with atomic_write(path, "w", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["sparsity", "nnz", *found.each])
        rows.writerow(
            [f"{found.sparsity:.5f}", found.nnz, *(f"{value:.5f}" for value in found.each.values())]
        )


def crowded(mask_tensors: Mapping[str, Tensor], limit: float = 0.999) -> list[str]:
    """Names of masks (of either kind) that prune more than `limit`, so that hardly anything passes."""
    return sparsity_report(mask_tensors, "supermask").crowded(limit)
