"""From the network's outputs to detections: decode, choose, clip, drop what is small, suppress doubles.

Two ways with equal detections: `padded_detections` gives, as the original does, a fixed number of rows for
every class, filled up with boxes of nothing; `detections` gives what was found, for a whole batch.

# B pictures, A anchors, K classes with background, n detections
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from channel_prune.config import DetectConfig
from channel_prune.detect.anchors import decode


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one picture, class by class and the surest first in each."""

    labels: Tensor
    """Classes from 1, (n,) int64."""
    scores: Tensor
    """(n,)."""
    boxes: Tensor
    """Corners (ymin, xmin, ymax, xmax) as shares of the picture's sides, (n, 4)."""

    def ranked(self) -> Detections:
        """The same, the surest of all classes first."""
        order = self.scores.argsort(descending=True, stable=True)
        return Detections(labels=self.labels[order], scores=self.scores[order], boxes=self.boxes[order])

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def detections(logits: Tensor, boxes: Tensor, detect: DetectConfig) -> list[Detections]:
    """What was found in each picture of a batch.

    Args:
        logits: (B, A, K).
        boxes: decoded corners (B, A, 4).
        detect: thresholds: ``select_threshold``, ``min_size``, ``keep_topk`` boxes of a class before the
            suppression, ``nms_threshold``, ``nms_topk`` boxes after it.
    """
    probabilities = logits.float().softmax(dim=-1)
    boxes = boxes.float().clamp(0.0, 1.0)
    large = ((boxes[..., 2:] - boxes[..., :2]) > detect.min_size).all(dim=-1)  # (B, A)
    chosen = (probabilities[..., 1:] > detect.select_threshold) & large[..., None]
    # Sorted by picture, class, anchor: (B, A, K - 1) to (B, K - 1, A)
    picture, place, row = chosen.transpose(1, 2).nonzero(as_tuple=True)
    group = picture * (logits.shape[-1] - 1) + place
    counts = group.unique_consecutive(return_counts=True)[1].tolist()
    scores, corners, labels = probabilities[picture, row, place + 1], boxes[picture, row], place + 1
    kept: list[Tensor] = []
    first = 0
    for count in counts:
        kept.append(first + _kept(scores[first : first + count], corners[first : first + count], detect))
        first += count
    every = torch.cat(kept) if kept else row[:0]
    sizes = picture[every].bincount(minlength=len(logits)).tolist()
    parts = zip(*(part[every].split(sizes) for part in (labels, scores, corners)), strict=True)
    return [Detections(labels=part[0], scores=part[1], boxes=part[2]) for part in parts]


def _kept(scores: Tensor, boxes: Tensor, detect: DetectConfig) -> Tensor:
    """Which boxes of one class of one picture stay, the surest first."""
    from torchvision.ops import nms

    best = scores.argsort(descending=True, stable=True)[: detect.keep_topk]
    return best[nms(boxes[best], scores[best], detect.nms_threshold)[: detect.nms_topk]]


@torch.no_grad()
def padded_detections(logits: Tensor, boxes: Tensor, detect: DetectConfig) -> tuple[Tensor, Tensor]:
    """The rows of one picture that the original's evaluation gives, zeros included.

    Args:
        logits: (A, K).
        boxes: decoded corners (A, 4).
        detect: see `detections`.

    Returns:
        Scores (K - 1, nms_topk) and boxes (K - 1, nms_topk, 4): those found, then zeros.
    """
    found = detections(logits[None], boxes[None], detect)[0]
    classes, rows = logits.shape[1] - 1, detect.nms_topk
    scores, places = found.scores.new_zeros(classes, rows), found.boxes.new_zeros(classes, rows, 4)
    for label in range(1, classes + 1):
        mine = found.labels == label
        count = int(mine.sum())
        scores[label - 1, :count], places[label - 1, :count] = found.scores[mine], found.boxes[mine]
    return scores, places


@torch.no_grad()
def detect_boxes(outputs: Mapping[str, Tensor], anchors: Tensor, detect: DetectConfig) -> list[Detections]:
    """Detections of a batch from what the network says.

    Args:
        outputs: ``loc`` (B, A, 4) and ``cls`` (B, A, K).
        anchors: centres (A, 4).
        detect: see `detections`.
    """
    return detections(outputs["cls"], decode(outputs["loc"].float(), anchors), detect)
