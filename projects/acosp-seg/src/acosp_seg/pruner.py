"""What pruning does to a run: masks at first, their temperature, hard masks, and what follows.

| phase | the network has |
|---|---|
| dense | no masks: nothing is pruned, or pruned filters were refilled |
| soft | masks that are learned and cool down, until ``ending_epoch`` |
| hard | masks of zeros and ones that stay |
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from acosp.inject import hard_to_conv, soft_to_hard_k
from acosp.pruner import SoftTopKPruner
from acosp.soft_topk import SoftTopK
from acosp.structure import apply_structure, phase
from acosp_seg.config import Config
from acosp_seg.model.network import Network
from acosp_seg.steps import make_optimizer
from prunelab import dist
from prunelab.errors import UserError
from prunelab.optim import carry_state


class Pruning:
    """Masks of one run.

    Args:
        cfg: of the run.
    """

    def __init__(self, cfg: Config) -> None:
        prune = cfg.prune
        self.prune, self.quirks = prune, cfg.quirks
        self.library = SoftTopKPruner(
            prune.sparsity,
            prune.ending_epoch,
            starting_epoch=prune.starting_epoch,
            active=prune.active,
            min_remaining_elements=prune.min_remaining_elements,
            initial_temp=prune.initial_temp,
            final_temp=prune.final_temp,
            learnable_weights=prune.learnable_weights,
            temperature_lag=cfg.quirks.temperature_lag,
            stored_mask=cfg.quirks.stored_mask,
        )

    def begin(self, model: nn.Module, saved: Mapping[str, Any] | None) -> list[str]:
        """Give a dense network its masks: those of a saved structure, else new soft ones.

        Returns:
            Lines for people.

        Raises:
            UserError: the structure is that of another network.
        """
        if saved is not None:
            try:
                apply_structure(model, saved)
            except ValueError as error:
                raise UserError(f"the checkpoint's masks are of another model: {error}") from error
            return []
        with _said() as lines:
            self.library.configure_model(model)
        return lines

    def temper(self, model: nn.Module, epoch: int) -> None:
        """Give soft masks the temperature that ``epoch`` trains with, when a run begins there."""
        if epoch > 0 and phase(model) == "soft":
            self.library.update_mask_layers(model, epoch - 1)

    def due(self, model: nn.Module, epoch: int) -> bool:
        """Whether masks are to become hard before ``epoch`` is trained."""
        return epoch >= self.prune.ending_epoch and phase(model) == "soft"

    def harden(self, model: nn.Module) -> list[str]:
        """Make soft masks hard, with the same result on all ranks, and refill pruned filters if wanted.

        Returns:
            Lines for people.
        """
        with _said() as lines:
            soft_to_hard_k(model, stored_mask=self.quirks.stored_mask)
        if self.prune.refill_pruned:
            hard_to_conv(model, reinitialize=True, freeze=self.quirks.refill_freezes)
        dist.broadcast_module(model)  # the same in any case, but for what refilling drew
        return lines

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        """Bring stored masks up to the logits as they are now; the original leaves those of the last step."""
        if self.quirks.stored_mask:
            return
        for module in model.modules():
            if isinstance(module, SoftTopK):
                module.mask.copy_(module.soft_mask())

    def end_epoch(self, model: nn.Module, epoch: int) -> None:
        """Cool soft masks down after ``epoch``."""
        if phase(model) == "soft":
            self.library.update_mask_layers(model, epoch)

    def figures(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Values of each mask layer and over all of them, by name."""
        collected = _Collected()
        if self.prune.active:
            self.library.collect_logs(collected, model, epoch)
        return collected.values


class _Collected:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Keep values by name."""
        self.values.update(metrics)


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(f"pruning: {record.getMessage()}")


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what the library says in here, by its log or by warnings, as lines for people."""
    lines: list[str] = []
    log, handler = logging.getLogger("acosp"), _Lines(lines)
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        log.removeHandler(handler)
        log.propagate = before
    lines.extend(f"warning: {one.message}" for one in caught)


def temperature(model: nn.Module) -> float | None:
    """The temperature in force; None without soft masks."""
    return next((m.current_temperature for m in model.modules() if isinstance(m, SoftTopK)), None)


def rebuilt_optimizer(model: Network, cfg: Config, old: Optimizer) -> Optimizer:
    """An optimiser of the parameters that are left, each with its momentum, at the present rates."""
    new = make_optimizer(model, cfg.optim)
    names = dict(model.named_parameters())
    carry_state(old, new, names, names)  # the parameters are the same objects as before
    for group, before in zip(new.param_groups, old.param_groups, strict=True):
        group["lr"] = before["lr"]
    return new
