"""What moves in a training: network, masks, optimiser, batches, teacher; and where weights come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from channel_prune import steps
from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.config import Config
from channel_prune.data import Data
from channel_prune.detect.evaluate import DetectionEvaluator
from channel_prune.distill import distillation_loss
from channel_prune.evaluate import Classification, on_device
from channel_prune.files.loading import load_network
from channel_prune.layout import full_model, teacher
from channel_prune.model import build
from channel_prune.model.backbone import load_backbone
from channel_prune.model.ssd import Ssd
from channel_prune.slim import Slim, Whole, slim
from channel_prune.steps import Distillation
from prunelab import dist
from prunelab.data.endless import Endless
from prunelab.errors import UserError
from prunelab.hub import is_model_folder


class Task(Protocol):
    """What a network is trained for."""

    figures: Sequence[str]
    """Names of the evaluation's figures that say how good a network is; more is better, the first counts."""

    @property
    def constant(self) -> float | None:
        """The first figure of the best constant answer, after an evaluation; None: there is none."""
        ...

    def step(
        self, model: nn.Module, optimizer: Optimizer, masks: Masks | None, batch: Any, number: int
    ) -> dict[str, Tensor]:
        """Make one update with a batch; ``number`` counts updates from 0. Returns what is logged."""
        ...

    def evaluate(self, model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[tuple[str, float]]:
        """Figures over all evaluation pictures; with an optimiser the loss has its decay. Collective."""
        ...

    def write(self, folder: Path) -> list[Path]:
        """Write the answers of the last evaluation, if this task has files for them. Collective."""
        ...


class Classify:
    """Pictures into classes.

    Args:
        cfg: sizes, precision.
        batches: of evaluation, of this rank.
        device: of the networks.
        distillation: the term D of the loss.
    """

    def __init__(
        self, cfg: Config, batches: Any, device: torch.device, distillation: Distillation | None = None
    ) -> None:
        self.cfg, self.device, self.distillation = cfg, device, distillation
        self.figures: Sequence[str] = list(steps.tops(cfg.net.nb_classes))
        self.evaluator = Classification(
            batches,
            classes=cfg.net.nb_classes,
            device=device,
            amp=cfg.run.amp,
            channels_last=cfg.run.channels_last,
        )

    @property
    def constant(self) -> float | None:
        """See `Task`."""
        return self.evaluator.best_constant

    def step(
        self, model: nn.Module, optimizer: Optimizer, masks: Masks | None, batch: Any, number: int
    ) -> dict[str, Tensor]:
        """See `Task`."""
        x, y = batch
        return steps.classify_step(
            model,
            optimizer,
            on_device(x, self.device, channels_last=self.cfg.run.channels_last),
            y.to(self.device, non_blocking=True),
            masks=masks,
            distillation=self.distillation,
            amp=self.cfg.run.amp,
        )

    def evaluate(self, model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[tuple[str, float]]:
        """See `Task`."""
        if optimizer is None:
            return self.evaluator.run(model)
        R = float(steps.decay(optimizer))
        return self.evaluator.run(model, decay=R, distillation=self.distillation)

    def write(self, folder: Path) -> list[Path]:
        """See `Task`: there are no files."""
        return []


class Detect:
    """Pictures into boxes.

    Args:
        cfg: thresholds, sizes, precision.
        evaluator: of all evaluation pictures.
        device: of the networks.
    """

    figures: Sequence[str] = ("mAP",)
    constant: float | None = None

    def __init__(self, cfg: Config, evaluator: DetectionEvaluator, device: torch.device) -> None:
        self.cfg, self.evaluator, self.device = cfg, evaluator, device

    def step(
        self, model: nn.Module, optimizer: Optimizer, masks: Masks | None, batch: Any, number: int
    ) -> dict[str, Tensor]:
        """See `Task`."""
        x, targets = batch
        x = on_device(x, self.device, channels_last=self.cfg.run.channels_last)
        targets = {name: value.to(self.device, non_blocking=True) for name, value in targets.items()}
        return steps.detect_step(model, optimizer, x, targets, number, self.cfg, masks=masks)

    def evaluate(self, model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[tuple[str, float]]:
        """See `Task`: the figures have no loss."""
        return self.evaluator.run(model)

    def write(self, folder: Path) -> list[Path]:
        """See `Task`: a file of detections for each class."""
        return self.evaluator.write(folder)


@dataclass(kw_only=True)
class Job:
    """A training's parts."""

    cfg: Config
    data: Data
    model: nn.Module
    optimizer: Optimizer
    masks: Masks | None
    """Of a network whose channels were chosen."""
    batches: Endless
    task: Task
    shares: dict[str, float]
    """What is pruned of all trainable numbers and of all kernels, as the original logs it at every line."""
    whole: Whole | None = None
    """The full shapes of a network that is trained in its slim form."""

    @property
    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"model": self.model, "optimizer": self.optimizer, "batches": self.batches}

    @property
    def network(self) -> nn.Module:
        """What is trained, in the full network's shapes."""
        return self.model if self.whole is None else self.whole.of(self.model)

    def step(self, batch: Any, number: int) -> dict[str, Tensor]:
        """One update with a batch; ``number`` counts them from 0."""
        return self.task.step(self.model, self.optimizer, self.masks, batch, number)


def make_job(cfg: Config, data: Data, chosen: Path | None, device: torch.device) -> Job:
    """Build everything on the device.

    Args:
        cfg: the run's configuration.
        data: opened.
        chosen: where the network with chosen channels lies; None: the full network is trained.
        device: of this process.

    Raises:
        UserError: weights are missing or of another network, or a batch cannot be filled.
    """
    model = initial_network(cfg) if chosen is None else load_network(chosen, cfg.net)
    if cfg.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model = model.to(device)
    masks = whole = None
    shares: dict[str, float] = {}
    if chosen is not None:
        masks = masks_of(cfg, model)
        shares = {name: float(share) for name, share in masks.shares().items()}
        if cfg.run.slim_before_finetune:
            small = slim_of(cfg, model, kept_of(masks))
            model, whole = small.model, Whole(model, small.structure)
            masks = masks_of(cfg, model)
    if cfg.run.compile:
        model.compile()
    rank, world_size = dist.rank(), dist.world_size()
    return Job(
        cfg=cfg,
        data=data,
        model=model,
        optimizer=steps.make_optimizer(model, cfg.optim),
        masks=masks,
        batches=Endless(data.loader("train", rank=rank, world_size=world_size)),
        task=make_task(cfg, data, device, distillation=distillation(cfg, device)),
        shares=shares,
        whole=whole,
    )


def masks_of(cfg: Config, model: nn.Module) -> Masks:
    """The masks of a network whose channels were chosen, by its zeros."""
    return Masks.from_zeros(prunable(model, example(cfg, next(model.parameters()).device)), model)


def kept_of(masks: Masks) -> dict[str, list[int]]:
    """The channels that a slim network keeps of each convolution; of a dead one a channel of zeros."""
    return {name: channels or [0] for name, channels in masks.kept.items()}


def slim_of(cfg: Config, model: nn.Module, kept: dict[str, list[int]]) -> Slim:
    """The slim network of one whose channels were chosen.

    Raises:
        UserError: it cannot be followed.
    """
    picture = example(cfg, next(model.parameters()).device)
    return slim(model, kept, picture, round_to=cfg.prune.round_to)


def make_task(
    cfg: Config, data: Data, device: torch.device, *, distillation: Distillation | None = None
) -> Task:
    """What a network of the configuration is for, with the evaluation pictures of this rank."""
    batches = data.loader("eval", rank=dist.rank(), world_size=dist.world_size())
    if cfg.net.detects:
        return Detect(cfg, DetectionEvaluator(batches, cfg, device), device)
    return Classify(cfg, batches, device, distillation)


def sampling_batches(cfg: Config, data: Data, device: torch.device) -> list[Tensor]:
    """The pictures that this process brings to the choice, in mini-batches on the device.

    The original's way runs on rank 0 alone, where all are needed. Otherwise sums over the pictures of all
    processes are made: each has its share, and all of them where there are fewer mini-batches than processes.
    """
    prune, world_size = cfg.prune, dist.world_size()
    if prune.positions == "crops" and not dist.is_main():
        return []
    batches = data.sampling_batches(prune)
    if prune.positions != "crops" and len(batches) >= world_size:
        batches = batches[dist.rank() :: world_size]
    return [batch.to(device) for batch in batches]


def example(cfg: Config, device: torch.device) -> Tensor:
    """An input of the network, (1, 3, S, S)."""
    side = cfg.net.image_size
    return torch.zeros(1, 3, side, side, device=device)


def initial_network(cfg: Config) -> nn.Module:
    """The network that a full training begins with: that of ``weights``, else with random weights.

    A detector may begin with the weights of a backbone.
    """
    if cfg.net.weights:
        return load_network(Path(cfg.net.weights), cfg.net)
    model = build(cfg.net)
    if isinstance(model, Ssd) and cfg.detect.enbl_warm_start:
        missing = load_backbone(model, cfg.detect).missing
        if missing and dist.is_main():
            print(f"{cfg.detect.backbone_ckpt_dir}: lacks {', '.join(missing)}, which begin at random")
    return model


def newest(place: Path, cfg: Config) -> Path:
    """Of a run's networks the one that counts: with the original's ways the last, else the best."""
    last = place / "last"
    return last if cfg.run.preset == "faithful" and is_model_folder(last) else place


def full_network(cfg: Config) -> nn.Module:
    """The trained full network.

    Raises:
        UserError: there is none.
    """
    place = newest(full_model(cfg), cfg)
    if not place.exists():
        raise UserError(
            f"{place}: no full network there; train one with --learner=full-prec, or name one with --weights "
            "(a model folder, a run, or a published file)"
        )
    return load_network(place, cfg.net)


def distillation(cfg: Config, device: torch.device) -> Distillation | None:
    """The term of the loss that a teacher gives, where it is wanted: the full network, never trained."""
    if not cfg.distill.enbl_dst:
        return None
    place = newest(teacher(cfg), cfg)
    if not place.exists():
        raise UserError(f"{place}: no teacher there, which enbl_dst needs; expected a trained full network")
    model = load_network(place, cfg.net).to(device).eval().requires_grad_(False)

    def term(x: Tensor, s: Tensor) -> Tensor:
        with torch.no_grad():
            t = model(x)
        return distillation_loss(s, t, cfg.distill)

    return term
