"""Evaluation: accuracy, loss, tokens kept and multiply-accumulates; every picture counts once.

A network answers in one of three modes: ``plain`` (nothing is pruned), ``masked`` (pruned tokens are hidden
from all others, the reference) and ``dropped`` (they are taken away, which is faster and gives the same).

# B batch, N tokens, C classes, L layers that prune
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.config import QuirkConfig
from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.dropping import Dropper
from apt_vit.tokens.macs import lengths_of, macs_of, mean_macs
from apt_vit.tokens.rules import Rule
from prunelab import dist
from prunelab.doors import check_one_of
from prunelab.errors import UserError

MODES = ("plain", "masked", "dropped")
"""What is done with tokens that are pruned."""
Batch = tuple[Tensor, Tensor]
"""Pictures (B, 3, H, W) and classes (B,) int64."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a network said of a batch."""

    logits: Tensor
    """(B, C) float32."""
    labels: Tensor
    """Right classes, (B,) int64."""
    counts: Tensor
    """Tokens left behind each layer that prunes, the classification token among them, (B, L) int64."""

    @property
    def loss(self) -> Tensor:
        """Mean cross entropy of the batch."""
        return F.cross_entropy(self.logits, self.labels)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures over all evaluation pictures."""

    accuracy: float
    """Share of right answers."""
    loss: float
    """Cross entropy: mean over pictures, or over batches' means (quirk ``batch_mean_loss``)."""
    tokens: tuple[float, ...]
    """Mean tokens left behind each layer that prunes; none where nothing is pruned."""
    macs: float
    """Mean multiply-accumulates of a picture where pruned tokens are dropped, agents (folded) included."""
    pictures: int
    """Pictures that were counted, over all processes."""
    constant: float
    """Accuracy of the one class that is best said of every picture."""


class Evaluator:
    """A way to ask a network: what is pruned by which rule, and how.

    Args:
        model: in evaluation mode, on its device.
        rule: which tokens are pruned; not needed for mode ``plain``.
        mode: one of `MODES`.
        layout: of mode ``dropped``, see `apt_vit.tokens.dropping.Dropper`.
        amp: ``bf16`` runs the network in mixed precision.
        channels_last: memory format of the pictures.

    Raises:
        UserError: an unknown mode, or one that prunes and no rule.
    """

    def __init__(
        self,
        model: VisionTransformer,
        rule: Rule | None = None,
        mode: str = "plain",
        *,
        layout: str = "auto",
        amp: str = "off",
        channels_last: bool = False,
    ) -> None:
        check_one_of("mode", mode, MODES)
        if rule is None and mode != "plain":
            raise UserError(f"mode is {mode}, expected plain where there is no rule to prune by")
        self.model, self.mode, self.rule = model, mode, rule
        self.amp, self.channels_last = amp, channels_last
        self.dropper = Dropper(model, rule, layout=layout) if mode == "dropped" and rule is not None else None
        prunes = rule is not None and rule.prunes and mode != "plain"
        self.layers = [i for i in model.cfg.clip_layers if i < model.cfg.num_layers] if prunes else []
        """Blocks behind which tokens are pruned."""

    def answers(self, batches: Iterable[Batch]) -> Iterator[Answer]:
        """What the network says, batch by batch."""
        device = next(self.model.parameters()).device
        for x, y in batches:
            x = on_device(x, device, channels_last=self.channels_last)
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=self.amp == "bf16"),
            ):
                logits, counts = self._ask(x)
            yield Answer(logits=logits.float(), labels=y.to(device), counts=counts)

    def _ask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and tokens kept (B, L)."""
        if self.dropper is not None:
            dropped = self.dropper(x)
            return dropped.logits, dropped.counts
        if self.mode == "masked" and self.rule is not None:
            pruned = passes.masked(self.model, x, self.layers, self.rule)
            return pruned.logits, pruned.kept
        return passes.plain(self.model, x), torch.zeros(len(x), 0, dtype=torch.int64)

    def macs(self, counts: Tensor) -> float:
        """Mean multiply-accumulates of pictures that keep ``counts`` (B, L) tokens."""
        if not self.layers:
            return macs_of(self.model.cfg, lengths_of(self.model.cfg), "none")
        agents = "folded" if self.rule is not None and self.rule.method == "agent" else "none"
        return mean_macs(self.model.cfg, counts, self.layers, agents)


def evaluate(
    model: VisionTransformer,
    loader: Iterable[Batch],
    rule: Rule | None = None,
    mode: str = "plain",
    quirks: QuirkConfig | None = None,
    *,
    amp: str = "off",
    channels_last: bool = False,
) -> Scores:
    """Evaluate a network on batches of this process; see `summarise`. Collective.

    Args:
        model: in evaluation mode, on its device.
        loader: batches of this process's share of the pictures.
        rule: which tokens are pruned; not needed for mode ``plain``.
        mode: one of `MODES`.
        quirks: how the loss is averaged; None: over pictures.
        amp: ``bf16`` runs the network in mixed precision.
        channels_last: memory format of the pictures.

    Raises:
        UserError: an unknown mode, one that prunes and no rule, or no pictures.
    """
    evaluator = Evaluator(model, rule, mode, amp=amp, channels_last=channels_last)
    return summarise(evaluator, evaluator.answers(loader), quirks)


def summarise(evaluator: Evaluator, answers: Iterable[Answer], quirks: QuirkConfig | None = None) -> Scores:
    """Join what was said on all processes. Collective.

    Args:
        evaluator: that gave the answers.
        answers: those of this process.
        quirks: see `evaluate`.

    Raises:
        UserError: there was no picture on any process.
    """
    classes, layers = evaluator.model.cfg.num_classes, len(evaluator.layers)
    right, loss, batch_losses, batches, macs = 0, 0.0, 0.0, 0, 0.0
    tokens, labels = [0] * layers, [0] * classes
    for answer in answers:
        size, mean = len(answer.labels), float(answer.loss)
        right += int((answer.logits.argmax(1) == answer.labels).sum())
        loss, batch_losses, batches = loss + mean * size, batch_losses + mean, batches + 1
        macs += evaluator.macs(answer.counts) * size
        tokens = [a + b for a, b in zip(tokens, answer.counts.sum(0).tolist(), strict=True)]
        counted = torch.bincount(answer.labels, minlength=classes).tolist()
        labels = [a + b for a, b in zip(labels, counted, strict=True)]
    sums = [float(right), loss, batch_losses, float(batches), macs, *tokens, *labels]
    totals = [sum(values) for values in zip(*dist.gather_objects([sums]), strict=True)]
    right, loss, batch_losses, batches, macs = totals[:5]
    labels = totals[5 + layers :]
    pictures = int(sum(labels))
    if not pictures:
        raise UserError("there are no pictures to evaluate on, expected one or more")
    of_batches = quirks is not None and quirks.batch_mean_loss
    return Scores(
        accuracy=right / pictures,
        loss=batch_losses / batches if of_batches else loss / pictures,
        tokens=tuple(count / pictures for count in totals[5 : 5 + layers]),
        macs=macs / pictures,
        pictures=pictures,
        constant=max(labels) / pictures,
    )


def on_device(x: Tensor, device: torch.device, *, channels_last: bool = False) -> Tensor:
    """Pictures on the network's device, in the memory format that was asked for."""
    x = x.to(device, non_blocking=True)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
