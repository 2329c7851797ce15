"""Batch normalisation over the batches of all processes, on any backend (gloo on the CPU as well as nccl).

With `convert` a model in several processes normalises as one process with the whole batch would. The ranks
may hold different numbers of samples. In evaluation mode, and in a single process, nothing differs from
torch's own layers, whose names and state keys stay.

| symbol | meaning | shape |
|---|---|---|
| n | values per channel on this rank; N: on all ranks | () |
| m, v | mean and (biased) variance over all N values | (C,) |
| r | 1 / sqrt(v + eps) | (C,) |
| x̂ | (x - m) r | (B, C, ...) |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from prunelab import dist


def _accumulating(x: Tensor) -> torch.dtype:
    """The type in which sums over ``x`` are made: at least single precision."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _over(values: Tensor, like: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...), to be broadcast over ``like``."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel over all ranks (C,), and N (), all in double precision.

    Each rank sends (n, mean, n * variance) of its own values, which lose nothing where a mean is large
    against its deviation, as sums of squares would.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    own = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
    if count:
        variance, mean = torch.var_mean(
            x.to(_accumulating(x)), dim=[0, *range(2, x.dim())], correction=0
        )  # (C,), (C,)
        own[:channels], own[channels:-1], own[-1] = mean, variance * count, count
    parts = [torch.empty_like(own) for _ in range(dist.world_size())]
    distributed.all_gather(parts, own)
    table = torch.stack(parts)  # (ranks, 2 C + 1)
    means, squares, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    return mean, variance, total


class _Normalise(torch.autograd.Function):
    """y = x̂ w + b with moments of all ranks, which the gradient flows through."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        r: Tensor,
        total: Tensor,
    ) -> Tensor:
        kind = _accumulating(x)
        mean, r = mean.to(kind), r.to(kind)
        scale = r if weight is None else r * weight.to(kind)
        shift = -mean * scale if bias is None else bias.to(kind) - mean * scale
        ctx.save_for_backward(x, weight, mean, r, total.to(kind))
        return torch.addcmul(_over(shift, x), x.to(kind), _over(scale, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of the sum of all ranks' losses; those of w and b are this rank's part alone."""
        x, weight, mean, r, total = ctx.saved_tensors
        kind, dims = _accumulating(x), [0, *range(2, x.dim())]
        dy = grads[0].to(kind)
        normed = (x.to(kind) - _over(mean, x)) * _over(r, x)  # x̂
        sums = torch.cat([dy.sum(dims), (dy * normed).sum(dims)])  # (2 C,)
        d_bias, d_weight = sums.clone().chunk(2)
        distributed.all_reduce(sums)
        mean_dy, mean_dy_normed = (sums / total).chunk(2)
        dx = None
        if ctx.needs_input_grad[0]:
            scale = r if weight is None else r * weight.to(kind)
            dx = (dy - _over(mean_dy, x) - normed * _over(mean_dy_normed, x)) * _over(scale, x)
            dx = dx.to(x.dtype)
        if weight is None:
            return dx, None, None, None, None, None
        return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None, None


class _Synced(nn.modules.batchnorm._BatchNorm):
    """What the three synchronised layers share."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) by the moments of all ranks in training, by the running ones otherwise.

        Collective in training mode: all ranks call it, also with no sample.

        Raises:
            ValueError: one value per channel on all ranks together.
        """
        own_moments = self.training or self.running_mean is None
        if not own_moments or dist.world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, total = _moments(input.detach())
        if input.numel() // input.shape[1] < 2 and int(total) < 2:  # only then is an accelerator waited for
            raise ValueError(f"one value per channel in all; expected more (input {tuple(input.shape)})")
        self._track(mean, variance * total / (total - 1))
        r = (variance + self.eps).rsqrt()
        return _Normalise.apply(input, self.weight, self.bias, mean, r, total)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running moments towards these."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # the plain mean of all batches
            momentum = 1.0 / int(self.num_batches_tracked) if self.num_batches_tracked is not None else 1.0
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class SyncBatchNorm1d(_Synced, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all processes."""


class SyncBatchNorm2d(_Synced, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over all processes."""


class SyncBatchNorm3d(_Synced, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over all processes."""


_SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


def convert(model: nn.Module) -> int:
    """Make every batch normalisation of ``model`` normalise over all processes.

    The layers stay the same objects with the same parameters, so an optimizer that holds them goes on.

    Args:
        model: changed in place; subclasses of torch's layers (lazy ones, say) are left alone.

    Returns:
        How many layers were changed.
    """
    changed = 0
    for module in model.modules():
        synced = _SYNCED.get(type(module))
        if synced is not None:
            module.__class__ = synced
            changed += 1
    return changed
