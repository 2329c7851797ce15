"""The original's way to train on a micro-batch, written down plainly: what the bench of steps compares with.

Five passes, each from the pictures on; masks of (B, 1, N, N) are added to the scores; agents are four linear
maps over all tokens; stream 0 keeps a graph that nothing asks for; each loss has its own backward pass.

# B pictures, N tokens with the classification token first, D width, H heads, C classes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.model import Agent, Block, VisionTransformer
from apt_vit.tokens.rules import Rule

MASKED = -10000.0
Choose = Callable[[Tensor], Tensor]
"""Prune probabilities (B, N) to one token (B,) of each picture."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass gives."""

    logits: Tensor
    """(B, C)."""
    clip_logits: Tensor | None = None
    """The agent's logits at the tokens that were chosen, (B, 2)."""
    tokens: Tensor | None = None
    """The chosen tokens, (B,)."""
    kept: tuple[Tensor, ...] = ()
    """Tokens (B,) behind each clip layer."""


def plain_step(
    model: VisionTransformer, x: Tensor, y: Tensor, rule: Rule, choose: Choose
) -> dict[int | str, Tensor]:
    """All passes and backward passes of a micro-batch; gradients are added to the parameters'.

    Returns:
        Rewards (B,) and chosen tokens (B,) by clip layer (``2``, ``"tokens 2"``), the loss of stream 1
        (``loss``) and the tokens that it was left with (``kept``, (B, layers)).
    """
    layers = tuple(model.agents)
    p_old = _true(run(model, x, (), rule).logits, y)
    many = run(model, x, layers, rule)
    loss = F.cross_entropy(many.logits, y)
    loss.backward()
    found: dict[int | str, Tensor] = {"loss": loss.detach(), "kept": torch.stack(many.kept, dim=1)}
    for layer in layers:
        one = run(model, x, (layer,), rule, choose)
        assert one.clip_logits is not None
        assert one.tokens is not None
        reward = _true(one.logits, y) - p_old
        F.cross_entropy(one.clip_logits, (reward > 0).long()).backward()
        found[layer], found[f"tokens {layer}"] = reward, one.tokens
    return found


def run(
    model: VisionTransformer,
    x: Tensor,
    layers: tuple[int, ...],
    rule: Rule,
    choose: Choose | None = None,
) -> Pass:
    """One pass: without layers stream 0; with ``choose`` stream 2, else stream 1."""
    x = model.embed(x)
    mask = x.new_zeros(len(x), 1, x.shape[1], x.shape[1])  # (B, 1, N, N)
    clip_logits, tokens, kept = None, None, []
    for number, block in enumerate(model.blocks):
        x = _block(block, x, mask)
        if number not in layers:
            continue
        said = _agent(model.agents[number], model.agent_input(x))
        probability = said.softmax(-1)[..., 1]
        if choose is None:
            pruned = rule.prune(probability, mask[:, 0, 0] == 0)
        else:
            tokens = choose(probability.detach())
            pruned = torch.zeros_like(probability, dtype=torch.bool).scatter(1, tokens[:, None], True)
            clip_logits = said[torch.arange(len(x)), tokens]
        mask = mask + MASKED * pruned[:, None, None].expand(-1, -1, x.shape[1], -1)
        kept.append((mask[:, 0, 0] == 0).sum(1))
    return Pass(logits=model.classify(x), clip_logits=clip_logits, tokens=tokens, kept=tuple(kept))


def _true(logits: Tensor, y: Tensor) -> Tensor:
    return logits.detach().softmax(-1)[torch.arange(len(y)), y]


def _agent(agent: Agent, x: Tensor) -> Tensor:
    query, key, value = agent.query(x[:, :1]), agent.key(x), agent.value(x)
    return agent.fc(torch.cat((value, query * key), dim=-1))


def _block(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    attn, ffn = block.attn, block.ffn
    h = block.attention_norm(x)
    query, key, value = (_heads(layer(h), attn.heads) for layer in (attn.query, attn.key, attn.value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask  # (B, H, N, N)
    seen = F.dropout(scores.softmax(-1), attn.dropout, block.training)
    context = (seen @ value).transpose(1, 2).flatten(2)  # (B, N, D)
    x = x + F.dropout(attn.out(context), attn.dropout, block.training)
    hidden = F.dropout(F.gelu(ffn.fc1(block.ffn_norm(x))), ffn.dropout, block.training)
    return x + F.dropout(ffn.fc2(hidden), ffn.dropout, block.training)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) to (B, H, N, D / H)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
