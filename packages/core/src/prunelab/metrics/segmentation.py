"""Areas of segmentation: where prediction and truth agree, and the means that are made of them.

`areas` is the right way: void pixels count nowhere. Two others count as much used code does, for numbers that
were published with it: `areas_closed_bin` (that of a histogram whose last bin is closed) and `areas_histc`
(that of a histogram on the GPU during training). They differ from `areas` only where void pixels occur.

# K classes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from prunelab import dist
from prunelab.errors import UserError

LabelMap: TypeAlias = Tensor | np.ndarray
TINY = 1e-10
"""Added to every denominator; a class that never occurs has 0, and is part of the means."""


@dataclass(frozen=True, kw_only=True)
class Areas:
    """Pixels of each class, each (K,) int64; areas of several pictures are added."""

    intersection: Tensor
    """Predicted and true."""
    union: Tensor
    """Predicted or true."""
    target: Tensor
    """True."""

    @classmethod
    def none(cls, classes: int) -> Areas:
        """Areas of no picture at all."""
        zeros = torch.zeros(classes, dtype=torch.int64)
        return cls(intersection=zeros, union=zeros, target=zeros)

    def __add__(self, other: Areas) -> Areas:
        device = other.target.device
        return Areas(
            intersection=self.intersection.to(device) + other.intersection,
            union=self.union.to(device) + other.union,
            target=self.target.to(device) + other.target,
        )

    def merged(self) -> Areas:
        """The sum over all ranks; collective, the same on every rank, on the CPU."""
        own = [self.intersection.tolist(), self.union.tolist(), self.target.tolist()]
        total = torch.tensor(dist.gather_objects([own])).sum(dim=0)  # (ranks, 3, K) to (3, K)
        return Areas(intersection=total[0], union=total[1], target=total[2])


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What areas amount to; shares in [0, 1]."""

    miou: float
    """Mean of ``iou`` over all K classes, those that never occur included."""
    macc: float
    """Mean of ``accuracy`` over all K classes."""
    allacc: float
    """Share of right pixels."""
    iou: tuple[float, ...]
    """Intersection over union, class by class."""
    accuracy: tuple[float, ...]
    """Intersection over target, class by class."""

    @classmethod
    def of(cls, areas: Areas) -> Scores:
        """Scores in double precision, every denominator with `TINY` added."""
        inter, union, target = (
            part.cpu().double().numpy() for part in (areas.intersection, areas.union, areas.target)
        )
        iou, accuracy = inter / (union + TINY), inter / (target + TINY)
        return cls(
            miou=float(iou.mean()),
            macc=float(accuracy.mean()),
            allacc=float(inter.sum() / (target.sum() + TINY)),
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
        )


Rule: TypeAlias = Callable[[LabelMap, LabelMap, int, int], Areas]
"""(prediction, target, classes, void) to areas."""


def areas(prediction: LabelMap, target: LabelMap, classes: int, void: int = 255) -> Areas:
    """Count on the pixels that are not void.

    A prediction outside of 0..K-1 is a wrong answer. A label that is neither a class nor void belongs to no
    class's target; what was predicted there is wrong.

    Args:
        prediction: integers of any shape and device; left as it is.
        target: the same shape.
        classes: K.
        void: label of the pixels that do not count.

    Raises:
        UserError: ``void`` is one of the classes.
        ValueError: the shapes differ.
    """
    if 0 <= void < classes:
        raise UserError(
            f"ignore_label is {void}, which is one of the {classes} classes; "
            f"expected a label outside of 0..{classes - 1}"
        )
    guess, truth = _pair(prediction, target)
    # A table with a further column for predictions outside of 0..K-1, and rows for other labels and for void.
    guess = torch.where((guess < 0) | (guess >= classes), classes, guess)
    row = torch.where((truth < 0) | (truth >= classes), classes, truth)
    row = torch.where(truth == void, classes + 1, row)
    cells = torch.bincount(row * (classes + 1) + guess, minlength=(classes + 2) * (classes + 1))
    table = cells.view(classes + 2, classes + 1)[: classes + 1]  # (K + 2, K + 1), without void
    inter, true = table.diagonal()[:classes], table[:classes].sum(dim=1)
    return _together(inter, table[:, :classes].sum(dim=0), true)


