from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms

from channel_prune.config import DetectConfig
from channel_prune.detect.postprocess import detections, padded_detections


def sure(*rows: tuple[int, float], classes: int = 3) -> torch.Tensor:
    """Logits of anchors that say each a class with a probability, and background else."""
    probabilities = torch.full((len(rows), classes), 1e-6)
    for row, (label, score) in enumerate(rows):
        probabilities[row, label], probabilities[row, 0] = score, 1 - score
    return probabilities.log()[None]


def test_of_overlapping_boxes_of_a_class_the_surer_one_stays() -> None:
    boxes = torch.tensor(
        [[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.52, 0.5], [0.6, 0.6, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5]]]
    )
    (found,) = detections(sure((1, 0.6), (1, 0.9), (1, 0.7), (2, 0.5)), boxes, DetectConfig())
    assert found.labels.tolist() == [1, 1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.5]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes[0], boxes[0, 1])
    ranked = found.ranked()
    assert ranked.labels.tolist() == [1, 1, 2]
    assert len(ranked) == 3


def test_unsure_small_and_too_many_boxes_are_dropped_and_boxes_are_clipped() -> None:
    boxes = torch.tensor(
        [[[-0.5, 0.2, 0.4, 1.5], [0.1, 0.1, 0.13, 0.9], [0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.3, 0.1]]]
    )
    logits = sure((1, 0.9), (1, 0.8), (1, 0.01), (1, 0.7))
    (found,) = detections(logits, boxes, DetectConfig())
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.2, 0.4, 1.0], [0.0, 0.0, 0.3, 0.1]]))
    assert len(detections(logits, boxes, DetectConfig(nms_topk=1))[0]) == 1
    assert len(detections(logits, boxes, DetectConfig(keep_topk=1))[0]) == 1


@pytest.mark.oracle
def test_a_batch_gives_what_torchvision_gives_picture_by_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 80, 5, generator=generator) * 2
    low = torch.rand(4, 80, 2, generator=generator) * 0.8
    boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(4, 80, 2, generator=generator)], dim=-1)
    boxes = boxes.clamp(max=1)
    detect = DetectConfig(select_threshold=0.1)
    for picture, found in enumerate(detections(logits, boxes, detect)):
        scores = logits[picture].softmax(-1)[:, 1:]
        size = (boxes[picture, :, 2:] - boxes[picture, :, :2] > detect.min_size).all(dim=1)
        row, label = ((scores > 0.1) & size[:, None]).nonzero(as_tuple=True)
        kept = batched_nms(boxes[picture, row], scores[row, label], label, detect.nms_threshold)
        expected = sorted(zip((label[kept] + 1).tolist(), row[kept].tolist(), strict=True))
        places = [(boxes[picture] == box).all(dim=1).nonzero()[0, 0].item() for box in found.boxes]
        assert sorted(zip(found.labels.tolist(), places, strict=True)) == expected
        for name in found.labels.unique():
            own = found.scores[found.labels == name]
            assert (own[:-1] >= own[1:]).all()


def test_nothing_found_is_empty_and_padded_rows_are_zeros() -> None:
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5]]])
    nothing = detections(sure((1, 0.001)), boxes, DetectConfig())[0]
    assert len(nothing) == 0
    assert nothing.boxes.shape == (0, 4)
    scores, places = padded_detections(sure((2, 0.9))[0], boxes[0], DetectConfig(nms_topk=7))
    assert scores.shape == (2, 7)
    assert places.shape == (2, 7, 4)
    assert scores.count_nonzero() == 1
    torch.testing.assert_close(places[1, 0], boxes[0, 0])
