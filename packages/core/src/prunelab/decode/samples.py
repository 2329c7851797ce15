"""What is done with finished samples: where they end, and what a network reads to score them in one pass."""

# L tokens of the longest sample

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def behind_end(tokens: Tensor, eos: int) -> Tensor:
    """Where the end came earlier.

    Args:
        tokens: (..., L) ids after the start.
        eos: id of the end.

    Returns:
        (..., L) of bool.
    """
    ends = (tokens == eos).long()
    return ends.cumsum(dim=-1) > ends


def trimmed(tokens: Tensor, eos: int) -> Tensor:
    """Samples (..., L) without the columns that lie behind every sample's end."""
    return tokens[..., : int((~behind_end(tokens, eos)).sum(dim=-1).max())]


def predecessors(tokens: Tensor, bos: int) -> Tensor:
    """(..., L) The token before each of ``tokens``: ``bos``, then all but the last."""
    return F.pad(tokens[..., :-1], (1, 0), value=bos)
