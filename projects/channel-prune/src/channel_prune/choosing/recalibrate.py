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

from channel_prune.choosing.gram import add_up
from prunelab.modes import evaluating


class Statistics:
    """Mean and variance of what a batch normalisation reads, over all that was added; in double precision."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    @classmethod
    def of(cls, x: Tensor) -> Statistics:
        """Those of activations (B, C, ...)."""
        # What training uses: ten times faster than torch.var_mean over pictures with channels last.
        mean, variance = torch.batch_norm_update_stats(x.detach(), None, None, 0.0)
        found = cls()
        found._count, found._mean = x.numel() // x.shape[1], mean.double()
        found._squares = variance.double() * found._count
        return found

    def add(self, other: Statistics) -> None:
        """Take in others."""
        if not self._count:
            self._count, self._mean, self._squares = other._count, other._mean, other._squares
            return
        total = self._count + other._count
        shift = other._mean - self._mean
        self._squares = self._squares + other._squares + shift.square() * (self._count * other._count / total)
        self._mean = self._mean + shift * (other._count / total)
        self._count = total

    def give(self, norm: nn.Module, *, added: Tensor | None = None) -> None:
        """Make them the running statistics of a batch normalisation; collective: all processes' together.

        Args:
            norm: the batch normalisation.
            added: (C,); what its inputs were fitted to has this mean added to what it was. Then outputs keep
                their proportion to inputs, and the mean is passed on: weight and bias take over. None:
                outputs get the mean and variance again that they had.
        """
        running: Any = norm
        deviation = (running.running_var + running.eps).sqrt()
        count = torch.tensor(float(self._count), dtype=torch.float64)
        first = self._mean * self._count
        second = self._squares + self._mean.square() * self._count
        for part in (count, first, second):
            add_up(part)
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0)
        running.running_mean.copy_(mean)
        running.running_var.copy_(variance * (count / (count - 1).clamp(min=1)))  # unbiased, as torch's are
        if added is not None and running.affine:
            running.bias.add_(running.weight * added.to(deviation) / deviation)
            running.weight.mul_((running.running_var + running.eps).sqrt() / deviation)


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
    return lambda _, inputs: seen.add(Statistics.of(inputs[0]))


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
