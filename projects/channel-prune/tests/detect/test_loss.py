from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from channel_prune.config import Config, DataConfig, DetectConfig, NetConfig
from channel_prune.detect.anchors import anchors_of
from channel_prune.detect.loss import detection_loss, hard_negatives, loss_terms, warm_up
from channel_prune.detect.matching import IGNORED, Matches


def matches(labels: list[list[int]]) -> Matches:
    given = torch.tensor(labels)
    return Matches(labels=given, targets=torch.zeros(*given.shape, 4), scores=torch.zeros(given.shape))


def logits(background: list[list[float]]) -> torch.Tensor:
    """Logits of three classes whose first one is given; the others are 0."""
    given = torch.tensor(background)
    return torch.stack([given, torch.zeros_like(given), torch.zeros_like(given)], dim=-1)


def test_hard_negatives_are_the_least_sure_ones_and_all_that_tie_with_the_last() -> None:
    s = logits([[9.0, 1.0, 0.5, 2.0, 1.0, 3.0, 1.0]])
    found = hard_negatives(s, matches([[1, 0, 0, 0, 0, 0, 0]]), 2.0)
    assert found.tolist() == [[False, True, True, False, True, False, True]]


def test_matched_and_ignored_anchors_are_never_hard_negatives() -> None:
    s = logits([[-9.0, -8.0, 0.0, 1.0]])
    found = hard_negatives(s, matches([[2, IGNORED, 0, 0]]), 1.0)
    assert found.tolist() == [[False, False, True, False]]


def test_a_picture_without_matched_anchors_has_no_hard_negatives_and_few_anchors_are_enough() -> None:
    s = logits([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    found = hard_negatives(s, matches([[0, 0, 0], [1, 1, 0]]), 3.0)
    assert found.tolist() == [[False] * 3, [False, False, True]]
    assert not hard_negatives(s, matches([[0] * 3, [0] * 3]), 3.0).any()


def test_terms_are_those_that_are_written_out() -> None:
    torch.manual_seed(0)
    s, p = torch.randn(2, 5, 3), torch.randn(2, 5, 4) * 2
    wanted = matches([[1, 0, 0, 0, 0], [0, 2, 0, 0, 0]])
    ce, loc, accuracy = loss_terms(s, p, wanted, negative_ratio=2.0)
    background = s.softmax(-1)[..., 0]
    chosen, total = [], 0.0
    for picture, matched in ((0, 0), (1, 1)):
        rest = sorted((a for a in range(5) if a != matched), key=lambda a: background[picture, a].item())
        chosen += [(picture, matched), *((picture, a) for a in rest[:2])]
        d = p[picture, matched].abs()
        total += torch.where(d < 1, d**2 / 2, d - 0.5).sum().item()
    rows = torch.stack([s[place] for place in chosen])
    labels = torch.tensor([int(wanted.labels[place]) for place in chosen])
    torch.testing.assert_close(ce, 3 * F.cross_entropy(rows, labels))
    assert loc.item() == pytest.approx(total / 2, rel=1e-6)
    assert accuracy.item() == pytest.approx((rows.argmax(1) == labels).float().mean().item())


def test_a_batch_without_objects_costs_nothing_and_has_zero_gradients() -> None:
    s, p = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    ce, loc, accuracy = loss_terms(s, p, matches([[0] * 5] * 2))
    assert (ce.item(), loc.item(), accuracy.item()) == (0, 0, 0)
    (ce + loc).backward()
    assert s.grad is not None
    assert not s.grad.any()


def test_classification_warms_up_over_the_steps() -> None:
    assert [warm_up(step, 100) for step in (0, 25, 100, 1000)] == [0, 0.25, 1, 1]
    assert warm_up(0, 0) == 1
    cfg = Config(
        net=NetConfig(name="ssd_vgg16", image_size=64, nb_classes=3),
        data=DataConfig(dataset="tiny_voc"),
        detect=DetectConfig(image_size_eval=64, nb_iters_cls_wmup=10),
    )
    torch.manual_seed(0)
    count = len(anchors_of(64))
    outputs = {"loc": torch.randn(1, count, 4), "cls": torch.randn(1, count, 3)}
    targets = {"boxes": torch.tensor([[[0.2, 0.2, 0.6, 0.6]]]), "labels": torch.tensor([[2]])}
    first, later = (detection_loss(outputs, targets, step, cfg) for step in (0, 5))
    torch.testing.assert_close(first["loss"], first["loc"])
    torch.testing.assert_close(later["loss"], later["loc"] + 0.5 * later["ce"])
