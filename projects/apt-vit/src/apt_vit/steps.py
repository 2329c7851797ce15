"""One micro-batch of training: the three streams, what agents learn from them, and when weights are updated.

| symbol | meaning | equation | shape |
|---|---|---|---|
| x | pictures | | (B, 3, H, W) |
| y | classes | | (B,) |
| s_0 | logits of stream 0: nothing is pruned | | (B, C) |
| s_1 | logits of stream 1: every clip layer prunes what the rule says | | (B, C) |
| t | stream 2 of layer l: the one token removed, there alone | see `apt_vit.learning.actions` | (B,) |
| s_2 | logits of stream 2, one pass for each layer l | | (B, C) |
| a | the agent's logits (keep, prune) at token t | | (B, 2) |
| p_old, p_new | probability of class y | softmax(s_0)_y, softmax(s_2)_y | (B,) |
| r | reward | p_new - p_old | (B,) |
| c | label, the decision that was right: 1 prunes | 1 if r > 0, else 0 | (B,) |
| L_0, L_1 | cross entropy of the classes | mean CE(s_0, y), mean CE(s_1, y) | () |
| L_2 | cross entropy of an agent | mean CE(a, c) | () |
| k | mean keep probability that an agent gives to the tokens it can prune | | () |
| A | micro-batches of an update | | |
| P | keep penalty, where it is wanted | keep_penalty sum over l of (k - keep_target)^2 | () |
| L | what is minimised | (L_1 + sum over l of L_2 + plain_loss L_0 + P) / A | () |

L_1 trains the backbone and no agent, since decisions are hard; L_2 trains one agent and no backbone, since
agents see detached tokens. The original adds L up by four backward passes; one gives the same gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD

from apt_vit.config import Config, ModelConfig, OptimConfig
from apt_vit.learning.actions import Draws
from apt_vit.learning.products import Faster
from apt_vit.learning.schedules import rate
from apt_vit.learning.shared import by_sharing
from apt_vit.learning.streams import Streams, at_least_single, by_passes
from apt_vit.model import VisionTransformer
from apt_vit.tokens.passes import Single
from prunelab.optim import guarded_step


@dataclass(frozen=True, kw_only=True)
class AgentLogs:
    """What stream 2 found out at one clip layer."""

    tokens: Tensor
    """t (B,)."""
    rewards: Tensor
    """r (B,), float32 unless the network is in double precision."""
    labels: Tensor
    """c (B,) int64."""
    logits: Tensor
    """a (B, 2)."""
    loss: Tensor
    """L_2 ()."""


@dataclass(frozen=True, kw_only=True)
class Logs:
    """What a micro-batch cost, without gradients; nothing is read from the device here."""

    loss: Tensor
    """L_1 (), under method ``plain`` L_0."""
    plain_loss: Tensor | None
    """L_0 (), where there was a stream 0."""
    p_old: Tensor | None
    """(B,) where there was a stream 0."""
    agents: dict[int, AgentLogs] = field(default_factory=dict)
    """By clip layer."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Tokens (B,) that each clip layer left to stream 1, the classification token among them."""

    @property
    def last_loss(self) -> Tensor:
        """What the original calls the loss of training: L_2 of the last clip layer; without agents L_1."""
        return list(self.agents.values())[-1].loss if self.agents else self.loss

    def figures(self) -> dict[str, Tensor]:
        """Means over the micro-batch, by the names under which they are logged."""
        found = {"train/loss": self.loss}
        if self.plain_loss is not None and self.plain_loss is not self.loss:
            found["train/plain_loss"] = self.plain_loss
        for layer, agent in self.agents.items():
            found[f"train/agent_loss_{layer}"] = agent.loss
            found[f"train/reward_{layer}"] = agent.rewards.mean()
            found[f"train/rewarded_{layer}"] = agent.labels.double().mean()
        for layer, kept in self.kept.items():
            found[f"train/tokens_{layer}"] = kept.double().mean()
        return found


def train_step(model: VisionTransformer, batch: tuple[Tensor, Tensor], cfg: Config, draws: Draws) -> Logs:
    """Add the gradients of L of one micro-batch to those of the parameters.

    Where rewards see no dropout, the streams share what they have in common (`apt_vit.learning.shared`);
    else each draws its own, in the original's order (`apt_vit.learning.streams`).

    Args:
        model: in training mode.
        batch: pictures x and classes y, on the model's device.
        cfg: the run's configuration.
        draws: the run's random numbers; begins a micro-batch.

    Raises:
        UserError: the micro-batch is too small or too large for its actions (see ``actions.choose``).
    """
    x, y = batch
    source = draws.begin()
    alone = own_dropout(model.cfg, cfg) or not cfg.prune.drop_in_training
    run = by_passes if alone else by_sharing
    half = torch.autocast(x.device.type, torch.bfloat16, enabled=cfg.run.amp == "bf16")
    eager = x.device.type == "cpu" and not cfg.run.compile
    with half, Faster(dropout=not alone) if eager else nullcontext():
        streams = run(model, x, cfg, source, draws.generator())
    total, logs = losses(streams, y, cfg)
    (total / cfg.optim.gradient_accumulation_steps).backward()
    return logs


def own_dropout(model: ModelConfig, cfg: Config) -> bool:
    """Whether every stream draws dropout of its own, so that nothing can be shared."""
    drops = model.dropout_rate > 0 or model.attention_dropout_rate > 0
    return drops and cfg.prune.reward_dropout == "fresh"


