"""What moves in a training: network, masks, optimiser, sums of the epoch; made new or as a run left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import Optimizer

from acosp.structure import phase, structure
from acosp_seg import steps
from acosp_seg.compact import (
    apply_slim,
    carry_optimizer,
    is_slim,
    masked_again,
    slim_for_training,
    structure_of,
)
from acosp_seg.config import Config
from acosp_seg.evaluate import Totals, rule_of
from acosp_seg.layout import resolve
from acosp_seg.loading import find_model
from acosp_seg.model import build
from acosp_seg.model.checkpoint import OriginalFile, load_original
from acosp_seg.model.network import Network
from acosp_seg.model.original import load_optimizer
from acosp_seg.pruner import Pruning, rebuilt_optimizer
from prunelab import syncnorm
from prunelab.errors import UserError
from prunelab.run import Run
from prunelab.seed import preserved


@dataclass(kw_only=True)
class Job:
    """A training's parts. Masks that become hard replace the optimiser, slimming the network as well."""

    cfg: Config
    model: Network
    optimizer: Optimizer
    factors: Sequence[float]
    """How much faster than the trunk each group of the optimiser learns."""
    pruning: Pruning
    totals: Totals
    start: int
    """The first epoch, where the run goes on with a training of the original."""

    @property
    def classifier(self) -> bool:
        """Whether pictures, not pixels, are classified."""
        return self.cfg.model.arch == "resnet18"

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"model": self.model, "optimizer": self.optimizer, "totals": self.totals}

    @property
    def structure(self) -> dict[str, Any]:
        """Plain data that a resumed run builds it by."""
        slim = structure_of(self.model) if is_slim(self.model) else None
        return {"start": self.start, "masks": structure(self.model), "slim": slim}

    @property
    def masked(self) -> Network:
        """The network as it is kept and exported: that of a slim one with its masks again."""
        if not is_slim(self.model):
            return self.model
        with preserved():  # a network that is built draws its first weights
            return masked_again(self.model)

    def begin_epoch(self, run: Run, epoch: int) -> None:
        """Make masks hard if it is time, and the network slim if that is wanted."""
        if self.pruning.due(self.model, epoch):
            self.harden(run, f"epoch {epoch + 1}")
        if self.cfg.prune.slim_after_pruning and phase(self.model) == "hard":
            self.slim(run, f"epoch {epoch + 1}")

    def harden(self, run: Run, when: str) -> None:
        """Make soft masks hard and rebuild the optimiser without their logits."""
        for line in self.pruning.harden(self.model):
            run.say(line)
        self.optimizer = rebuilt_optimizer(self.model, self.cfg, self.optimizer)
        run.retrack(optimizer=self.optimizer, structure=self.structure)
        run.say(
            f"{when}: {'masks are hard' if phase(self.model) == 'hard' else 'pruned filters are refilled'}"
        )
        self.compile()

    def slim(self, run: Run, when: str) -> None:
        """Train on with the kept channels alone, each parameter with what is left of its momentum."""
        before, old = dict(self.model.named_parameters()), self.optimizer
        size = sum(parameter.numel() for parameter in before.values())
        slim_for_training(self.model)
        self.optimizer = steps.make_optimizer(self.model, self.cfg.optim)
        carry_optimizer(old, self.optimizer, before, self.model)
        for group, earlier in zip(self.optimizer.param_groups, old.param_groups, strict=True):
            group["lr"] = earlier["lr"]
        run.retrack(optimizer=self.optimizer, structure=self.structure)
        left = sum(parameter.numel() for parameter in self.model.parameters())
        run.say(f"{when}: the network is slim: {left} of {size} parameters")
        self.compile()

    def compile(self) -> None:
        """Compile the loss, where that is wanted; again after each change of the network."""
        if self.cfg.run.compile:
            self.model.losses = torch.compile(type(self.model).losses.__get__(self.model))  # pyright: ignore[reportAttributeAccessIssue]


def make_job(cfg: Config, run: Run) -> Job:
    """Build everything on the run's device: new, from given weights, or as the run's checkpoint needs it.

    Raises:
        UserError: a file of weights is missing or of another network.
    """
    saved = run.structure
    model = build(_initial(cfg, resumed=run.resumed), criterion_ignore=cfg.data.ignore_label)
    pruning = Pruning(cfg)
    for line in pruning.begin(model, saved["masks"] if saved else None):
        run.say(line)
    if saved and saved["slim"] is not None:
        apply_slim(model, saved["slim"])
    given = None if saved else _load_given(model, cfg, run)
    start = saved["start"] if saved else cfg.optim.start_epoch
    if given is not None and cfg.run.resume_from:
        start = given.epoch or 0
    if not saved:
        pruning.temper(model, start)
    if cfg.optim.sync_bn and run.world_size > 1:
        syncnorm.convert(model)
    if cfg.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = model.to(run.device)
    optimizer = steps.make_optimizer(model, cfg.optim)
    if given is not None and cfg.run.resume_from and given.optimizer is not None:
        load_optimizer(model, optimizer, given.optimizer, where=str(given.path))
    job = Job(
        cfg=cfg,
        model=model,
        optimizer=optimizer,
        factors=steps.group_factors(model, cfg.optim),
        pruning=pruning,
        totals=Totals(cfg.model.classes, cfg.data.ignore_label, rule_of(cfg), run.device),
        start=start,
    )
    job.compile()
    if not saved:
        run.retrack(structure=job.structure)
    return job


def _initial(cfg: Config, *, resumed: bool) -> Any:
    """The network's configuration, with the file of initial weights where one is needed and on this machine.

    Raises:
        UserError: it is not there.
    """
    if not cfg.model.pretrained:
        return cfg.model
    if resumed or cfg.run.weight or cfg.run.resume_from:
        return replace(cfg.model, pretrained="")  # other weights take their place
    path = resolve(cfg.model.pretrained)
    if not path.exists():
        raise UserError(
            f'pretrained {path}: no such file; expected initial weights, or pretrained "" for random ones'
        )
    return replace(cfg.model, pretrained=str(path))


def _load_given(model: Network, cfg: Config, run: Run) -> OriginalFile | None:
    """Load ``weight`` or ``resume_from``, which brings the masks to the file's kind."""
    named = cfg.run.resume_from or cfg.run.weight
    if not named:
        return None
    report = load_original(model, find_model(named))
    run.say(str(report))
    return report.file
