"""Evaluation of classifiers: every picture counts once, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.evaluate import Classification

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Says logits that its input holds."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def pictures(count: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, classes, 1, 1, generator=generator)
    return x, torch.randint(0, classes, (count,), generator=generator)


@pytest.mark.parametrize("batch", [1, 4, 7, 11, 20])
def test_a_short_last_batch_counts_as_its_pictures(batch: int) -> None:
    x, y = pictures(11, 5)
    evaluator = Classification(list(zip(x.split(batch), y.split(batch), strict=True)), classes=5, device=CPU)
    found = dict(evaluator.run(Fixed()))
    assert list(found) == ["loss", "accuracy"]
    assert found["loss"] == pytest.approx(float(F.cross_entropy(x.flatten(1), y)), rel=1e-6)
    assert found["accuracy"] == float((x.flatten(1).argmax(1) == y).sum()) / 11
    assert evaluator.counts == torch.bincount(y, minlength=5).tolist()
    assert evaluator.best_constant == max(evaluator.counts) / 11


def test_many_classes_have_two_figures() -> None:
    x, y = pictures(30, 120)
    found = dict(Classification([(x, y)], classes=120, device=CPU).run(Fixed()))
    ranks = (x.flatten(1) > x.flatten(1).gather(1, y[:, None])).sum(1)
    assert found["acc_top1"] == float((ranks == 0).sum()) / 30
    assert found["acc_top5"] == float((ranks < 5).sum()) / 30


def test_decay_and_distillation_are_in_the_loss_as_in_training() -> None:
    x, y = pictures(6, 4)
    plain = dict(Classification([(x, y)], classes=4, device=CPU).run(Fixed()))

    def term(x: Tensor, s: Tensor) -> Tensor:
        return s.square().mean()

    evaluator = Classification([(x[:2], y[:2]), (x[2:], y[2:])], classes=4, device=CPU)
    taught = dict(evaluator.run(Fixed(), decay=0.25, distillation=term))
    expected = plain["loss"] + 0.25 + float(x.square().mean())
    assert taught["loss"] == pytest.approx(expected, rel=1e-6)
    assert taught["accuracy"] == plain["accuracy"]
