"""What moves in a training: network, updates, batches, random actions; and how long it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apt_vit import messages
from apt_vit.config import Config
from apt_vit.data import Batch, Data
from apt_vit.evaluate import on_device
from apt_vit.files.loading import fill_from
from apt_vit.files.weights import Loaded
from apt_vit.layout import log_folder
from apt_vit.learning.actions import Draws
from apt_vit.model import VisionTransformer, build
from apt_vit.model.initialise import fresh_agents
from apt_vit.steps import Logs, Updates, make_optimizer, train_step
from apt_vit.tokens.rules import Rule
from prunelab import dist
from prunelab.data.endless import Endless
from prunelab.errors import UserError
from prunelab.run import Run

STREAMS = {"plain": 0, "pruned": 1}
"""The ways in which a network is evaluated, and the original's numbers of them."""


def length_of(cfg: Config, per_epoch: int) -> int:
    """How many micro-batches a training takes, by the rule which says after which of them updates are made.

    Args:
        cfg: the run's configuration.
        per_epoch: micro-batches of an epoch.

    Raises:
        UserError: no update is ever made.
    """
    A, quirks = cfg.optim.gradient_accumulation_steps, cfg.quirks
    in_epoch = per_epoch // A if quirks.carry_leftovers else -(-per_epoch // A)
    if not in_epoch and quirks.stop_without_update:
        return per_epoch
    if not in_epoch:
        raise UserError(
            f"an epoch has {per_epoch} micro-batches, and gradient_accumulation_steps is {A}: with "
            f"carry_leftovers no update is ever made; expected at most {per_epoch}"
        )
    wanted = min(cfg.optim.num_steps, cfg.run.max_steps or cfg.optim.num_steps)
    epochs, rest = divmod(wanted - 1, in_epoch)
    return epochs * per_epoch + min((rest + 1) * A, per_epoch)


@dataclass(kw_only=True)
class Job:
    """A training's parts."""

    cfg: Config
    data: Data
    model: VisionTransformer
    updates: Updates
    draws: Draws
    batches: Endless
    """Micro-batches of this process."""
    validation: Any
    """Batches of the pictures that choose the best network, of this process."""
    rule: Rule
    """Which tokens stream 1 prunes."""
    loaded: Loaded
    """What the weights to start from were."""
    told: Original | None
    """What the original tells of a run; None: not under this preset."""

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "model": self.model,
            "optimizer": self.updates.optimizer,
            "updates": self.updates,
            "draws": self.draws,
            "batches": self.batches,
        }

    @property
    def streams(self) -> list[str]:
        """The ways in which the network is evaluated: `STREAMS`, or the first where nothing prunes."""
        return list(STREAMS) if self.rule.prunes else ["plain"]

    @property
    def position(self) -> int:
        """Number of the present micro-batch within its epoch, from 0."""
        return self.batches.loader.sampler.position - 1

    def step(self, batch: Batch) -> Logs:
        """Add the gradients of a micro-batch."""
        if self.told is not None and not self.position:
            self.told.text.training()
        x, y = batch
        device = next(self.model.parameters()).device
        x = on_device(x, device, channels_last=self.cfg.run.channels_last)
        return train_step(self.model, (x, y.to(device, non_blocking=True)), self.cfg, self.draws)

    def update(self) -> dict[str, float] | None:
        """Update the weights if that follows the present micro-batch; gives what is logged of it."""
        if not self.updates.due(self.position, len(self.batches.loader)):
            return None
        return self.updates.update(self.position)

    def tell(self, update: int, logs: Logs, figures: Mapping[str, float]) -> None:
        """Tell of an update as the original does, under its preset.

        Args:
            update: its number, from 1.
            logs: of its last micro-batch.
            figures: of the update.
        """
        if self.told is not None:
            self.told.updated(update, logs, figures["train/lr"])

    def close(self) -> None:
        """Write what is not yet written."""
        if self.told is not None:
            self.told.close()


class Original:
    """What the original shows and writes of a training beside its messages, on rank 0.

    Args:
        cfg: the run's configuration.
        update: that the run goes on from.
    """

    def __init__(self, cfg: Config, update: int) -> None:
        self.cfg = cfg
        self.events = messages.Events(log_folder(cfg), update)
        self.text = messages.ProgressText()

    def updated(self, update: int, logs: Logs, rate: float) -> None:
        """Tell of an update; its loss is that of the last agent in the original's way."""
        loss = float(logs.last_loss if self.cfg.quirks.agent_loss_logged else logs.loss)
        self.text.training(update, self.cfg.optim.num_steps, loss)
        self.events.add("train/loss", loss, update)
        self.events.add("train/lr", rate, update)

    def evaluated(self, stream: str, accuracy: float, update: int) -> None:
        """Tell of an evaluation; in the original's way both streams have one name."""
        both = self.cfg.quirks.agent_loss_logged
        self.events.add("test/accuracy" if both else f"test/accuracy_{stream}", accuracy, update)

    def close(self) -> None:
        """Write what is not yet written."""
        self.events.close()
        self.text.close()


def make_job(cfg: Config, data: Data, run: Run) -> Job:
    """Build everything on the run's device; nothing is written.

    Raises:
        UserError: weights are missing or of another network, or there are too few pictures.
    """
    model, loaded = initial_network(cfg, resumed=run.resumed)
    if cfg.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = model.to(run.device)
    if cfg.run.compile:
        for block in model.blocks:
            block.compile()
    rank, world_size = dist.rank(), dist.world_size()
    return Job(
        cfg=cfg,
        data=data,
        model=model,
        updates=Updates(make_optimizer(model, cfg.optim), cfg),
        draws=Draws(cfg, rank),
        batches=Endless(data.loader("train", rank, world_size)),
        validation=data.loader("val", rank, world_size),
        rule=Rule.of(cfg.prune),
        loaded=loaded,
        told=Original(cfg, run.updates) if cfg.run.preset == "faithful" else None,
    )


def initial_network(cfg: Config, *, resumed: bool = False) -> tuple[VisionTransformer, Loaded]:
    """The network that a training begins with, on the CPU.

    Args:
        cfg: sizes, and the file to start from.
        resumed: its weights come from a checkpoint, so none are made.

    Raises:
        UserError: the file is missing, damaged, or of another network.
    """
    if resumed:
        return build(cfg.model, fresh=False), Loaded()
    model = build(cfg.model)
    if not cfg.quirks.identical_agents:
        fresh_agents(model.agents.values())
    if not cfg.model.pretrained_dir:
        return model, Loaded()
    zeros = cfg.quirks.zoom_edge_zeros
    return model, fill_from(model, cfg.model.pretrained_dir, zero_head=cfg.model.zero_head, edge_zeros=zeros)
