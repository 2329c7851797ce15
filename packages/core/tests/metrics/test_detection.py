import math
import random

import numpy as np
import pytest

from prunelab.metrics.detection import (
    VocDetectionMeter,
    average_precision_integral,
    average_precision_voc07,
    score_class,
)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top, right, bottom]], np.float64)


def one_by_one(truth, rows, threshold):
    """Average precisions by plain loops: for each detection look at all objects of its picture."""
    taken, found, missed, curve = set(), 0, 0, []
    wanted = sum(not d for _, difficult in truth.values() for d in difficult)
    for picture, _, b in sorted(rows, key=lambda row: -row[1]):
        best, which = -1.0, None
        boxes, difficult = truth.get(picture, ([], []))
        for place, other in enumerate(boxes):
            width = min(b[2], other[2]) - max(b[0], other[0])
            height = min(b[3], other[3]) - max(b[1], other[1])
            common = max(width, 0) * max(height, 0)
            union = (b[2] - b[0]) * (b[3] - b[1]) + (other[2] - other[0]) * (other[3] - other[1]) - common
            if common / union > best:
                best, which = common / union, place
        if which is not None and best > threshold:
            if not difficult[which]:
                found, missed = found + ((picture, which) not in taken), missed + ((picture, which) in taken)
                taken.add((picture, which))
        else:
            missed += 1
        curve.append((found / wanted, found / max(found + missed, 1e-12)))
    eleven = sum(max([p for r, p in curve if r >= 0.1 * k], default=0) for k in range(11)) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return eleven, area, curve


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(30))
def test_scores_equal_those_of_plain_loops(seed):
    rng = random.Random(seed)
    truth, rows = {}, []
    for picture in map(str, range(8)):
        boxes = []
        for _ in range(rng.randrange(5)):
            left, top = rng.uniform(0, 60), rng.uniform(0, 60)
            boxes.append([left, top, left + rng.uniform(5, 40), top + rng.uniform(5, 40)])
        if boxes:
            truth[picture] = (np.array(boxes), np.array([rng.random() < 0.2 for _ in boxes]))
        for _ in range(rng.randrange(9)):
            near = rng.choice(boxes) if boxes and rng.random() < 0.7 else [10, 10, 30, 30]
            moved = [value + rng.uniform(-4, 4) for value in near]
            moved[2:] = max(moved[2], moved[0] + 1), max(moved[3], moved[1] + 1)
            rows.append((picture, rng.random(), moved))
    truth.setdefault("more", (box(0, 0, 5, 5), np.array([False])))
    found = score_class(
        truth,
        [r[0] for r in rows],
        np.array([r[1] for r in rows]),
        np.array([r[2] for r in rows]).reshape(-1, 4),
    )
    eleven, area, curve = one_by_one(truth, rows, 0.5)
    assert found.voc07 == pytest.approx(eleven, abs=1e-12)
    assert found.integral == pytest.approx(area, abs=1e-12)
    np.testing.assert_allclose(np.stack([found.recall, found.precision], 1), np.array(curve).reshape(-1, 2))


def test_average_precision_of_a_known_curve():
    recall, precision = np.array([0.25, 0.25, 0.5, 0.75]), np.array([1.0, 0.5, 2 / 3, 0.75])
    assert average_precision_integral(recall, precision) == pytest.approx(0.25 + 0.5 * 0.75)
    # Levels 0, 0.1 and 0.2 are reached with precision 1, those from 0.3 to 0.7 with 0.75.
    assert average_precision_voc07(recall, precision) == pytest.approx((3 + 5 * 0.75) / 11)


def test_of_two_hits_the_surer_one_counts_and_the_other_is_wrong():
    truth = {"a": (box(0, 0, 10, 10), np.array([False]))}
    found = score_class(truth, ["a", "a"], np.array([0.5, 0.9]), np.concatenate([box(0, 0, 10, 10)] * 2))
    assert found.recall.tolist() == [1, 1]
    assert found.precision.tolist() == [1, 0.5]


def test_half_an_overlap_is_not_enough_and_a_difficult_object_counts_neither_way():
    truth = {"a": (np.concatenate([box(0, 0, 10, 10), box(50, 0, 60, 10)]), np.array([False, True]))}
    boxes = np.concatenate([box(0, 0, 10, 5), box(50, 0, 60, 10), box(50, 0, 60, 10)])
    found = score_class(truth, ["a"] * 3, np.array([0.9, 0.8, 0.7]), boxes)
    assert found.objects == 1
    assert found.recall.tolist() == [0, 0, 0]
    assert found.precision.tolist() == [0, 0, 0]
    assert found.voc07 == found.integral == 0


