"""Average precision of detectors, as Pascal VOC's challenges define it.

Detections of a class are taken in the order of their scores. One hits an object if it overlaps this one most
of all objects of the class in its picture, and by more than a threshold; the first that hits an object is
right, later ones are wrong. Difficult objects count neither as found nor as missed.

Boxes are xmin, ymin, xmax, ymax in pixels; areas are products of differences (no pixel is added).

# n detections, m objects, K classes
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from prunelab import dist

ELEVEN = 11
"""Levels of recall of the challenge of 2007: 0, 0.1, ..., 1."""
_CHUNK = 65536  # detections whose overlaps are computed at a time


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """What one class's detections are worth."""

    recall: np.ndarray
    """After each detection, the surest first, (n,); not a number where there is nothing to find."""
    precision: np.ndarray
    """After each detection, (n,)."""
    objects: int
    """Objects to find: those that are not difficult."""
    voc07: float
    """Average precision: mean over `ELEVEN` levels of recall of the best precision from there on."""
    integral: float
    """Average precision: area under the precision that is made to fall."""


def average_precision_voc07(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean of the best precision at recalls of at least 0, 0.1, ..., 1; 0 where a recall is not reached.

    Args:
        recall: rising (n,); where it is not a number, nothing counts as reached.
        precision: (n,).
    """
    best = 0.0
    for level in np.arange(ELEVEN) * 0.1:  # 0.1 * 3 lies above 0.3: as it was computed for published tables
        reached = precision[recall >= level]
        best += float(reached.max(initial=0.0))
    return best / ELEVEN


def average_precision_integral(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision as a function of recall, each value raised to the best one behind it.

    Args:
        recall: rising (n,).
        precision: (n,).
    """
    if not len(recall):
        return 0.0
    if np.isnan(recall).any():
        return math.nan
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))


