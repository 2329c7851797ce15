"""Areas by hand, against numpy.histogram and torch.histc themselves, and mean IoU against torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab import dist
from prunelab.errors import UserError
from prunelab.metrics import (
    Areas,
    Scores,
    SegmentationMeter,
    areas,
    areas_closed_bin,
    areas_histc,
    best_constant,
)

TRUTH = np.array([[0, 0, 1], [1, 2, 9]], np.uint8)
GUESS = np.array([[0, 1, 1], [0, 2, 2]], np.uint8)


def counted(found: Areas) -> list[list[int]]:
    return [found.intersection.tolist(), found.union.tolist(), found.target.tolist()]


def random_maps(rng: np.random.Generator, classes: int, void: int) -> tuple[np.ndarray, np.ndarray]:
    size = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    truth = rng.integers(0, classes, size)
    truth[rng.random(size) < 0.2] = void
    return rng.integers(0, classes, size), truth


def test_areas_are_those_counted_by_hand_and_void_counts_nowhere() -> None:
    expected = [[1, 1, 1], [3, 3, 1], [2, 2, 1]]
    assert counted(areas(GUESS, TRUTH, 3, 9)) == expected
    assert counted(areas(torch.from_numpy(GUESS), torch.from_numpy(TRUTH), 3, 9)) == expected


def test_a_prediction_outside_the_classes_is_a_wrong_answer() -> None:
    found = areas(np.array([0, 7, 255, -1]), np.array([0, 0, 1, 1]), 2)
    assert counted(found) == [[1, 0], [2, 2], [2, 2]]


def test_a_label_that_is_neither_class_nor_void_makes_the_prediction_wrong() -> None:
    assert counted(areas(np.array([0, 1]), np.array([7, 1]), 2)) == [[0, 1], [1, 1], [0, 1]]


def test_a_void_label_among_the_classes_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^ignore_label is 2, .* expected a label outside of 0\.\.2$"):
        areas(GUESS, TRUTH, 3, 2)


def test_maps_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and target \(3, 2\)"):
        areas(GUESS, TRUTH.T.copy(), 3)


def test_no_rule_changes_what_it_is_given() -> None:
    for rule in (areas, areas_closed_bin, areas_histc):
        guess, truth = torch.tensor([0, 1, 2]), torch.tensor([0, 9, 2])
        rule(guess, truth, 3, 9)
        assert guess.tolist() == [0, 1, 2]
        assert truth.tolist() == [0, 9, 2]


@pytest.mark.oracle
@pytest.mark.parametrize("void", [255, 5, 2])
def test_the_closed_bin_is_that_of_numpy(void: int) -> None:
    rng = np.random.default_rng(void)
    for _ in range(30):
        guess, truth = random_maps(rng, 5, void)
        for ignore in (255, void):
            changed = np.where(truth == ignore, ignore, guess)
            parts = [changed[changed == truth], changed, truth]
            inter, out, target = (np.histogram(p, bins=np.arange(6))[0] for p in parts)
            found = areas_closed_bin(guess, truth, 5, ignore)
            assert counted(found) == [inter.tolist(), (out + target - inter).tolist(), target.tolist()]


@pytest.mark.oracle
@pytest.mark.parametrize("void", [255, 5, 2])
def test_the_open_bins_are_those_of_torch(void: int) -> None:
    rng = np.random.default_rng(void)
    for _ in range(30):
        guess, truth = map(torch.from_numpy, random_maps(rng, 5, void))
        changed = torch.where(truth == void, void, guess)
        parts = [changed[changed == truth], changed, truth]
        inter, out, target = (torch.histc(p.float(), bins=5, min=0, max=4).long() for p in parts)
        found = areas_histc(guess, truth, 5, void)
        assert counted(found) == [inter.tolist(), (out + target - inter).tolist(), target.tolist()]
        if void >= 5:
            assert counted(areas(guess, truth, 5, void)) == counted(found)


@pytest.mark.oracle
def test_mean_iou_and_accuracies_are_those_of_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    rng = np.random.default_rng(0)
    for _ in range(20):
        guess, truth = random_maps(rng, 4, 255)
        guess[0, 0] = truth[0, 0] = 0
        meter = SegmentationMeter(4)
        meter.update(guess, truth)
        scores = meter.scores()
        pair = torch.from_numpy(guess), torch.from_numpy(truth)
        ious = MulticlassJaccardIndex(4, average="none", ignore_index=255)(*pair)
        assert scores.iou == pytest.approx(ious.tolist(), abs=1e-6)
        accuracies = MulticlassAccuracy(4, average="none", ignore_index=255)(*pair)
        assert scores.accuracy == pytest.approx(accuracies.tolist(), abs=1e-6)
        everything = MulticlassAccuracy(4, average="micro", ignore_index=255)(*pair)
        assert scores.allacc == pytest.approx(everything.item(), abs=1e-6)


def test_classes_that_never_occur_count_as_zero_in_the_means() -> None:
    scores = Scores.of(areas(np.array([0, 0]), np.array([0, 0]), 4))
    assert scores.iou == pytest.approx((1, 0, 0, 0))
    assert (scores.miou, scores.macc, scores.allacc) == pytest.approx((0.25, 0.25, 1.0))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9))
def test_shares_lie_between_zero_and_one_and_a_perfect_map_has_only_ones(seed: int, classes: int) -> None:
    guess, truth = random_maps(np.random.default_rng(seed), classes, 255)
    scores = Scores.of(areas(guess, truth, classes))
    assert all(0 <= i <= a <= 1 for i, a in zip(scores.iou, scores.accuracy, strict=True))
    perfect = Scores.of(areas(truth, truth, classes))
    assert all(share < 1e-9 or share > 1 - 1e-9 for share in perfect.iou)


def test_the_best_constant_answer_is_the_most_frequent_class() -> None:
    _, truth = random_maps(np.random.default_rng(3), 4, 255)
    target = areas(truth, truth, 4).target
    best, scores = best_constant(target)
    assert scores == Scores.of(areas(np.full_like(truth, best), truth, 4))
    assert scores.miou == max(Scores.of(areas(np.full_like(truth, c), truth, 4)).miou for c in range(4))


def test_sums_over_pictures_and_ranks_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    pictures = [random_maps(rng, 5, 255) for _ in range(5)]
    alone, first, second = (SegmentationMeter(5) for _ in range(3))
    for place, pair in enumerate(pictures):
        alone.update(*pair)
        found = (first, second)[place % 2].update(*pair)
        assert counted(found) == counted(areas(*pair, 5))
    monkeypatch.setattr(dist, "gather_objects", lambda items: [*items, list(counted(second.areas))])
    assert first.merged().scores() == alone.scores()


def test_a_rank_without_pictures_still_takes_part() -> None:
    assert SegmentationMeter(3).merged().scores().miou == 0
