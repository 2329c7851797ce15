"""Rows of training: a micro-batch with all its streams, beside five plain passes.

Rewards and gradients are held against those of `apt_vit.benches.step_reference` before anything is timed.

# B pictures, N tokens, D width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from apt_vit.benches.agents import keep_about
from apt_vit.benches.step_reference import plain_step
from apt_vit.config import Config, DataConfig, ModelConfig, OptimConfig, PruneConfig, QuirkConfig
from apt_vit.learning.actions import Draws, choose
from apt_vit.learning.products import Faster
from apt_vit.learning.shared import by_sharing
from apt_vit.model import build
from apt_vit.steps import Logs, losses, train_step
from apt_vit.tokens.rules import Rule
from prunelab.bench import Result, Row, compare

REWARDS_CLOSE, GRADIENTS_CLOSE = 1e-7, 1e-5
"""Most difference of a reward and of a gradient's element."""
LOSS_ALIKE = 0.2
"""Most difference of losses with other dropout, over the reference's."""
KEPT_ALIKE = 0.05
"""Most difference of the share that a stage keeps, over all pictures, to the one that is wanted."""
BY_TORCH = "torch's maps"
REFERENCE_BY_ONEDNN = "reference, oneDNN's maps"
"""Further sides of the rows: what comes from computing less, and what from multiplying faster."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a step trains, and on how much."""

    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            model_type="DeiT-Ti",
            hidden_size=192,
            mlp_dim=768,
            num_heads=3,
            num_layers=12,
            num_classes=100,
            dropout_rate=0.0,
            normalise_agent_input=False,
            pretrained_dir="",
        )
    )
    pictures: int = 8

    def describe(self) -> str:
        """The setting in words."""
        model, threads = self.model, torch.get_num_threads()
        return (
            f"D {model.hidden_size}, {model.num_layers} blocks, {model.img_size[0]} px, agents behind blocks "
            f"{', '.join(map(str, model.clip_layers))}, micro-batch {self.pictures}, without the optimiser, "
            f"float32, {threads} threads"
        )


SIZE = Size()


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a step left."""

    loss: Tensor
    """Of stream 1, ()."""
    rewards: dict[int, Tensor]
    """(B,) by clip layer."""
    kept: Tensor
    """(B, layers)."""
    gradients: list[Tensor | None]
    """Of all parameters."""


Step: TypeAlias = Callable[[], Done]


class Sides:
    """The same network, pictures and random numbers for every way to make a step.

    Args:
        size: of the network and the micro-batch.
        prune: what is pruned, and how rewards are made.
        preset: whose quirks hold.
        share: share of the tokens that each stage keeps by its threshold; None: agents are as they begin.
    """

    def __init__(self, size: Size, prune: PruneConfig, preset: str, share: float | None = None) -> None:
        self.cfg = Config(
            model=size.model,
            data=DataConfig(train_batch_size=size.pictures),
            optim=OptimConfig(gradient_accumulation_steps=1),
            prune=prune,
            quirks=QuirkConfig.of(preset),
        )
        torch.manual_seed(0)
        self.model = build(size.model).train()
        with torch.no_grad():
            self.model.transformer.embeddings.position_embeddings.normal_(std=0.02)  # else 0
        self.x = torch.randn(size.pictures, 3, *size.model.img_size)
        self.y = torch.randint(size.model.num_classes, (size.pictures,))
        if share is not None:
            keep_about(self.model, self.x, share)

    def ours(self) -> Done:
        """As training makes it."""
        self._begin()
        return self._done(train_step(self.model, (self.x, self.y), self.cfg, Draws(self.cfg)))

    def ours_by_torch(self) -> Done:
        """The same with torch's own products and dropout."""
        self._begin()
        draws = Draws(self.cfg)
        streams = by_sharing(self.model, self.x, self.cfg, draws.begin(), draws.generator())
        total, logs = losses(streams, self.y, self.cfg)
        total.backward()
        return self._done(logs)

    def reference(self) -> Done:
        """Five plain passes."""
        self._begin()
        pick = partial(choose, cfg=self.cfg, rng=Draws(self.cfg).begin())
        found = plain_step(self.model, self.x, self.y, Rule.of(self.cfg.prune), pick)
        rewards = {key: value for key, value in found.items() if isinstance(key, int)}
        return Done(loss=found["loss"], rewards=rewards, kept=found["kept"], gradients=self._gradients())

    def reference_by_onednn(self) -> Done:
        """Five plain passes whose products go where ours go."""
        with Faster(dropout=False):
            return self.reference()

    def _begin(self) -> None:
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(1)  # of dropout

    def _done(self, logs: Logs) -> Done:
        rewards = {layer: agent.rewards for layer, agent in logs.agents.items()}
        kept = torch.stack(list(logs.kept.values()), dim=1)
        return Done(loss=logs.loss, rewards=rewards, kept=kept, gradients=self._gradients())

    def _gradients(self) -> list[Tensor | None]:
        return [param.grad for param in self.model.parameters()]


