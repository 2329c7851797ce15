"""Finished samples: where they end."""

# L tokens of the longest sample

from __future__ import annotations

from torch import Tensor


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