def losses(streams: Streams, y: Tensor, cfg: Config) -> tuple[Tensor, Logs]:
    """A L, with gradients, and what is logged."""
    terms: list[Tensor] = []
    loss, plain_loss = None, None
    if streams.pruned is not None:
        terms.append(F.cross_entropy(at_least_single(streams.pruned), y))
        loss = terms[0].detach()
    if streams.trained is not None:
        L_0 = F.cross_entropy(at_least_single(streams.trained), y)
        terms.append(L_0 if loss is None else cfg.prune.plain_loss * L_0)
        plain_loss = L_0.detach()
    elif streams.plain is not None:
        plain_loss = F.cross_entropy(at_least_single(streams.plain.detach()), y)
    loss = plain_loss if loss is None else loss
    assert loss is not None  # there is a stream 1, or method plain
    agents, p_old = {}, None
    if streams.singles:
        assert streams.plain is not None
        p_old = true_probability(streams.plain, y)
        for layer, single in streams.singles.items():
            L_2, agents[layer] = agent_loss(single, p_old, y, cfg)
            terms.append(L_2)
    means = streams.keep_probability.values()
    terms.extend(cfg.prune.keep_penalty * (k - cfg.prune.keep_target) ** 2 for k in means)
    logs = Logs(loss=loss, plain_loss=plain_loss, p_old=p_old, agents=agents, kept=dict(streams.kept))
    return torch.stack(terms).sum(), logs


def agent_loss(single: Single, p_old: Tensor, y: Tensor, cfg: Config) -> tuple[Tensor, AgentLogs]:
    """L_2 of one layer, with gradients.

    A reward of exactly 0 says nothing; the original takes it for a reason to keep.
    """
    r = true_probability(single.logits, y) - p_old
    c = (r > 0).long()
    each = F.cross_entropy(at_least_single(single.clip_logits), c, reduction="none")
    L_2 = (each if cfg.quirks.zero_reward_keeps else each * (r != 0)).mean()
    logs = AgentLogs(
        tokens=single.tokens, rewards=r, labels=c, logits=single.clip_logits.detach(), loss=L_2.detach()
    )
    return L_2, logs


def true_probability(s: Tensor, y: Tensor) -> Tensor:
    """Probability (B,) of the classes y by logits (B, C), without gradients."""
    return at_least_single(s.detach()).softmax(-1).gather(1, y[:, None])[:, 0]


def make_optimizer(model: VisionTransformer, cfg: OptimConfig) -> SGD:
    """SGD of the backbone and of the agents, which may have a rate of their own."""
    agents = list(model.transformer.encoder.clip_layer.parameters())
    known = {id(param) for param in agents}
    backbone = [param for param in model.parameters() if id(param) not in known]
    agent_rate = cfg.learning_rate if cfg.agent_learning_rate is None else cfg.agent_learning_rate
    groups = [{"params": backbone, "base_rate": cfg.learning_rate}]
    if agents:
        groups.append({"params": agents, "base_rate": agent_rate})
    return SGD(groups, lr=cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)


class Updates:
    """Decides after which micro-batches weights are updated, and updates them; goes into checkpoints.

    Gradients live in the parameters until then, over an epoch's end too where leftovers are carried.

    Args:
        optimizer: from `make_optimizer`.
        cfg: the run's configuration.
    """

    def __init__(self, optimizer: SGD, cfg: Config) -> None:
        self.optimizer = optimizer
        self.optim = cfg.optim
        self.quirks = cfg.quirks
        self.count = 0

    def due(self, position: int, length: int) -> bool:
        """Whether an update follows a micro-batch.

        Args:
            position: its number within the epoch, from 0.
            length: micro-batches of the epoch.
        """
        full = (position + 1) % self.optim.gradient_accumulation_steps == 0
        return full or (position + 1 == length and not self.quirks.carry_leftovers)

    def update(self, position: int = -1) -> dict[str, float]:
        """Average gradients over processes, clip them, set the rate, step, and clear the gradients.

        Args:
            position: number of the last micro-batch within the epoch, from 0. An update of fewer than A
                micro-batches counts as a whole one: its gradients, each divided by A, are scaled up.

        Returns:
            ``train/lr``, the backbone's rate that was used, and ``train/gradient_norm`` before clipping.

        Raises:
            UserError: a gradient is not finite (nothing is changed then).
        """
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        A = self.optim.gradient_accumulation_steps
        if over := (position + 1) % A:
            for param in params:
                if param.grad is not None:
                    param.grad.mul_(A / over)
        multiplier = rate(self.count + 1 if self.quirks.scheduler_first else self.count, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_rate"] * multiplier
        norm = guarded_step(self.optimizer, params, clip=self._clip).norm
        self.count += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {"train/lr": self.optimizer.param_groups[0]["lr"], "train/gradient_norm": norm}

    def _clip(self, params: list[Tensor]) -> None:
        """Clip by the common norm, or the backbone and the agents each by its own."""
        groups = [params]
        if not self.quirks.joint_clipping:
            groups = [
                [param for param in group["params"] if param.grad is not None]
                for group in self.optimizer.param_groups
            ]
        for group in groups:
            norm = get_total_norm([param.grad for param in group if param.grad is not None])
            clip_grads_with_norm_(group, self.optim.max_grad_norm, norm)

    def state_dict(self) -> dict[str, Any]:
        """Updates so far; rates and momenta belong to the optimiser's own state."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.count = int(state["count"])
