"""One micro-batch of training: cross entropy, self-critical training, and when weights are updated.

| symbol | meaning | equation | shape |
|---|---|---|---|
| x | visual tokens, or pictures | | (B, S, F) |
| Y | words of captions, SOS to EOS, padded (``tokens``) | | (B, T) |
| e | label smoothing | | |
| q | target: 1 - e on the word that follows, e / (V - 1) on every other | | (V) |
| L_xe | cross entropy | sum over words of KL(q ‖ p(. given Y before it, x)) / number of words | () |
| w | samples of a picture, drawn word by word | w_t ~ p(. given w before t, x) | (B, K, L) |
| r | reward: CIDEr-D of a sample against the picture's captions | | (B, K) |
| b | baseline ``average``: the picture's other samples | (sum_k r - r) / (K - 1) | (B, K) |
| | baseline ``greedy``: r of the likeliest words | | (B, 1) |
| L_scst | self-critical loss | mean over B, K of (r - b) sum_t -log p(w_t) | () |
| it | number of the micro-batch, from 0 | | |
| n | micro-batches whose gradients are summed (``num_accum``) | | |
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from expansionnet.config import Config, OptimConfig
from expansionnet.learning.loss import smoothed_cross_entropy
from expansionnet.learning.radam import RAdam
from expansionnet.learning.reward import Reward
from expansionnet.learning.scst import draw_and_score, greedy
from expansionnet.model import ExpansionNet
from expansionnet.words.vocabulary import Vocabulary
from prunelab import dist
from prunelab.caption.reward import average_baseline
from prunelab.decode import Draw
from prunelab.decode.samples import behind_end
from prunelab.errors import UserError
from prunelab.optim import Schedule, guarded_step

BASE_LR = 1.0
"""Learning rate that optimisers are made with; the schedule sets the real one."""
BETAS, EPSILON = (0.9, 0.98), 1e-9
"""Of ``radam``; ``adam`` has its usual ones."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a micro-batch costs."""

    value: Tensor
    """() With gradients."""
    logs: dict[str, Tensor | float]
    """Figures to log, without gradients; tensors are not read here."""


def make_optimizer(model: nn.Module, cfg: OptimConfig) -> Optimizer:
    """The optimiser of all parameters, in the order of their registration (that of checkpoints)."""
    match cfg.optim_type:
        case "adam":
            return Adam(model.parameters(), lr=BASE_LR)
        case "radam":
            return RAdam(model.parameters(), lr=BASE_LR, betas=BETAS, eps=EPSILON)
        case other:
            raise UserError(f"optim_type is {other!r}, which no optimiser is built for")


def xe_step(model: ExpansionNet, batch: Mapping[str, Any], cfg: Config, vocabulary: Vocabulary) -> Loss:
    """L_xe of a batch.

    Args:
        model: in training mode.
        batch: ``x``, ``pads``, ``tokens``, ``token_pads``, on the model's device.
        cfg: the run's configuration.
        vocabulary: knows the padding's id.
    """
    tokens = batch["tokens"]
    with _autocast(tokens.device, cfg):
        # The pads are those of all T columns, so that EOS is no visible input of any caption.
        logits = model(batch["x"], tokens[:, :-1], batch["pads"], batch["token_pads"])
    targets = tokens[:, 1:]
    total = smoothed_cross_entropy(
        logits,
        targets,
        pad=vocabulary.pad,
        smoothing=cfg.optim.label_smoothing,
        mean=False,
        overwrite=True,
    )
    loss = total / _shared((targets != vocabulary.pad).sum(), cfg)
    return Loss(value=loss, logs={"train/loss": loss.detach()})