def score_class(
    truth: Mapping[str, tuple[np.ndarray, np.ndarray]],
    pictures: Sequence[str],
    scores: np.ndarray,
    boxes: np.ndarray,
    *,
    iou_threshold: float = 0.5,
    stable: bool = True,
) -> ClassScore:
    """Score one class's detections.

    Args:
        truth: for each picture the boxes (m, 4) of the class's objects and which are difficult (m,) bool;
            pictures without any may be missing.
        pictures: of each detection, n names.
        scores: (n,).
        boxes: (n, 4).
        iou_threshold: overlap that must be exceeded.
        stable: of equal scores the earlier detection comes first; else as numpy's default sort leaves them.
    """
    order: np.ndarray = np.argsort(-scores, kind="stable" if stable else None)
    names = [str(pictures[place]) for place in order.tolist()]
    objects, first, counts = _flat(truth)
    sizes = np.array([counts.get(name, 0) for name in names], np.int64)
    starts = np.array([first.get(name, 0) for name in names], np.int64)
    hit = np.full(len(names), -1, np.int64)  # the object that is overlapped most, if enough
    for begin in range(0, len(names), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        hit[part] = _hits(boxes[order[part]], objects.boxes, starts[part], sizes[part], iou_threshold)
    easy = (hit >= 0) & ~objects.difficult[hit] if len(objects.difficult) else np.zeros(len(names), bool)
    right = np.zeros(len(names), bool)
    places = np.flatnonzero(easy)
    right[places[np.unique(hit[places], return_index=True)[1]]] = True  # the first one of each object
    wrong = (hit < 0) | (easy & ~right)
    found, missed = np.cumsum(right, dtype=np.float64), np.cumsum(wrong, dtype=np.float64)
    wanted = int((~objects.difficult).sum())
    recall = found / wanted if wanted else np.full(len(names), math.nan)
    precision = found / np.maximum(found + missed, np.finfo(np.float64).eps)
    return ClassScore(
        recall=recall,
        precision=precision,
        objects=wanted,
        voc07=average_precision_voc07(recall, precision),
        integral=average_precision_integral(recall, precision),
    )


@dataclass(frozen=True, kw_only=True)
class _Objects:
    boxes: np.ndarray
    difficult: np.ndarray


def _flat(
    truth: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[_Objects, dict[str, int], dict[str, int]]:
    """All objects one after the other, where those of each picture begin, and how many they are."""
    first, counts, total = {}, {}, 0
    for name, (boxes, _) in truth.items():
        first[name], counts[name] = total, len(boxes)
        total += len(boxes)
    boxes = [np.asarray(b, np.float64).reshape(-1, 4) for b, _ in truth.values()]
    difficult = [np.asarray(d, bool) for _, d in truth.values()]
    objects = _Objects(
        boxes=np.concatenate(boxes) if boxes else np.zeros((0, 4)),
        difficult=np.concatenate(difficult) if difficult else np.zeros(0, bool),
    )
    return objects, first, counts


def _hits(
    boxes: np.ndarray, objects: np.ndarray, starts: np.ndarray, sizes: np.ndarray, threshold: float
) -> np.ndarray:
    """Which object each box overlaps most, -1 where none exceeds the threshold, (n,).

    A picture's objects are padded to the most that one picture has: (n, most) overlaps.
    """
    most = int(sizes.max(initial=0))
    if most == 0:
        return np.full(len(boxes), -1, np.int64)
    places = starts[:, None] + np.minimum(np.arange(most), np.maximum(sizes[:, None] - 1, 0))  # (n, most)
    there = np.arange(most) < sizes[:, None]
    others = objects[np.minimum(places, len(objects) - 1)]  # (n, most, 4)
    low = np.maximum(others[..., :2], boxes[:, None, :2])
    sides = np.maximum(np.minimum(others[..., 2:], boxes[:, None, 2:]) - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    union = _areas(boxes)[:, None] + _areas(others) - common
    share = np.where(there, common / np.where(union > 0, union, 1.0), -1.0)
    best = share.argmax(axis=1)
    rows = np.arange(len(boxes))
    return np.where(share[rows, best] > threshold, places[rows, best], -1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """What a detector's answers are worth."""

    voc07: dict[str, float | None]
    """Average precision of each class over 11 levels of recall; None: there is nothing to find."""
    integral: dict[str, float | None]
    """Average precision of each class as an area; None: there is nothing to find."""
    map_voc07: float
    """Mean of ``voc07`` over the classes that have one."""
    map_integral: float
    """Mean of ``integral`` over the classes that have one."""
    classes: dict[str, ClassScore]
    """All of each class."""

    @classmethod
    def of(cls, classes: dict[str, ClassScore], empty: float | None = None) -> DetectionScores:
        """Means over classes.

        Args:
            classes: scores by name.
            empty: what a class without an object to find has over 11 levels of recall.
        """
        voc07 = {name: score.voc07 if score.objects else empty for name, score in classes.items()}
        integral = {name: score.integral if score.objects else None for name, score in classes.items()}
        return cls(
            voc07=voc07,
            integral=integral,
            map_voc07=_mean(voc07.values()),
            map_integral=_mean(integral.values()),
            classes=classes,
        )


def _mean(values: Iterable[float | None]) -> float:
    """Mean of what is there; 0 where nothing is."""
    there = [value for value in values if value is not None]
    return sum(there) / max(len(there), 1)


class _Picture(NamedTuple):
    """Detections and objects of one picture."""

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    true_labels: np.ndarray
    true_boxes: np.ndarray
    difficult: np.ndarray


Truth: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each picture the boxes (m, 4) of a class's objects, and which are difficult (m,) bool."""


class VocDetectionMeter:
    """Collects detections and objects, picture by picture and over processes, and scores them.

    The arguments from ``score_digits`` on repeat what published numbers were computed with.

    Args:
        classes: names of the classes; label k is the k-th, from 1.
        iou_threshold: overlap that a hit must exceed.
        score_digits: decimals that scores are rounded to before they are ranked; None: they are not.
        gt_offset: added to the coordinates of objects.
        empty_class_ap: whether a class without an object to find enters the mean over 11 levels, with 0;
            else it is left out.
        stable: see `score_class`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        iou_threshold: float = 0.5,
        score_digits: int | None = None,
        gt_offset: float = 0.0,
        empty_class_ap: bool = False,
        stable: bool = True,
    ) -> None:
        self.classes = tuple(classes)
        self.options: dict[str, Any] = {
            "iou_threshold": iou_threshold,
            "score_digits": score_digits,
            "gt_offset": gt_offset,
            "empty_class_ap": empty_class_ap,
            "stable": stable,
        }
        self.pictures: dict[str, _Picture] = {}

    def update(
        self,
        picture: str,
        found: tuple[np.ndarray, np.ndarray, np.ndarray],
        objects: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> None:
        """Take in one picture; one that was taken in before is replaced.

        Args:
            picture: its name.
            found: labels (n,), scores (n,) and boxes (n, 4) of the detections.
            objects: labels (m,), boxes (m, 4) and whether they are difficult (m,) of the objects.
        """
        self.pictures[picture] = _Picture(*found, *objects)

    def merged(self) -> VocDetectionMeter:
        """The meter of what all ranks took in together, each picture once; collective, the same on each."""
        whole = VocDetectionMeter(self.classes, **self.options)
        items = dist.gather_objects(list(self.pictures.items()), key=lambda item: item[0])
        # In the order of names: of equal scores the same comes first for every number of processes.
        whole.pictures = dict(sorted(items, key=lambda item: item[0]))
        return whole

    def scores(self) -> DetectionScores:
        """Score what this process took in."""
        names = np.array(list(self.pictures), object)
        parts = list(self.pictures.values())
        pictures = np.repeat(names, [len(part.labels) for part in parts])
        labels, scores, boxes = (
            np.concatenate([np.zeros(shape), *(np.asarray(part[place], np.float64) for part in parts)])
            for place, shape in enumerate((0, 0, (0, 4)))
        )
        if self.options["score_digits"] is not None:
            scores = scores.round(self.options["score_digits"])
        truths = self._truths()
        rule = {name: self.options[name] for name in ("iou_threshold", "stable")}
        classes = {}
        for label, name in enumerate(self.classes, 1):
            mine = labels == label
            classes[name] = score_class(
                truths[label - 1], pictures[mine].tolist(), scores[mine], boxes[mine], **rule
            )
        empty = 0.0 if self.options["empty_class_ap"] else None
        return DetectionScores.of(classes, empty)

    def _truths(self) -> list[Truth]:
        """The objects of each class."""
        truths: list[Truth] = [{} for _ in self.classes]
        for name, part in self.pictures.items():
            boxes = np.asarray(part.true_boxes, np.float64).reshape(-1, 4) + self.options["gt_offset"]
            for label in np.unique(part.true_labels).tolist():
                mine = part.true_labels == label
                truths[label - 1][name] = (boxes[mine], np.asarray(part.difficult, bool)[mine])
        return truths
