"""Activations of which some channels are computed and the others are numbers.

A masked channel is a constant plane: zero behind its mask, ``beta`` behind the batch norm in training,
another number in evaluation, and so on. `Partial` holds the computed channels and one number for each of the
others, both with their gradients, and does with them what torch's functions do with the whole tensor. A
network's own code runs on it unchanged. What is not known here is done with the whole tensor, so it is always
right.

# B batch, C channels, K computed ones, R = C - K others, H, W height and width
# O, I outputs and inputs of a layer
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from prunelab.surgery.layouts import Layout, joined, layout_of, places_of, plan_of, sides


class _Overriding:
    """Sends torch's functions to those of `_RULES`; without one the whole tensors are taken."""

    def dense(self) -> Tensor:
        """The whole tensor."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is not None:
            result = rule(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        whole = tree_map(lambda a: a.dense() if isinstance(a, _Overriding) else a, (args, kwargs or {}))
        return func(*whole[0], **whole[1])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)  # a method that no rule knows


class Partial(_Overriding):
    """A tensor (B, C, H, W) or (B, C) whose channels are computed or numbers.

    Args:
        data: The computed channels (B, K, ...).
        layout: Which ones they are.
        rest: The numbers that the others are (R,), or (B, R) where they differ within the batch.
    """

    def __init__(self, data: Tensor, layout: Layout, rest: Tensor) -> None:
        self.data, self.layout, self.rest = data, layout, rest

    @classmethod
    def of(cls, data: Tensor, width: int, kept: tuple[int, ...]) -> Partial:
        """A tensor whose other channels are zero."""
        layout = layout_of(width, kept)
        return cls(data, layout, data.new_zeros(len(layout.rest)))

    @property
    def shape(self) -> torch.Size:
        """(B, C, ...)."""
        return torch.Size((self.data.shape[0], self.layout.width, *self.data.shape[2:]))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.data.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the computed channels."""
        return self.data.dtype

    def size(self, axis: int | None = None) -> Any:
        """`shape`, or one of its numbers."""
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        """Number of axes."""
        return self.data.dim()

    def indices(self) -> tuple[Tensor, Tensor]:
        """Computed and other channels, on its device."""
        return sides(self.layout, self.device)

    def dense(self) -> Tensor:
        """The whole tensor."""
        spread = _planes(self.rest, self.data).expand(self.data.shape[0], -1, *self.data.shape[2:])
        places = places_of(self.layout, None, self.device)
        return torch.cat([self.data, spread.to(self.dtype)], 1).index_select(1, places)

    def like(self, data: Tensor, rest: Tensor) -> Partial:
        """The same channels with other content."""
        return Partial(data, self.layout, rest)

    def __add__(self, other: Any) -> Any:
        return _add(self, other)

    __radd__ = __iadd__ = __add__