def scst_step(
    model: ExpansionNet,
    batch: Mapping[str, Any],
    cfg: Config,
    vocabulary: Vocabulary,
    reward: Reward,
    *,
    draw: Draw | None = None,
) -> Loss:
    """L_scst of a batch.

    Args:
        model: in training mode.
        batch: ``x``, ``pads`` on the model's device, and ``indices`` of the pictures in the training split.
        cfg: the run's configuration.
        vocabulary: words of the ids.
        reward: of this training split.
        draw: chooses the words of samples; None: torch's own random numbers do.
    """
    x, pads = batch["x"], batch["pads"]

    def rewards(tokens: Tensor) -> Tensor:
        return reward.of_tokens(tokens, batch["indices"], vocabulary.words, vocabulary.eos)

    with _autocast(x.device, cfg):
        samples = draw_and_score(model, x, pads, cfg.scst, vocabulary, draw=draw)
        likeliest = None
        if cfg.scst.baseline == "greedy":
            likeliest = greedy(model, x, pads, cfg.scst, vocabulary)
    r = rewards(samples.tokens)
    b = average_baseline(r) if likeliest is None else rewards(likeliest)
    count = torch.tensor(r.numel(), device=x.device)
    loss = scst_loss(r, b, samples.log_probs) * (count / _shared(count, cfg))
    counted = ~behind_end(samples.tokens, vocabulary.eos)
    logs: dict[str, Tensor | float] = {
        "train/loss": loss.detach(),
        "train/reward": float(r.mean()),
        "train/baseline": float(b.mean()),
        "train/sample_length": counted.sum(dim=-1).double().mean(),
        "train/ended": (samples.tokens == vocabulary.eos).any(dim=-1).double().mean(),
    }
    return Loss(value=loss, logs=logs)


def scst_loss(r: Tensor, b: Tensor, log_probs: Tensor) -> Tensor:
    """L_scst of this process's samples.

    Args:
        r: (B, K) rewards, float64.
        b: (B, K) or (B, 1) baselines.
        log_probs: (B, K, L) of each word, 0 behind the end, on any device.

    Returns:
        () float64.
    """
    advantage = (r - b).to(log_probs.device)
    return (advantage * -log_probs.sum(dim=-1)).mean()


def _autocast(device: torch.device, cfg: Config) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16")


def _shared(count: Tensor, cfg: Config) -> Tensor:
    """What this process divides its sum by, so that the mean over the processes' losses is the batch's loss.

    Under the quirk that is its own count; else the mean count of a process.
    """
    return count if cfg.quirks.mean_of_means else dist.mean_over_ranks(count)


class Updates:
    """Sums gradients over micro-batches and decides after which of them weights are updated.

    Gradients are summed, not averaged: the recipes' learning rates were chosen so.

    Args:
        optimizer: from `make_optimizer`.
        schedule: from `expansionnet.learning.schedules.make_schedule`; it counts micro-batches.
        cfg: the run's configuration.
        total: micro-batches of the whole training.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, cfg: Config, total: int) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.num_accum = cfg.optim.num_accum
        self.first_step_alone = cfg.quirks.first_step_alone
        self.total = total

    def due(self, it: int) -> bool:
        """Whether weights are updated after micro-batch ``it`` (from 0).

        The original updates after the first one alone, then after every n, and drops the rest at the end.
        """
        if self.first_step_alone:
            return it % self.num_accum == 0
        return (it + 1) % self.num_accum == 0 or it + 1 == self.total

    def backward(self, loss: Tensor, it: int) -> dict[str, float]:
        """Set the micro-batch's learning rate, add its gradients, and update the weights if it is time.

        Args:
            loss: of this micro-batch, with gradients.
            it: its number, from 0.

        Returns:
            Figures to log: the learning rate, and the gradients' norm where weights were updated.

        Raises:
            UserError: a gradient is not finite (nothing is changed then).
        """
        logs = {"train/learning_rate": self.schedule.step()}
        loss.backward()
        if self.due(it):
            parameters = [param for group in self.optimizer.param_groups for param in group["params"]]
            logs["train/gradient_norm"] = guarded_step(self.optimizer, parameters).norm
            self.optimizer.zero_grad(set_to_none=True)
        return logs
