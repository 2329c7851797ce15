"""Which anchor answers for which object: by overlap, and every object gets at least one.

# B pictures, N objects of a picture (padded), A anchors
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from channel_prune.detect.anchors import corners, encode

IGNORED = -1
"""Label of an anchor that is neither matched nor background."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What every anchor has to answer."""

    labels: Tensor
    """Class of the matched object, 0 for background, `IGNORED` between; (B, A) int64."""
    targets: Tensor
    """Offsets of the matched object (B, A, 4), zeros elsewhere."""
    scores: Tensor
    """Overlap with the matched object (B, A), zeros elsewhere."""

    @property
    def positive(self) -> Tensor:
        """Which anchors are matched, (B, A) bool."""
        return self.labels > 0


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of all pairs; 0 where both are empty.

    Args:
        boxes: corners (..., N, 4).
        others: corners (A, 4).

    Returns:
        (..., N, A).
    """
    boxes = boxes.unsqueeze(-2)  # (..., N, 1, 4)
    # Side by side: a product over an axis of two is several times slower.
    height, width = (
        torch.minimum(boxes[..., side + 2], others[:, side + 2])
        .sub_(torch.maximum(boxes[..., side], others[:, side]))
        .clamp_(min=0)
        for side in (0, 1)
    )
    common = height.mul_(width)
    union = (_areas(boxes) + _areas(others)).sub_(common)
    return torch.where(union > 0, common / union, 0.0)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@torch.no_grad()
def match(
    boxes: Tensor,
    labels: Tensor,
    anchors: Tensor,
    *,
    match_threshold: float = 0.5,
    neg_threshold: float = 0.5,
) -> Matches:
    """Match a batch's objects with anchors.

    An anchor is matched with the object that it overlaps most, from ``match_threshold`` on. Besides, every
    object is matched with the anchor that overlaps it most, whatever that anchor would prefer; of objects
    with the same best anchor the one that overlaps it more has it, of equal ones the first. An object beside
    all anchors overlaps them all by 0: the first object of the picture gets its anchor.

    Args:
        boxes: corners (B, N, 4).
        labels: classes from 1 (B, N); 0 is padding.
        anchors: centres (A, 4).
        match_threshold: overlap from which an anchor is matched.
        neg_threshold: overlap below which it is background.
    """
    batch, count = labels.shape
    if count == 0:
        shape = (batch, len(anchors))
        none = boxes.new_zeros(shape)
        return Matches(labels=labels.new_zeros(shape), targets=boxes.new_zeros(*shape, 4), scores=none)
    real = labels > 0
    share = overlaps(boxes, corners(anchors))  # (B, N, A)
    share = share.masked_fill(~real[..., None], -1.0)
    best, chosen = share.amax(dim=1), share.argmax(dim=1)  # (B, A); of equal ones the first
    positive = best >= match_threshold
    ignored = (best >= neg_threshold) & ~positive
    forced, claimant = _claims(share, real)
    chosen = torch.where(forced, claimant, chosen)
    positive, ignored = positive | forced, ignored & ~forced
    picked = boxes.gather(1, chosen[..., None].expand(-1, -1, 4))  # (B, A, 4)
    found = torch.where(positive, labels.gather(1, chosen), ignored * IGNORED)
    # A background anchor is encoded as itself, so that padding gives no logarithm of zero.
    picked = torch.where(positive[..., None], picked, corners(anchors))
    return Matches(
        labels=found,
        targets=torch.where(positive[..., None], encode(picked, anchors), 0.0),
        scores=torch.where(positive, share.gather(1, chosen[:, None])[:, 0], 0.0),
    )


def _claims(share: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Anchors that an object claims as its best one (B, A), and which object has each (B, A).

    Args:
        share: overlaps (B, N, A), below 0 for padding.
        real: which objects are no padding, (B, N).
    """
    batch, count, anchors = share.shape
    anchor = share.argmax(dim=2)  # (B, N)
    overlap = share.gather(2, anchor[..., None])[..., 0]
    # Rivals of an object are those with the same best anchor, itself included: (B, N, N)
    rivals = (anchor[:, :, None] == anchor[:, None]) & real[:, None]
    best, winner = overlap[:, None].expand(-1, count, -1).where(rivals, -1.0).max(dim=2)
    winner = winner.where(best > 0, real.to(torch.uint8).argmax(dim=1, keepdim=True))
    forced = torch.zeros(batch, anchors + 1, dtype=torch.bool, device=share.device)
    claimant = torch.zeros(batch, anchors + 1, dtype=torch.long, device=share.device)
    place = anchor.where(real, anchors)  # padding claims an anchor that is cut off
    forced.scatter_(1, place, True)
    claimant.scatter_(1, place, winner)  # rivals write the same
    return forced[:, :-1], claimant[:, :-1]