def _planes(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers (R,) or (B, R) as (1 or B, R, 1, 1), to be spread over ``like``."""
    batch = numbers if numbers.dim() == 2 else numbers[None]
    return batch.view(*batch.shape, *(1,) * (like.dim() - 2))


class PartialIndices(_Overriding):
    """Places of maxima in the tensor that was pooled: (B, K, h, w), or each window's first for constants."""

    def __init__(self, data: Tensor, layout: Layout, windows: Windows, columns: int) -> None:
        self.data, self.layout, self.windows, self.columns = data, layout, windows, columns

    def first(self) -> Tensor:
        """The place of each window's first value (1, 1, h, w)."""
        rows, columns = (
            (torch.arange(size, device=self.data.device) * stride - padding).clamp(min=0)
            for size, stride, padding in zip(
                self.data.shape[2:], self.windows.stride, self.windows.padding, strict=True
            )
        )
        return (rows.view(-1, 1) * self.columns + columns)[None, None]

    def all(self) -> Tensor:
        """Places of the computed channels, then the first ones (B, K + 1, h, w)."""
        return torch.cat([self.data, self.first().expand(self.data.shape[0], -1, -1, -1)], 1)

    def dense(self) -> Tensor:
        """All places."""
        places = places_of(self.layout, None, self.data.device).clamp(max=self.data.shape[1])
        return self.all().index_select(1, places)


@dataclass(frozen=True)
class Windows:
    """Geometry of a pooling."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def of(cls, kernel: Any, stride: Any, padding: Any) -> Windows:
        """From what torch's functions take."""
        return cls(_pair(kernel), _pair(stride or kernel), _pair(padding))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class Unpooled(_Overriding):
    """What max-unpooling makes of partial values and places, computed by the convolution that reads it.

    A channel that is a number with computed places is that number at those places; one that is a number with
    constant places is that number at each window's first place: all of these are one plane of ones.
    """

    def __init__(self, values: Partial, places: PartialIndices, size: tuple[int, int]) -> None:
        self.values, self.places, self.size_ = values, places, size

    @property
    def shape(self) -> torch.Size:
        """(B, C, H, W)."""
        return torch.Size((*self.values.shape[:2], *self.size_))

    def dim(self) -> int:
        """Number of axes."""
        return 4

    def _unpool(self, values: Tensor, places: Tensor) -> Tensor:
        windows = self.places.windows
        return F.max_unpool2d(
            values, places, windows.kernel, windows.stride, windows.padding, list(self.size_)
        )

    def dense(self) -> Tensor:
        """The whole tensor."""
        return self._unpool(self.values.dense(), self.places.dense())

    def convolved(self, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> Tensor:
        """A convolution of it with ``weight`` (O, C, h, w)."""
        values, places = self.values, self.places
        plan = plan_of(values.layout, places.layout, values.device)
        batch, _, *window = values.data.shape
        ones = values.data.new_ones(1, 1, 1, 1).expand(batch, plan.marked + 1, *window)
        found = self._unpool(
            torch.cat([values.data, ones], 1), places.all().index_select(1, plan.places)
        )  # (B, K + marked + 1, H, W)
        kept, _ = values.indices()
        numbers = values.rest.index_select(0, plan.order).view(1, -1, 1, 1).to(weight.dtype)
        by_number = weight.index_select(1, plan.channels) * numbers
        alike = by_number[:, plan.marked :].sum(1, keepdim=True)
        kernels = torch.cat([weight.index_select(1, kept), by_number[:, : plan.marked], alike], 1)
        return F.conv2d(found, kernels, bias, *geometry)


# ------------------------------------------------------------------------------------------ torch's functions


def _conv2d(
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    geometry = (stride, padding, dilation)
    if groups != 1 or isinstance(padding, str):
        return NotImplemented
    if isinstance(input, Unpooled):
        return input.convolved(weight, bias, geometry) if input.values.rest.dim() == 1 else NotImplemented
    kept, rest = input.indices()
    own, others = weight.index_select(1, kept), weight.index_select(1, rest)
    kernels = torch.einsum(
        "orhw,...r->...ohw", others, input.rest.to(others.dtype)
    )  # (O, h, w) or (B, O, h, w)
    if not any(_pair(padding)):
        extra = kernels.sum((-2, -1))  # (O,) or (B, O)
        if extra.dim() == 1:
            return F.conv2d(input.data, own, extra if bias is None else bias + extra, *geometry)
        return F.conv2d(input.data, own, bias, *geometry) + extra[..., None, None]
    ones = input.data.new_ones(1, 1, *input.data.shape[2:])
    plane = F.conv2d(ones, kernels.reshape(-1, 1, *weight.shape[2:]), None, *geometry)
    y = F.conv2d(input.data, own, bias, *geometry)
    return y + plane.view(-1, *y.shape[1:])


def _linear(input: Partial, weight: Tensor, bias: Tensor | None = None) -> Any:
    if input.dim() != 2:
        return NotImplemented
    kept, rest = input.indices()
    y = F.linear(input.data, weight.index_select(1, kept), bias)
    return y + F.linear(input.rest.to(y.dtype), weight.index_select(1, rest))


def _batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not isinstance(input, Partial) or input.rest.dim() != 1 or weight is None or bias is None:
        return NotImplemented
    kept, rest = input.indices()
    mean, variance = (None if t is None else t[kept] for t in (running_mean, running_var))
    data = F.batch_norm(input.data, mean, variance, weight[kept], bias[kept], training, momentum, eps)
    number = constant_norm(input.rest, rest, running_mean, running_var, weight, bias, training, momentum, eps)
    if training and running_mean is not None and running_var is not None:
        assert mean is not None
        assert variance is not None
        running_mean[kept], running_var[kept] = mean, variance
    return input.like(data, number)


def constant_norm(
    number: Tensor,
    places: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """What a batch norm makes of channels that are numbers (R,); its running statistics follow.

    The batch's mean is the number itself and its variance 0, so in training ``bias`` is left.
    """
    if not training and running_mean is not None and running_var is not None:
        scale = weight[places] * (running_var[places] + eps).rsqrt()
        return bias[places] + scale * (number - running_mean[places])
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean[places] = torch.lerp(running_mean[places], number.to(running_mean.dtype), momentum)
            running_var[places] = running_var[places] * (1 - momentum)
    return bias[places]


def _by_value(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The rule of a function of one value; the numbers, which others may read too, never in place."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Partial):
            return NotImplemented
        return input.like(function(input.data, *args, **kwargs), function(input.rest))

    return rule


def _by_plane(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The rule of a function that keeps a constant plane as it is."""

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Partial):
            return NotImplemented
        return input.like(function(input.data, *args, **kwargs), input.rest)

    return rule


def _dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Draws as torch does for the whole tensor, so that equal seeds drop equal channels."""
    if not training or p == 0:
        return input
    if not isinstance(input, Partial):
        return NotImplemented
    noise = torch.empty(*input.shape[:2], 1, 1, dtype=input.dtype, device=input.device)
    noise = noise.bernoulli_(1 - p).div_(1 - p) if p < 1 else noise.zero_()
    kept, rest = input.indices()
    return input.like(input.data * noise[:, kept], input.rest * noise[:, rest, 0, 0])


def _max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kw: Any
) -> Any:
    if not isinstance(input, Partial):
        return NotImplemented
    kw.pop("return_indices", None)
    return input.like(F.max_pool2d(input.data, kernel_size, stride, padding, *args, **kw), input.rest)


def _max_pool2d_with_indices(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *args: Any,
    **kw: Any,
) -> Any:
    if not isinstance(input, Partial) or _pair(dilation) != (1, 1):
        return NotImplemented
    kw.pop("return_indices", None)
    values, places = F.max_pool2d_with_indices(
        input.data, kernel_size, stride, padding, dilation, *args, **kw
    )
    windows = Windows.of(kernel_size, stride, padding)
    return input.like(values, input.rest), PartialIndices(places, input.layout, windows, input.data.shape[-1])


def _max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    if not isinstance(input, Partial) or not isinstance(indices, PartialIndices) or output_size is None:
        return NotImplemented
    if Windows.of(kernel_size, stride, padding) != indices.windows or output_size[-1] != indices.columns:
        return NotImplemented
    return Unpooled(input, indices, (output_size[-2], output_size[-1]))


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not isinstance(input, Partial) or start_dim != 1 or set(input.shape[2:]) - {1}:
        return NotImplemented
    return input.like(input.data.flatten(1), input.rest)


def _add(input: Any, other: Any) -> Any:
    both = isinstance(input, Partial) and isinstance(other, Partial)
    if not both or input.shape != other.shape:
        return torch.add(*(x.dense() if isinstance(x, _Overriding) else x for x in (input, other)))
    layout = joined(input.layout, other.layout)
    wide, narrow = sorted((input, other), key=lambda part: part.layout is not layout)
    data = wide.data if wide.layout is layout else _widened(wide, layout)
    if narrow.layout is layout:
        data = data + narrow.data
    else:
        data = data.index_add(1, places_of(layout, narrow.layout, data.device), narrow.data)
    kept, rest = sides(layout, data.device)
    number = _spread(input) + _spread(other)  # (C,) or (B, C)
    if narrow.layout is not layout:
        data = data + _planes(number[..., kept], data).to(data.dtype)
    return Partial(data, layout, number[..., rest])


def _widened(part: Partial, layout: Layout) -> Tensor:
    """The computed channels of a wider layout, zero where they are numbers."""
    shape = (part.shape[0], len(layout.kept), *part.shape[2:])
    places = places_of(layout, part.layout, part.device)
    return part.data.new_zeros(shape).index_copy(1, places, part.data)


def _spread(part: Partial) -> Tensor:
    """Numbers of all channels (C,) or (B, C), zero for computed ones."""
    _, rest = part.indices()
    whole = part.rest.new_zeros(*part.rest.shape[:-1], part.layout.width)
    return whole.index_copy(-1, rest, part.rest)


def _cat(tensors: Any, dim: int = 0) -> Any:
    if dim != 1 or not all(isinstance(part, Partial) for part in tensors):
        return NotImplemented
    kept: list[int] = []
    width = 0
    for part in tensors:
        kept += [width + channel for channel in part.layout.kept]
        width += part.layout.width
    rows = max((part.rest.shape[0] for part in tensors if part.rest.dim() == 2), default=0)
    rests = [part.rest.expand(rows, -1) if rows and part.rest.dim() == 1 else part.rest for part in tensors]
    data = torch.cat([part.data for part in tensors], 1)
    return Partial(data, layout_of(width, tuple(kept)), torch.cat(rests, -1))


_RULES: dict[Any, Callable[..., Any]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.relu: _by_value(F.relu),
    F.dropout2d: _dropout2d,
    F.max_pool2d: _max_pool2d,
    F.max_pool2d_with_indices: _max_pool2d_with_indices,
    F.max_unpool2d: _max_unpool2d,
    F.adaptive_avg_pool2d: _by_plane(F.adaptive_avg_pool2d),
    F.interpolate: _by_plane(F.interpolate),
    torch.flatten: _flatten,
    torch.add: _add,
    torch.cat: _cat,
}
