"""What training and validation are worth: losses and areas, summed over batches and processes.

# B batch, K classes, H, W pixels
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from acosp_seg.config import Config
from acosp_seg.model.network import Network
from acosp_seg.steps import Outcome
from prunelab import dist
from prunelab.metrics.segmentation import TINY, Rule, areas, areas_histc

REST = 5
"""Entries at the end: sum of main losses, batches; main and auxiliary losses times samples, samples."""
Batch = tuple[Tensor, Tensor]
"""Pictures (B, 3, H, W) and labels (B, H, W)."""


def rule_of(cfg: Config) -> Rule:
    """How areas are counted: void pixels nowhere; a void label among the classes as the original does."""
    return areas_histc if cfg.quirks.void_below_classes else areas


class Totals:
    """Sums of areas and losses, as one vector in double precision (which counts pixels exactly).

    Args:
        classes: K.
        void: label of pixels that do not count.
        rule: how areas are counted.
        device: where the sums lie.
    """

    def __init__(self, classes: int, void: int, rule: Rule, device: torch.device) -> None:
        self.classes, self.void, self.rule = classes, void, rule
        self.sums = torch.zeros(3 * classes + REST, dtype=torch.float64, device=device)
        """Intersections, unions and targets (K each), then what `REST` counts."""

    @torch.no_grad()
    def part(self, prediction: Tensor, target: Tensor, main: Tensor, aux: Tensor) -> Tensor:
        """One batch as a vector like `sums`, (3 K + REST,)."""
        found = self.rule(prediction, target, self.classes, self.void)
        main, aux = main.detach().double(), aux.detach().double()
        one = torch.ones_like(main)
        losses = torch.stack([main, one, main * len(target), aux * len(target), one * len(target)])
        return torch.cat([found.intersection, found.union, found.target, losses]).to(self.sums)

    def add(self, outcome: Outcome) -> dict[str, Tensor]:
        """Take in a training step of all ranks; collective.

        Returns:
            The step's figures over all ranks, as tensors that nobody has read yet.
        """
        part = self.part(outcome.prediction, outcome.target, outcome.main, outcome.aux)
        if dist.world_size() > 1:
            distributed.all_reduce(part)
        self.sums += part
        return dict(figures(part, "train_batch"))

    def empty(self) -> None:
        """Begin anew."""
        self.sums.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The sums, equal on all ranks."""
        return {"sums": self.sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.sums.copy_(state["sums"])


def figures(sums: Tensor, suffix: str) -> Iterator[tuple[str, Tensor]]:
    """Main loss, mean IoU, mean accuracy, overall accuracy and auxiliary loss of a vector of `Totals`, ()."""
    intersection, union, target = sums[:-REST].view(3, -1)
    main, aux, samples = sums[-3:]
    yield f"loss_{suffix}", main / samples
    yield f"mIoU_{suffix}", (intersection / (union + TINY)).mean()
    yield f"mAcc_{suffix}", (intersection / (target + TINY)).mean()
    yield f"allAcc_{suffix}", intersection.sum() / (target.sum() + TINY)
    yield f"aux_loss_{suffix}", aux / samples


def loss_of_batches(sums: Tensor, *, per_sample: bool) -> float:
    """The mean over batches of their main losses; or, as the original's classifier logs it, over samples."""
    total, batches, *_, samples = sums[-REST:].tolist()
    return total / (samples if per_sample else batches)


class Evaluator:
    """Scores a network on the validation pictures: loss, mean IoU, mean accuracy, overall accuracy.

    `sums` holds the last evaluation's vector of `Totals`.

    Args:
        batches: this rank's batches; together those of a single process, each once.
        cfg: classes, void label, mixed precision.
        device: of the network.
    """

    def __init__(self, batches: Iterable[Batch], cfg: Config, device: torch.device) -> None:
        self.batches, self.cfg, self.device = batches, cfg, device
        self.sums = torch.empty(0)

    @torch.no_grad()
    def run(self, model: Network) -> Iterator[tuple[str, float]]:
        """Yield names and figures, the same on all ranks; collective."""
        cfg = self.cfg
        totals = Totals(cfg.model.classes, cfg.data.ignore_label, rule_of(cfg), self.device)
        zero = torch.zeros((), device=self.device)
        for x, y in self.batches:
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            if cfg.run.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16"):
                logits = model(x)
            logits = logits.float() if logits.dtype == torch.bfloat16 else logits
            if logits.shape[2:] != y.shape[1:]:
                logits = F.interpolate(logits, y.shape[1:], mode="bilinear", align_corners=True)
            part = totals.part(logits.argmax(dim=1), y, model.criterion(logits, y), zero)
            totals.sums += part
        if dist.world_size() > 1:
            distributed.all_reduce(totals.sums)
        self.sums = totals.sums
        for name, value in figures(totals.sums, "val"):
            if not name.startswith("aux"):
                yield name, float(value)