def same(found: Done, expected: Done) -> bool:
    """Equal rewards, gradients and tokens, but for the order of sums."""
    if not torch.equal(found.kept, expected.kept) or found.rewards.keys() != expected.rewards.keys():
        return False
    pairs = [(found.rewards[layer], reward) for layer, reward in expected.rewards.items()]
    if not all(bool((a - b).abs().max() <= REWARDS_CLOSE) for a, b in pairs):
        return False
    for a, b in zip(found.gradients, expected.gradients, strict=True):
        if a is None or b is None or not bool((a - b).abs().max() <= GRADIENTS_CLOSE):
            return False
    return True


def alike(found: Done, expected: Done) -> bool:
    """Losses of different dropout, and equally many tokens."""
    near = bool((found.loss - expected.loss).abs() <= LOSS_ALIKE * expected.loss)
    return near and torch.equal(found.kept, expected.kept)


def measured(name: str, sides: Sides, check: Callable[[Done, Done], bool], goal: float, note: str) -> Row:
    """The row of one setting."""
    return compare(
        name,
        sides.ours,
        sides.reference,
        check,
        extra={BY_TORCH: sides.ours_by_torch, REFERENCE_BY_ONEDNN: sides.reference_by_onednn},
        work=len(sides.x),
        unit="pictures",
        goal=goal,
        note=note,
    )


def whole(size: Size = SIZE) -> Row:
    """Preset faithful without dropout, where agents prune nothing yet."""
    sides = Sides(size, PruneConfig(threshold=1.0, reward_dropout="fresh"), "faithful")
    note = f"preset faithful; {size.describe()}; equal rewards and gradients"
    return measured("training step, no dropout, nothing pruned", sides, same, 1.65, note)


def pruned(size: Size = SIZE, share: float = 0.7) -> Row:
    """Preset faithful without dropout, where each stage prunes, not equally many of each picture."""
    sides = Sides(size, PruneConfig(reward_dropout="fresh"), "faithful", share)
    tokens = sides.reference().kept.double().mean(0)
    before = torch.tensor([float(sides.model.embed(sides.x).shape[1]), *tokens[:-1]])
    off = float((tokens / before - share).abs().max())
    if off > KEPT_ALIKE:
        raise AssertionError(f"training step: stages keep {(tokens / before).tolist()}, expected {share:g}")
    kept = ", ".join(f"{count:.0f}" for count in tokens)
    note = f"preset faithful; {size.describe()}; {kept} tokens kept on average; equal rewards and gradients"
    return measured(f"training step, no dropout, {share:g} kept a stage", sides, same, 2.1, note)


def fixed(size: Size = SIZE, dropout: float = 0.1, keep_rate: float = 0.7) -> Row:
    """Preset fixed with dropout in stream 1 alone; the reference has it in every pass."""
    prune = PruneConfig(keep_rate=keep_rate)
    model = replace(size.model, normalise_agent_input=True)
    quiet = Sides(replace(size, model=model), prune, "fixed")
    if not same(quiet.ours(), quiet.reference()):
        raise AssertionError("training step: the results differ from the reference's")
    noisy = Sides(replace(size, model=replace(model, dropout_rate=dropout)), prune, "fixed")
    note = (
        f"preset fixed; {size.describe()}; rewards without dropout, in the reference with; equal rewards and "
        "gradients without any"
    )
    name = f"training step, dropout {dropout:g}, keep rate {keep_rate:g}"
    return measured(name, noisy, alike, 2.2, note)


def drawn(size: Size = SIZE, dropout: float = 0.1) -> Row:
    """Preset faithful as it trains: each of the five passes draws the original's dropout."""
    sides = Sides(
        replace(size, model=replace(size.model, dropout_rate=dropout)),
        PruneConfig(reward_dropout="fresh"),
        "faithful",
    )
    return compare(
        f"training step, the original's dropout {dropout:g}",
        sides.ours,
        sides.reference,
        same,
        extra={REFERENCE_BY_ONEDNN: sides.reference_by_onednn},
        work=size.pictures,
        unit="pictures",
        goal=1.0,
        note=f"preset faithful; {size.describe()}; five passes here too; equal rewards and gradients",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "step-whole": whole,
    "step-pruned": pruned,
    "step-fixed": fixed,
    "step-dropout": drawn,
}
"""What ``bench`` measures."""
