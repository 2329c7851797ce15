"""Accuracy of classifiers.

# B batch, K classes
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunelab import dist


class ClassificationMeter:
    """Counts which class was taken for which, over batches and over processes.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.table = torch.zeros(classes, classes, dtype=torch.int64)
        """Samples by true class (rows) and predicted class (columns), (K, K)."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in a batch.

        Args:
            prediction: logits (B, K), or classes (B,).
            target: classes (B,) in 0..K-1.
        """
        guess = prediction.detach()
        guess = guess.argmax(dim=1) if guess.ndim == 2 else guess
        cells = torch.bincount(
            target.to(guess.device).long() * self.classes + guess, minlength=self.classes**2
        )
        # cells.view(K, K)
        self.table = self.table.to(cells.device) + cells.view(self.classes, self.classes)

    def merged(self) -> ClassificationMeter:
        """The meter of what all ranks took in together; collective, the same on every rank."""
        whole = ClassificationMeter(self.classes)
        whole.table = torch.tensor(dist.gather_objects([self.table.tolist()])).sum(dim=0)
        return whole

    @property
    def count(self) -> int:
        """Samples taken in."""
        return int(self.table.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers; 0 before the first batch."""
        return int(self.table.diagonal().sum()) / max(self.count, 1)

    @property
    def class_accuracy(self) -> list[float]:
        """Share of right answers among the samples of each class; 0 where there are none."""
        right, seen = self.table.diagonal().tolist(), self.table.sum(dim=1).tolist()
        return [r / max(s, 1) for r, s in zip(right, seen, strict=True)]

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over all K classes."""
        return sum(self.class_accuracy) / self.classes

    @property
    def best_constant(self) -> float:
        """Accuracy of the one class that is best said of every sample: what a network must beat."""
        return int(self.table.sum(dim=1).max()) / max(self.count, 1)