def test_a_class_without_objects_has_no_score_unless_it_is_to_count():
    def meter(**options):
        one = VocDetectionMeter(("cat", "dog", "fox"), **options)
        found = (np.array([1, 2]), np.array([0.9, 0.8]), np.concatenate([box(0, 0, 10, 10)] * 2))
        difficult_dog = (np.array([1, 2]), np.concatenate([box(0, 0, 10, 10)] * 2), np.array([False, True]))
        one.update("a", found, difficult_dog)
        return one.scores()

    found = meter()
    assert found.voc07 == {"cat": 1.0, "dog": None, "fox": None}
    assert found.map_voc07 == found.map_integral == 1
    assert math.isnan(found.classes["dog"].integral)
    assert found.classes["dog"].voc07 == 0
    counted = meter(empty_class_ap=True)
    assert counted.map_voc07 == pytest.approx(1 / 3)
    assert counted.map_integral == pytest.approx(1.0)


def test_a_class_that_is_never_detected_has_zero_and_no_picture_at_all_is_zero():
    meter = VocDetectionMeter(("cat",))
    assert meter.scores().map_voc07 == 0
    meter.update(
        "a", (np.zeros(0), np.zeros(0), np.zeros((0, 4))), (np.array([1]), box(0, 0, 9, 9), np.array([0]))
    )
    scores = meter.scores()
    assert scores.voc07 == {"cat": 0.0}
    assert scores.integral == {"cat": 0.0}


def test_rounded_scores_tie_and_moved_objects_are_moved():
    def meter(**options):
        one = VocDetectionMeter(("cat",), **options)
        found = (
            np.array([1, 1]),
            np.array([0.50001, 0.50002]),
            np.concatenate([box(20, 0, 30, 10), box(0, 0, 9, 9)]),
        )
        one.update("a", found, (np.array([1]), box(0, 0, 10, 10), np.array([False])))
        return one.scores().classes["cat"]

    assert meter().precision.tolist() == [1, 0.5]
    assert meter(score_digits=3).precision.tolist() == [0, 0.5]
    assert meter(gt_offset=4).precision.tolist() == [0, 0]


def test_a_picture_that_comes_twice_counts_once():
    one = VocDetectionMeter(("cat",))
    for _ in range(2):
        one.update(
            "a",
            (np.array([1]), np.array([0.5]), box(0, 0, 9, 9)),
            (np.array([1]), box(0, 0, 9, 9), np.array([0])),
        )
    scores = one.merged().scores().classes["cat"]
    assert scores.objects == 1
    assert scores.precision.tolist() == [1]


def test_many_detections_are_scored_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (400, 2))], axis=1)
    truth = {str(p): (boxes[p * 4 : p * 4 + 4], np.zeros(4, bool)) for p in range(100)}
    names, scores = [str(p % 120) for p in range(400)], rng.random(400)
    whole = score_class(truth, names, scores, boxes)
    monkeypatch.setattr("prunelab.metrics.detection._CHUNK", 7)
    parts = score_class(truth, names, scores, boxes)
    np.testing.assert_array_equal(whole.recall, parts.recall)
    np.testing.assert_array_equal(whole.precision, parts.precision)


def test_pictures_of_all_processes_are_scored_together_in_any_order(monkeypatch):
    def meter(*numbers):
        one = VocDetectionMeter(("cat",), gt_offset=-1)
        for number in numbers:
            rng = np.random.default_rng(number)
            found = (np.ones(3), rng.random(3).round(1), rng.uniform(0, 5, (3, 4)) + np.array([0, 0, 9, 9]))
            one.update(f"{number:03d}", found, (np.ones(1, np.int64), box(1, 1, 10, 10), np.array([False])))
        return one

    whole = meter(*range(9)).merged().scores().classes["cat"]
    parts = [meter(4, 0, 8), meter(1, 7, 3, 4), meter(6, 5, 2)]
    joined = {name: picture for part in parts for name, picture in part.pictures.items()}
    monkeypatch.setattr("prunelab.dist.gather_objects", lambda items, key: list(joined.items()))
    for part in parts:
        found = part.merged().scores().classes["cat"]
        assert found.objects == 9
        np.testing.assert_array_equal(found.precision, whole.precision)
        np.testing.assert_array_equal(found.recall, whole.recall)
