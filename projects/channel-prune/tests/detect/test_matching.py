from __future__ import annotations

import torch
from torchvision.ops import box_iou

from channel_prune.detect.anchors import anchors_of, corners
from channel_prune.detect.matching import IGNORED, match, overlaps

ANCHORS = anchors_of(64)


def some_boxes(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 0.7
    return torch.cat([low, low + 0.05 + torch.rand(count, 2, generator=generator) * 0.25], dim=1)


def test_overlaps_are_those_of_torchvision_and_empty_boxes_have_none() -> None:
    boxes = some_boxes(0, 9)
    found = overlaps(boxes, corners(ANCHORS))
    torch.testing.assert_close(found, box_iou(boxes, corners(ANCHORS)))
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert overlaps(point, point).item() == 0


def one_by_one(boxes: torch.Tensor, threshold: float) -> dict[int, int]:
    """Matched anchors and their objects, by plain loops."""
    share = box_iou(boxes, corners(ANCHORS))
    found = {}
    for anchor in range(len(ANCHORS)):
        best = max(range(len(boxes)), key=lambda place: (share[place, anchor].item(), -place))
        if share[best, anchor] >= threshold:
            found[anchor] = best
    claims: dict[int, list[int]] = {}
    for place in range(len(boxes)):
        claims.setdefault(int(share[place].argmax()), []).append(place)
    for anchor, places in claims.items():
        found[anchor] = max(places, key=lambda place: (share[place, anchor].item(), -place))
    return found


def test_matches_are_those_of_plain_loops_and_padding_changes_nothing() -> None:
    batch = [some_boxes(seed, count) for seed, count in ((1, 1), (2, 4), (3, 7))]
    boxes, labels = torch.zeros(3, 9, 4), torch.zeros(3, 9, dtype=torch.int64)
    for place, own in enumerate(batch):
        boxes[place, : len(own)] = own
        labels[place, : len(own)] = torch.arange(1, len(own) + 1)
    found = match(boxes, labels, ANCHORS, match_threshold=0.4, neg_threshold=0.4)
    for place, own in enumerate(batch):
        expected = one_by_one(own, 0.4)
        assert found.positive[place].nonzero()[:, 0].tolist() == sorted(expected)
        for anchor, which in expected.items():
            assert found.labels[place, anchor] == which + 1
    assert torch.isfinite(found.targets).all()
    assert set(found.labels[~found.positive].tolist()) == {0}


def test_anchors_between_both_thresholds_are_ignored_unless_claimed() -> None:
    boxes = some_boxes(4, 2)[None]
    found = match(boxes, torch.tensor([[1, 2]]), ANCHORS, match_threshold=0.6, neg_threshold=0.1)
    share = box_iou(boxes[0], corners(ANCHORS)).amax(dim=0)
    ignored = found.labels[0] == IGNORED
    assert ignored.any()
    assert ((share[ignored] >= 0.1) & (share[ignored] < 0.6)).all()
    assert (share[found.labels[0] == 0] < 0.1).all()
    assert {1, 2} <= set(found.labels[0].tolist())


def test_of_objects_with_one_best_anchor_the_nearer_one_has_it_of_equal_ones_the_first() -> None:
    anchor = corners(ANCHORS)[60]
    worse = anchor + torch.tensor([0.0, 0.0, 0.01, 0.01])
    for boxes, expected in (([worse, anchor], 2), ([anchor, worse], 1), ([anchor, anchor], 1)):
        found = match(torch.stack(boxes)[None], torch.tensor([[1, 2]]), ANCHORS)
        assert found.labels[0, 60] == expected


def test_an_object_beside_all_anchors_gives_its_anchor_to_the_first_object() -> None:
    boxes = torch.tensor([[[0.3, 0.3, 0.5, 0.5], [5.0, 5.0, 5.1, 5.1]]])
    found = match(boxes, torch.tensor([[3, 7]]), ANCHORS)
    assert found.labels[0, 0] == 3
    assert found.scores[0, 0] == 0
    assert 7 not in found.labels


def test_a_batch_without_any_object_is_all_background() -> None:
    for boxes, labels in (
        (torch.zeros(2, 0, 4), torch.zeros(2, 0)),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3)),
    ):
        found = match(boxes, labels.long(), ANCHORS)
        assert found.labels.shape == (2, len(ANCHORS))
        assert not found.labels.any()
        assert not found.targets.any()
        assert not found.positive.any()
