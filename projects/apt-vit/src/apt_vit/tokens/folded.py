"""Agents for inference: one matrix each, made once, that gives the difference of the two logits.

With c the classification token and w, u, beta the differences "prune less keep" of the last linear map's
weights for the product, for the values, and of its bias, an agent's difference of logits is linear in a token
x:

    d(x) = x (G c + g) + (h c + h0)
    G = Wk' diag(w) Wq      g = Wk' (w * bq) + Wv' u
    h = Wq' (w * bk)        h0 = sum(w * bq * bk) + u bv + beta

so that a picture of N tokens costs D^2 + (N + 1) D in place of D^2 + 2 N D^2 + 4 N D. Decisions are taken on
the probability in single precision, as in the original: the softmax of (0, d) has the same bits as that of
the two logits.

# B pictures, N tokens, D width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apt_vit.model.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What an agent comes down to; fixed at the weights that it had."""

    matrix: Tensor
    """G transposed and beside it h, (D, D + 1): a single classification token goes through it in the order in
    which it lies in memory, which is what its time depends on."""
    bias: Tensor
    """g and h0, (D + 1,)."""

    @classmethod
    @torch.no_grad()
    def of(cls, agent: Agent) -> Folded:
        """Fold an agent; sums are made in double precision."""
        query, key, value = (
            (layer.weight.double(), layer.bias.double()) for layer in (agent.query, agent.key, agent.value)
        )
        width = query[0].shape[1]
        last = agent.fc.weight.double()
        u, w = (last[1] - last[0]).split(width)  # values come first
        beta = (agent.fc.bias[1] - agent.fc.bias[0]).double()
        matrix = torch.cat(
            [query[0].t() @ (w[:, None] * key[0]), (query[0].t() @ (w * key[1]))[:, None]], dim=1
        )
        g = (w * query[1]) @ key[0] + u @ value[0]
        h0 = (w * query[1] * key[1]).sum() + u @ value[1] + beta
        dtype = torch.promote_types(agent.fc.weight.dtype, torch.float32)
        return cls(matrix=matrix.to(dtype).contiguous(), bias=torch.cat([g, h0[None]]).to(dtype))

    def directions(self, cls: Tensor) -> tuple[Tensor, Tensor]:
        """From classification tokens (B, D) to the direction (B, D) and offset (B,) of each picture."""
        both = torch.addmm(self.bias, cls, self.matrix)
        return both[:, :-1], both[:, -1]

    def __call__(self, x: Tensor) -> Tensor:
        """Difference of logits, prune less keep, of tokens x (B, N, D), the first one CLS: (B, N)."""
        direction, offset = self.directions(x[:, 0])
        return torch.baddbmm(offset[:, None, None], x, direction[:, :, None])[..., 0]


def prune_probability(difference: Tensor) -> Tensor:
    """The probability of pruning, in single precision, of a difference of logits of any shape."""
    d = difference.float()
    return torch.stack([torch.zeros_like(d), d], dim=-1).softmax(-1)[..., 1]