def areas_closed_bin(prediction: LabelMap, target: LabelMap, classes: int, void: int = 255) -> Areas:
    """Count as ``numpy.histogram`` with edges 0, 1, ..., K does: the last bin also holds the value K.

    Where the target is void the prediction becomes void too. A void label of 255 thereby counts nowhere, but
    one of K (as in CamVid) counts as the last class: as a missed pixel of it if ``void`` is left at 255, as a
    right one if ``void`` is K. Any other void label below K counts as a right pixel of that class.
    """
    guess, truth = _pair(prediction, target)

    def histogram(values: Tensor) -> Tensor:
        # (K,): what lies outside of 0..K is dropped, K joins K - 1
        inside = values[(values >= 0) & (values <= classes)].clamp(max=classes - 1)
        return torch.bincount(inside, minlength=classes)

    return _with_void_agreeing(guess, truth, void, histogram)


def areas_histc(prediction: LabelMap, target: LabelMap, classes: int, void: int = 255) -> Areas:
    """Count as ``torch.histc`` with K bins from 0 to K - 1 does: other values are dropped.

    Where the target is void the prediction becomes void too, so a void label outside of 0..K-1 counts nowhere
    and one inside counts as a right pixel of that class.
    """
    guess, truth = _pair(prediction, target)

    def histogram(values: Tensor) -> Tensor:
        # (K,)
        return torch.bincount(values[(values >= 0) & (values < classes)], minlength=classes)

    return _with_void_agreeing(guess, truth, void, histogram)


def _with_void_agreeing(
    guess: Tensor, truth: Tensor, void: int, histogram: Callable[[Tensor], Tensor]
) -> Areas:
    guess = torch.where(truth == void, void, guess)
    return _together(histogram(guess[guess == truth]), histogram(guess), histogram(truth))


def _together(inter: Tensor, predicted: Tensor, true: Tensor) -> Areas:
    return Areas(intersection=inter, union=predicted + true - inter, target=true)


def _pair(prediction: LabelMap, target: LabelMap) -> tuple[Tensor, Tensor]:
    """Both as flat int32 tensors on the prediction's device."""
    guess, truth = (
        torch.from_numpy(m) if isinstance(m, np.ndarray) else m.detach() for m in (prediction, target)
    )
    if guess.shape != truth.shape:
        raise ValueError(f"prediction {tuple(guess.shape)} and target {tuple(truth.shape)} differ in shape")
    return guess.flatten().int(), truth.flatten().to(guess.device).int()


def best_constant(target: Tensor) -> tuple[int, Scores]:
    """The one class that is best said of every pixel, and what that scores: what a network must beat.

    Args:
        target: pixels of each class (K,), `Areas.target` of the whole data set.

    Returns:
        The most frequent class, and its scores.
    """
    best = int(target.argmax())
    inter, union = torch.zeros_like(target), target.clone()
    inter[best], union[best] = target[best], target.sum()
    return best, Scores.of(Areas(intersection=inter, union=union, target=target))


class SegmentationMeter:
    """Sums areas over pictures, and over processes.

    Args:
        classes: K.
        void: label of the pixels that do not count.
        rule: how it is counted: `areas`, `areas_closed_bin` or `areas_histc`.
    """

    def __init__(self, classes: int, void: int = 255, rule: Rule = areas) -> None:
        self.classes, self.void, self.rule = classes, void, rule
        self.areas = Areas.none(classes)

    def update(self, prediction: LabelMap, target: LabelMap) -> Areas:
        """Take in pictures, and return the areas of these alone.

        Raises:
            UserError: see the rule.
        """
        found = self.rule(prediction, target, self.classes, self.void)
        self.areas = self.areas + found
        return found

    def merged(self) -> SegmentationMeter:
        """The meter of what all ranks took in together; collective, the same on every rank."""
        whole = SegmentationMeter(self.classes, self.void, self.rule)
        whole.areas = self.areas.merged()
        return whole

    def scores(self) -> Scores:
        """Scores of what this process took in."""
        return Scores.of(self.areas)
