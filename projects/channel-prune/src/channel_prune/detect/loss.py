"""The loss of SSD.

| symbol | meaning | equation | shape |
|---|---|---|---|
| s | logits of the anchors, class 0 is background | | (B, A, K) |
| p | predicted offsets | | (B, A, 4) |
| c, t | label and offsets of the matched object | `matching.match` | (B, A), (B, A, 4) |
| n+ | matched anchors of a picture | | (B,) |
| n- | hard negatives of a picture | min(floor(negative_ratio n+), its background anchors) | (B,) |
| ce | classification | (negative_ratio + 1) mean CE(s, c) over matched anchors and hard negatives | () |
| loc | place | mean over matched anchors of the sum of smooth_L1(p - t) | () |
| L | what is minimised, beside the decay | min(step / nb_iters_cls_wmup, 1) ce + loc | () |

Hard negatives are the background anchors with the lowest probability of background; all that tie with the
last one are taken as well. smooth_L1(d) is d^2/2 below 1 and |d| - 1/2 above.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from channel_prune.config import Config
from channel_prune.detect.anchors import anchors_of
from channel_prune.detect.matching import Matches, match


def hard_negatives(s: Tensor, matches: Matches, negative_ratio: float) -> Tensor:
    """Which background anchors count, (B, A) bool; none in a picture without matched anchors.

    Args:
        s: logits (B, A, K).
        matches: of the same anchors.
        negative_ratio: how many for each matched anchor.
    """
    background = matches.labels == 0
    wanted = (matches.positive.sum(dim=1) * negative_ratio).long().minimum(background.sum(dim=1))  # (B,)
    most = int(wanted.max()) if len(wanted) else 0
    if most == 0:
        return torch.zeros_like(background)
    probability = s.detach().softmax(dim=-1)[..., 0].masked_fill(~background, torch.inf)
    ranked = probability.topk(most, dim=1, largest=False).values  # (B, most), the lowest first
    # The original takes the value before the first, an error, where nothing is wanted.
    last = ranked.gather(1, (wanted - 1).clamp(min=0)[:, None])
    return background & (probability <= last) & (wanted > 0)[:, None]


def warm_up(step: int, iterations: int) -> float:
    """The weight of classification at a step: it grows from 0 to 1."""
    return min(step / iterations, 1.0) if iterations else 1.0


def loss_terms(
    s: Tensor, p: Tensor, matches: Matches, *, negative_ratio: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """``ce``, ``loc`` and the share of right classes among the anchors that count, each ().

    Where no anchor of the batch is matched, both losses are 0 (and have gradients, which are 0).

    Args:
        s: logits (B, A, K).
        p: offsets (B, A, 4).
        matches: what they should be.
        negative_ratio: hard negatives for each matched anchor.
    """
    positive = matches.positive
    chosen = positive | hard_negatives(s, matches, negative_ratio)
    logits, labels = s[chosen], matches.labels[chosen]
    ce = (negative_ratio + 1) * F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
    found, wanted = p[positive], matches.targets[positive]
    loc = F.smooth_l1_loss(found, wanted, reduction="sum") / max(len(found), 1)
    right = (logits.detach().argmax(dim=-1) == labels).sum() / max(len(labels), 1)
    return ce, loc, right


def detection_loss(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], step: int, cfg: Config
) -> dict[str, Tensor]:
    """The loss of a batch, without the decay.

    Args:
        outputs: of the network: ``loc`` p (B, A, 4) and ``cls`` s (B, A, K).
        targets: ``boxes``, corners (B, N, 4), and ``labels`` (B, N), 0 for padding; on the outputs' device.
        step: how many steps were done before; the classification loss warms up with it.
        cfg: the run's configuration.

    Returns:
        ``loss`` L, and for the log ``ce``, ``loc`` and ``accuracy``, each ().
    """
    detect = cfg.detect
    matches = match(
        targets["boxes"],
        targets["labels"],
        anchors_of(cfg.net.image_size, outputs["loc"].device),
        match_threshold=detect.match_threshold,
        neg_threshold=detect.neg_threshold,
    )
    s, p = outputs["cls"].float(), outputs["loc"].float()
    ce, loc, right = loss_terms(s, p, matches, negative_ratio=detect.negative_ratio)
    loss = warm_up(step, detect.nb_iters_cls_wmup) * ce + loc
    return {"loss": loss, "ce": ce.detach(), "loc": loc.detach(), "accuracy": right}
