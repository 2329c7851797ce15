"""The streams of a training step, pass by pass, with the dropout that the original draws.

# B pictures, N tokens with the classification token first, D width, C classes
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apt_vit.config import Config
from apt_vit.learning.actions import Source, choose
from apt_vit.model import Agent, VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.folded import prune_probability
from apt_vit.tokens.passes import Single
from apt_vit.tokens.rules import Rule
from prunelab.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What the streams of a micro-batch give; what a stream does not exist for is None or empty."""

    plain: Tensor | None = None
    """Stream 0's logits (B, C) as rewards see them."""
    trained: Tensor | None = None
    """Stream 0's logits (B, C) with gradients, where they are learnt from."""
    pruned: Tensor | None = None
    """Stream 1's logits (B, C) with gradients."""
    singles: dict[int, Single] = field(default_factory=dict)
    """Stream 2 of each clip layer; only the agents' logits have gradients."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Tokens (B,) that each clip layer left to stream 1."""
    keep_probability: dict[int, Tensor] = field(default_factory=dict)
    """Mean () over stream 1's patch tokens in front of each clip layer, with gradients, if learnt."""


def by_passes(
    model: VisionTransformer, x: Tensor, cfg: Config, source: Source, generator: torch.Generator
) -> Streams:
    """All streams, each from the picture on, in the original's order, so that dropout is drawn as there.

    Streams 0 and 2 keep no graph that nothing asks for, which draws the same.

    Args:
        model: the network; its mode says whether there is dropout.
        x: pictures (B, 3, H, W).
        cfg: which streams there are.
        source: of actions.
        generator: for pruning at random.
    """
    if cfg.prune.method == "plain":
        return Streams(trained=passes.plain(model, x))
    layers = tuple(layer for layer in model.cfg.clip_layers if layer < model.cfg.num_layers)
    acts = cfg.prune.trains_agents
    fresh, learns = cfg.prune.reward_dropout == "fresh", cfg.prune.plain_loss > 0
    plain, trained = None, None
    if acts or learns:
        with torch.set_grad_enabled(learns):
            trained = plain = passes.plain(model, x)
    if acts and not fresh:
        with torch.no_grad(), evaluating(model):
            plain = passes.plain(model, x)
    pruned = passes.masked(model, x, layers, Rule.of(cfg.prune), generator)
    with nullcontext() if fresh else evaluating(model):
        singles = {layer: _single(model, x, layer, cfg, source) for layer in layers} if acts else {}
    return Streams(
        plain=plain,
        trained=trained if learns else None,
        pruned=pruned.logits,
        singles=singles,
        kept=dict(zip(layers, pruned.kept.unbind(1), strict=True)),
        keep_probability=_keep_probability(pruned) if cfg.prune.keep_penalty > 0 else {},
    )


def _single(model: VisionTransformer, x: Tensor, layer: int, cfg: Config, source: Source) -> Single:
    """Stream 2: as `apt_vit.tokens.passes.single`; gradients for the chosen token's agent logits alone."""
    agent, blocks = model.agents[layer], model.blocks
    with torch.no_grad():
        h = model.embed(x)
        for block in blocks[: layer + 1]:
            h = block(h)
        with single_precision(h):
            seen = at_least_single(model.agent_input(h))
            tokens = choose(prune_probability(difference(agent, seen)), cfg, source)
        row = torch.zeros(h.shape[:2], device=h.device).scatter(1, tokens[:, None], passes.PENALTY)
        for block in blocks[layer + 1 :]:
            h = block(h, row[:, None, None])  # (B, 1, 1, N)
        logits = model.classify(h)
    with single_precision(seen):
        return Single(logits=logits, clip_logits=logits_at(agent, seen, tokens), tokens=tokens)


def _keep_probability(pruned: passes.Pruned) -> dict[int, Tensor]:
    """Means over the patch tokens that no layer before has pruned."""
    found: dict[int, Tensor] = {}
    alive: Tensor | None = None
    for layer, said in pruned.agent_logits.items():
        if alive is None:
            alive = torch.ones(said.shape[:2], dtype=torch.bool, device=said.device)
        alive[:, 0] = False
        found[layer] = 1 - Agent.prune_probability(said)[alive].mean()
        alive = pruned.masks[layer] == 0
    return found


# --- agents, cheaply ---


def at_least_single(x: Tensor) -> Tensor:
    """Tokens in single precision; those in double precision as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def single_precision(x: Tensor) -> torch.autocast:
    """Within it nothing is rounded to 16 bits, where decisions are taken; for products on x's device."""
    return torch.autocast(x.device.type, enabled=False)


def direction(agent: Agent, cls: Tensor) -> tuple[Tensor, Tensor]:
    """What an agent comes down to beside given classification tokens.

    The difference of logits, prune less keep, of a token x is ``x . direction + offset``. Agents change with
    every update, so nothing is folded beforehand; see `apt_vit.tokens.folded` for inference.

    Args:
        agent: its four maps; gradients reach them.
        cls: (B, D).

    Returns:
        (B, D) and (B,).
    """
    values, products = agent.fc.weight.chunk(2, dim=1)  # (2, D) each; values come first
    u, w = values[1] - values[0], products[1] - products[0]
    weighed = agent.query(cls) * w  # (B, D)
    offset = weighed @ agent.key.bias + u @ agent.value.bias + agent.fc.bias[1] - agent.fc.bias[0]
    return weighed @ agent.key.weight + u @ agent.value.weight, offset


def difference(agent: Agent, x: Tensor) -> Tensor:
    """Difference of logits, prune less keep, of tokens (B, N, D), the first one CLS: (B, N)."""
    along, offset = direction(agent, x[:, 0])
    return torch.baddbmm(offset[:, None, None], x, along[:, :, None])[..., 0]


def logits_at(agent: Agent, x: Tensor, tokens: Tensor) -> Tensor:
    """The agent's logits (B, 2) of one token (B,) of each picture (B, N, D)."""
    chosen = x[torch.arange(len(x), device=x.device), tokens]  # (B, D)
    product = agent.query(x[:, 0]) * agent.key(chosen)
    return agent.fc(torch.cat((agent.value(chosen), product), dim=-1))
