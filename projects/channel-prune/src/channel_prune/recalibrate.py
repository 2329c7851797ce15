"""Batch normalisation measured again: after pruning, activations have other means and variances.

# B pictures, C channels, N values of a channel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from channel_prune.gram import add_up
from prunelab.tracked import evaluating


class Statistics:
    """Mean and variance of what a batch normalisation reads, over all that was added; in double precision."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in activations (B, C, ...)."""
        x = x.detach()
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])  # (N, C); no copy where channels are last
        variance, mean = torch.var_mean(rows, 0, correction=0)
        variance, mean, count = variance.double(), mean.double(), len(rows)
        if not self._count:
            self._count, self._mean, self._squares = count, mean, variance * count
            return
        total = self._count + count
        shift = mean - self._mean
        self._squares = self._squares + variance * count + shift.square() * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._count = total

    def give(self, norm: nn.Module) -> None:
        """Make them the running statistics of a batch normalisation; collective: all processes' together."""
        running: Any = norm
        count = torch.tensor(float(self._count), dtype=torch.float64)
        first = self._mean * self._count
        second = self._squares + self._mean.square() * self._count
        for part in (count, first, second):
            add_up(part)
        mean = first / count
        running.running_mean.copy_(mean)
        # unbiased, as running variances are
        running.running_var.copy_(
            (second / count - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
        )


def norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisations of a network that have running statistics, by path."""
    found = model.named_modules()
    return {name: m for name, m in found if isinstance(m, _BatchNorm) and m.running_mean is not None}


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace all running statistics by those of these pictures, in place.

    Each mini-batch is normalised by its own statistics on the way, and the exact mean and variance over all
    of them is kept. Collective: of all processes' pictures together. Nothing else of the network changes.

    Args:
        model: the network; dropout is off.
        batches: pictures (B, 3, H, W), on the network's device.
    """
    found = norms(model)
    seen = {name: Statistics() for name in found}
    handles = [norm.register_forward_pre_hook(_watch(seen[name])) for name, norm in found.items()]
    try:
        with evaluating(model), by_batch(model):
            for images in batches:
                model(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, norm in found.items():
        seen[name].give(norm)


def _watch(seen: Statistics) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: seen.add(inputs[0])


@contextmanager
def by_batch(model: nn.Module) -> Iterator[None]:
    """Let batch normalisations use each batch's own statistics and leave the running ones alone."""
    found = norms(model)
    before = {name: (norm.training, norm.momentum, norm.num_batches_tracked) for name, norm in found.items()}
    for norm in found.values():
        norm.training, norm.momentum = True, 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for name, norm in found.items():
            norm.training, norm.momentum, norm.num_batches_tracked = before[name]
