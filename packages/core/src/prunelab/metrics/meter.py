"""A running mean that also knows the whole of several processes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prunelab import dist


@dataclass(kw_only=True)
class AverageMeter:
    """The mean of values that count differently much; values may be tensors, which are read only when asked.

    Example:
        >>> loss = AverageMeter()
        >>> loss.update(1.0, 2)
        >>> loss.update(4.0)
        >>> loss.avg
        2.0
    """

    val: float | Tensor = 0.0
    """The last value."""
    sum: float | Tensor = 0.0
    """Of value times weight."""
    count: float = 0
    """Sum of the weights."""

    def update(self, value: float | Tensor, n: float = 1) -> None:
        """Take in a value that stands for ``n`` samples.

        A tensor () is summed in double precision on its device; no graph is kept.
        """
        if isinstance(value, Tensor):
            value = value.detach().double()
        self.val = value
        self.sum = self.sum + value * n
        self.count += n

    @property
    def avg(self) -> float:
        """The mean so far; 0 before the first value."""
        return float(self.sum) / self.count if self.count else 0.0

    def merged(self) -> AverageMeter:
        """The meter of what all ranks took in together; collective, the same on every rank.

        Ranks may have taken in different numbers of values, or none at all.
        """
        parts = dist.gather_objects([(float(self.sum), self.count)])
        total, count = sum(part[0] for part in parts), sum(part[1] for part in parts)
        return AverageMeter(val=float(self.val), sum=total, count=count)
