"""The best k candidates of a beam search, ties settled."""

from __future__ import annotations

import torch
from torch import Tensor


def top_candidates(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the best candidates over all beams of an image; of equal ones those with the lowest index.

    The result is that of a stable descending sort of each image's M * V scores, cut to ``count``, at the
    price of a selection in each row: `torch.topk` leaves the order of ties open, so ties inside the
    selection are put in order, and only an image whose selection ends within a tie is sorted in full.

    Args:
        scores: (B, M, V).
        count: how many, at most M * V.

    Returns:
        The best scores (B, count), descending, and their indices into M * V (B, count).
    """
    _, beams, vocabulary = scores.shape
    width = min(count, vocabulary)
    found, index = scores.topk(min(width + 1, vocabulary), dim=-1)
    rows = torch.arange(0, beams * vocabulary, vocabulary, device=scores.device).view(1, beams, 1)
    # In the order of their indices, so that a stable sort keeps the lowest of equal ones first.
    flat, order = (index + rows).flatten(1).sort(dim=-1)  # (B, M * (width + 1))
    values, order = found.flatten(1).gather(-1, order).sort(dim=-1, descending=True, stable=True)
    values, flat = values[:, :count], flat.gather(-1, order[:, :count])
    if width < vocabulary:
        last = found[..., width - 1]  # (B, M)
        cut_in_tie = (last == found[..., width]) & (last == values[:, -1:])
        if bool(cut_in_tie.any()):
            unclear = cut_in_tie.any(dim=-1).nonzero().flatten()
            every = scores[unclear].flatten(1)
            best, best_index = every.sort(dim=-1, descending=True, stable=True)
            values = values.index_copy(0, unclear, best[:, :count])
            flat = flat.index_copy(0, unclear, best_index[:, :count])
    return values, flat
