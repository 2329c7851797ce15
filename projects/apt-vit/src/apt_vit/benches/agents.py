"""Agents of random weights that drop as many tokens as trained ones would.

# B pictures, N tokens with the classification token first
"""

from __future__ import annotations

import torch
from torch import Tensor

from apt_vit.model import VisionTransformer
from apt_vit.tokens import passes
from apt_vit.tokens.macs import lengths_of
from apt_vit.tokens.rules import Rule


@torch.no_grad()
def keep_about(model: VisionTransformer, images: Tensor, keep_rate: float) -> None:
    """Shift the agents' biases so that their threshold keeps a share of the tokens of all pictures together.

    A picture keeps another number than the next; their mean is what `Rule` with this rate keeps of each.

    Args:
        model: whose agents are shifted.
        images: (B, 3, H, W).
        keep_rate: share that each agent keeps.
    """
    tokens, rule = lengths_of(model.cfg)[0], Rule(keep_rate=keep_rate)
    alive = torch.ones(len(images), tokens, dtype=torch.bool)
    active: list[int] = []
    for layer, agent in model.agents.items():
        active.append(layer)
        said = passes.masked(model, images, active, Rule()).agent_logits[layer]
        difference = (said[..., 1] - said[..., 0])[:, 1:]
        values = difference[alive[:, 1:]].sort().values
        tokens = rule.count(tokens)
        cut = len(images) * (tokens - 1)  # the classification tokens stay anyway
        middle = (values[cut - 1] + values[cut]) / 2
        agent.fc.bias[1] -= middle
        alive[:, 1:] &= difference <= middle
