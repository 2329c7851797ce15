"""The passes of the network, plainly, as the method is defined: what every faster way is compared with.

stream  what happens                                                          here
0       no agent runs, nothing is pruned                                      `plain`
1       clip layers prune many tokens: as keys, by a mask, or really          `masked`, `dropped`
2       one clip layer prunes one token of each picture                       `single`

# B batch, N tokens with the classification token first, L clip layers, C classes, H heads
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apt_vit.model import Agent, VisionTransformer
from apt_vit.tokens.rules import Rule

PENALTY = -10000.0
"""Added to the scores of a pruned key, once for each time that it is pruned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """What a masked pass gives."""

    logits: Tensor
    """(B, C)."""
    agent_logits: dict[int, Tensor]
    """What the agent behind each clip layer said of all tokens, (B, N, 2); empty under other methods."""
    masks: dict[int, Tensor]
    """What is added to scores of keys behind each clip layer, (B, N): 0 for tokens that remain."""
    kept: Tensor
    """Tokens that remain behind each clip layer, (B, L) int64."""


class Single(NamedTuple):
    """What a pass with a single action gives."""

    logits: Tensor
    """(B, C)."""
    clip_logits: Tensor
    """The agent's logits of the chosen tokens, (B, 2)."""
    tokens: Tensor
    """The chosen tokens, (B,) int64."""


class Dropped(NamedTuple):
    """What a pass of one picture that really drops tokens gives."""

    logits: Tensor
    """(1, C)."""
    kept: dict[int, Tensor]
    """Places in the unpruned sequence of the tokens behind each clip layer, (n,) int64."""
    lengths: list[int]
    """Tokens that enter each block."""


def plain(model: VisionTransformer, images: Tensor) -> Tensor:
    """Stream 0: pictures (B, 3, H, W) to logits (B, C); nothing is pruned."""
    return model(images)


def masked(
    model: VisionTransformer,
    images: Tensor,
    layers: Iterable[int],
    rule: Rule,
    generator: torch.Generator | None = None,
) -> Pruned:
    """Stream 1: pruned tokens vanish as keys, and go on as queries.

    Args:
        model: the network.
        images: (B, 3, H, W).
        layers: blocks behind which tokens are pruned; those beyond the depth never come.
        rule: which tokens are pruned.
        generator: draws for method random, on the CPU.

    Raises:
        ValueError: a block is listed that the network has no agent for, and the rule asks agents.
    """
    active = _active(model, layers, rule)
    x = model.embed(images)
    row = torch.zeros(x.shape[:2], device=x.device)  # (B, N): the mask of keys, the same for all queries
    said: dict[int, Tensor] = {}
    masks: dict[int, Tensor] = {}
    for number, block in enumerate(model.blocks):
        before, mask = x, row[:, None, None]  # (B, 1, 1, N)
        x = block(x, mask)
        if number not in active:
            continue
        if rule.method == "agent":
            said[number] = model.agents[number](model.agent_input(x))
            score = Agent.prune_probability(said[number])
        elif rule.method == "cls-attention":
            score = -block.cls_attention(before, mask)
        else:
            batch, tokens = row.shape
            score = rule.random_score(batch, tokens, number, generator=generator, device=x.device)
        row = row + PENALTY * rule.prune(score.detach(), row == 0)
        masks[number] = row
    counts = [(mask == 0).sum(1) for mask in masks.values()]
    kept = torch.stack(counts, dim=1) if counts else row.new_zeros((len(x), 0), dtype=torch.int64)
    return Pruned(logits=model.classify(x), agent_logits=said, masks=masks, kept=kept)


def single(
    model: VisionTransformer, images: Tensor, layer: int, choose: Callable[[Tensor], Tensor]
) -> Single:
    """Stream 2: one token of each picture is pruned behind one clip layer.

    Args:
        model: the network.
        images: (B, 3, H, W).
        layer: the clip layer.
        choose: prune probabilities (B, N) to one token of each picture, (B,); see `apt_vit.learning.actions`.

    Raises:
        ValueError: the network has no such block, or no agent behind it.
    """
    if layer not in model.agents:
        raise ValueError(f"clip layer {layer}, expected one of {sorted(model.agents)}")
    x = model.embed(images)
    for block in model.blocks[: layer + 1]:
        x = block(x)
    said = model.agents[layer](model.agent_input(x))
    tokens = choose(Agent.prune_probability(said).detach())
    row = torch.zeros(x.shape[:2], device=x.device).scatter(1, tokens[:, None], PENALTY)
    for block in model.blocks[layer + 1 :]:
        x = block(x, row[:, None, None])  # (B, 1, 1, N)
    clip_logits = said[torch.arange(len(x), device=x.device), tokens]
    return Single(logits=model.classify(x), clip_logits=clip_logits, tokens=tokens)


def dropped(
    model: VisionTransformer,
    image: Tensor,
    layers: Iterable[int],
    rule: Rule,
    generator: torch.Generator | None = None,
) -> Dropped:
    """Stream 1 with tokens that really go, one picture at a time; logits are those of `masked`.

    Args:
        model: the network.
        image: (1, 3, H, W).
        layers: blocks behind which tokens are dropped; those beyond the depth never come.
        rule: which tokens are dropped.
        generator: draws for method random, on the CPU.

    Raises:
        ValueError: more than one picture, or a block is listed that the network has no agent for, and the
            rule asks agents.
    """
    if len(image) != 1:
        raise ValueError(f"{len(image)} pictures, expected 1: each keeps tokens of its own")
    active = _active(model, layers, rule)
    x = model.embed(image)
    tokens = x.shape[1]
    places = torch.arange(tokens, device=x.device)
    kept: dict[int, Tensor] = {}
    lengths: list[int] = []
    for number, block in enumerate(model.blocks):
        lengths.append(x.shape[1])
        before = x
        x = block(x)
        if number not in active:
            continue
        if rule.method == "agent":
            score = Agent.prune_probability(model.agents[number](model.agent_input(x)))
        elif rule.method == "cls-attention":
            score = -block.cls_attention(before)
        else:
            score = rule.random_score(1, tokens, number, generator=generator, device=x.device)[:, places]
        stays = rule.keep(score.detach(), torch.ones_like(score, dtype=torch.bool))[0]
        x, places = x[:, stays], places[stays]
        kept[number] = places
    return Dropped(logits=model.classify(x), kept=kept, lengths=lengths)


def attention_maps(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """What each query sees of each key in every block, (B, H, N, N); nothing is pruned."""
    x = model.embed(images)
    maps: list[Tensor] = []
    for block in model.blocks:
        maps.append(block.attn.probabilities(block.attention_norm(x)))
        x = block(x)
    return maps


def _active(model: VisionTransformer, layers: Iterable[int], rule: Rule) -> Collection[int]:
    """The clip layers that a pass meets."""
    wanted = {layer for layer in layers if layer < model.cfg.num_layers} if rule.prunes else set()
    without = sorted(wanted - model.agents.keys()) if rule.needs_agents else []
    if without:
        raise ValueError(f"clip layers {without} have no agent, expected some of {sorted(model.agents)}")
    return wanted
