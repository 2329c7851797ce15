"""Running means and accuracies, by hand and over ranks."""

import pytest
import torch

from prunelab import dist
from prunelab.metrics import AverageMeter, ClassificationMeter


def test_values_count_by_their_number_of_samples() -> None:
    meter = AverageMeter()
    assert meter.avg == 0
    meter.update(1.0, 2)
    meter.update(torch.tensor(4.0, requires_grad=True))
    assert (meter.avg, float(meter.val), float(meter.sum), meter.count) == (2.0, 4.0, 6.0, 3)


def test_many_small_tensors_are_summed_in_double_precision() -> None:
    meter = AverageMeter()
    meter.update(torch.tensor(2.0**24))
    for _ in range(3):
        meter.update(torch.tensor(1.0))
    assert float(meter.sum) == 2.0**24 + 3


def test_the_mean_over_ranks_is_that_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = AverageMeter()
    meter.update(torch.tensor(3.0), 4)
    monkeypatch.setattr(dist, "gather_objects", lambda items: [*items, (8.0, 1), (0.0, 0)])
    whole = meter.merged()
    assert (whole.avg, whole.count, whole.val) == (4.0, 5, 3.0)


def test_accuracy_is_counted_from_logits_and_from_classes() -> None:
    meter = ClassificationMeter(3)
    meter.update(torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0]]), torch.tensor([0, 1, 0]))
    meter.update(torch.tensor([0]), torch.tensor([0]))
    assert meter.count == 4
    assert meter.accuracy == 0.75
    assert meter.class_accuracy == pytest.approx([2 / 3, 1, 0])
    assert meter.mean_accuracy == pytest.approx(5 / 9)
    assert meter.best_constant == 0.75
    assert meter.table.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_accuracy_over_ranks_is_that_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ClassificationMeter(2)
    assert meter.accuracy == 0
    meter.update(torch.tensor([0]), torch.tensor([0]))
    monkeypatch.setattr(dist, "gather_objects", lambda items: [*items, [[0, 3], [0, 0]]])
    assert meter.merged().accuracy == 0.25


@pytest.mark.oracle
def test_mean_accuracy_is_that_of_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    meter = ClassificationMeter(4)
    meter.update(logits, labels)
    assert meter.mean_accuracy == pytest.approx(MulticlassAccuracy(4)(logits, labels).item(), abs=1e-6)
