"""What the steps of a program do, one module class an operation, built from the step's plain data.

# B batch, O channels out, I channels in, G groups, K channels of a tensor, H, W height and width
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.surgery.folding import pair
from prunelab.surgery.keep import take_channels
from prunelab.surgery.pointwise import apply_pointwise

_REMEMBERED = 4  # input sizes for which the borders of a convolution are kept


def _empty(*shape: int) -> nn.Parameter:
    """A weight to be loaded; kernels have their channels last, which is faster for small networks."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return nn.Parameter(torch.zeros(shape).contiguous(memory_format=layout))


class Conv(nn.Module):
    """A convolution, and what constant channels of the original network add to it.

    They add ``border``, one kernel over a plane of ones. It is the same number everywhere but where the zero
    padding cuts it off. Without gradients and outside of a recorded graph that number goes with the bias, and
    what is missing at the border is corrected there only; else the plane of ones is convolved.
    """

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight = _empty(*step["weight"])
        self.bias = _empty(step["weight"][0]) if step["bias"] else None
        self.border = _empty(step["weight"][0], 1, *step["weight"][2:]) if step["border"] else None
        self.stride, self.padding, self.dilation = (tuple(step[k]) for k in ("stride", "padding", "dilation"))
        self.groups: int = step["groups"]
        self._borders: dict[tuple[Any, ...], _Borders] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        geometry = (self.stride, self.padding, self.dilation)
        border = self.border
        if border is None:
            return F.conv2d(x, self.weight, self.bias, *geometry, self.groups)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            y = F.conv2d(x, self.weight, self.bias, *geometry, self.groups)
            return y + F.conv2d(torch.ones_like(x[:1, :1]), border, None, *geometry)
        found = self._found(x, border)
        y = F.conv2d(x, self.weight, found.bias, *geometry, self.groups)
        return found.correct(y)

    def _found(self, x: Tensor, border: Tensor) -> _Borders:
        """What the constant channels add for this size of input."""
        weights = [border] if self.bias is None else [border, self.bias]
        key = (*x.shape[2:], x.dtype, x.device, *((w.data_ptr(), w._version) for w in weights))
        if key not in self._borders:
            if len(self._borders) >= _REMEMBERED:
                self._borders.clear()
            self._borders[key] = _Borders(self, x, border)
        return self._borders[key]


class _Borders:
    """The sum of a convolution's constants: a bias, and corrections where padding cuts it off."""

    def __init__(self, conv: Conv, x: Tensor, border: Tensor) -> None:
        whole = border.sum((1, 2, 3))  # (O,)
        self.bias = whole if conv.bias is None else conv.bias + whole
        ones = torch.ones_like(x[:1, :1])
        plane = F.conv2d(ones, border, None, conv.stride, conv.padding, conv.dilation)  # (1, O, H', W')
        plane = plane - whole.view(1, -1, 1, 1)
        top, bottom = _cut(x.shape[2], plane.shape[2], conv, 0)
        left, right = _cut(x.shape[3], plane.shape[3], conv, 1)
        rows, columns = plane.shape[2:]
        everywhere = (slice(None), slice(None))
        if top + bottom >= rows or left + right >= columns:
            places = [everywhere]
        else:
            middle = slice(top, rows - bottom)
            places = [
                (slice(0, top), slice(None)),
                (slice(rows - bottom, rows), slice(None)),
                (middle, slice(0, left)),
                (middle, slice(columns - right, columns)),
            ]
        self._parts = [(p, plane[(..., *p)].clone()) for p in places if plane[(..., *p)].numel()]

    def correct(self, y: Tensor) -> Tensor:
        """Correct a fresh result (B, O, H', W') in place."""
        for place, part in self._parts:
            y[(..., *place)] += part
        return y


def _cut(size: int, out: int, conv: Conv, axis: int) -> tuple[int, int]:
    """How many first and last rows (or columns) of the result the padding reaches."""
    stride, padding, dilation = conv.stride[axis], conv.padding[axis], conv.dilation[axis]
    reach = dilation * (conv.weight.shape[2 + axis] - 1)
    last_whole = (size - 1 + padding - reach) // stride
    return min(-(-padding // stride), out), max(min(out - 1 - last_whole, out), 0)


class Deconv(nn.Module):
    """A transposed convolution, with what constant channels add as in `Conv`."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        wide = step["weight"][1] * step["groups"]
        self.weight = _empty(*step["weight"])
        self.bias = _empty(wide) if step["bias"] else None
        self.border = _empty(1, wide, *step["weight"][2:]) if step["border"] else None
        names = ("stride", "padding", "output_padding", "dilation")
        self.stride, self.padding, self.output_padding, self.dilation = (tuple(step[k]) for k in names)
        self.groups: int = step["groups"]

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, H', W')."""
        before = (self.stride, self.padding, self.output_padding)
        y = F.conv_transpose2d(x, self.weight, self.bias, *before, self.groups, self.dilation)
        if self.border is None:
            return y
        ones = torch.ones_like(x[:1, :1])
        return y + F.conv_transpose2d(ones, self.border, None, *before, 1, self.dilation)


class Linear(nn.Module):
    """A product with a matrix."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight = _empty(*step["weight"])
        self.bias = _empty(step["weight"][0]) if step["bias"] else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) to (B, O)."""
        return F.linear(x, self.weight, self.bias)


class Affine(nn.Module):
    """``x * scale + shift``, channel by channel; with ``select``, of these channels of x."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.scale, self.shift = _empty(step["channels"]), _empty(step["channels"])
        select = step.get("select")
        self.register_buffer(
            "select", None if select is None else torch.tensor(select, dtype=torch.long), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, ...) to (B, channels, ...)."""
        shape = (1, -1, *(1,) * (x.dim() - 2))
        if isinstance(self.select, Tensor):
            x = take_channels(x, self.select)
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


class Select(nn.Module):
    """Some channels."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("channels", torch.tensor(step["channels"]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to (B, K, ...)."""
        return take_channels(x, self.get_buffer("channels"))


class Pointwise(nn.Module):
    """A function of one value."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.function: str = step["function"]
        self.arguments: list[Any] = step["arguments"]
        self.keywords: dict[str, Any] = step["keywords"]

    def forward(self, x: Tensor, *, in_place: bool = False) -> Tensor:
        """Any shape to the same shape."""
        if in_place and self.function == "relu":
            return torch.relu_(x)
        return apply_pointwise(x, self.function, self.arguments, self.keywords)


class MaxPool(nn.Module):
    """Max pooling; with ``indices`` the places of the maxima too.

    With ``pads`` it is of a tensor with minus infinity around it, which is copied only where pooling has no
    other way to say so.
    """

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        self.options = {name: step[name] for name in names}
        self.pool: Any = F.max_pool2d_with_indices if "indices" in step else F.max_pool2d

    def forward(self, x: Tensor, *, size: Any = None) -> Any:
        """(B, K, H, W) to (B, K, H', W'), or two of them; ``size``: the pads left, right, top, bottom."""
        if size is None:
            return self.pool(x, **self.options)
        left, right, top, bottom = size
        if all(
            isinstance(each, int) for each in (*size, *x.shape[2:])
        ):  # in a recorded graph they are symbols
            kernel = pair(self.options["kernel_size"])
            if left == right <= kernel[1] // 2 and top == bottom <= kernel[0] // 2:
                return self.pool(x, **{**self.options, "padding": (top, left)})
            if (
                left == top == 0
                and self._rounded_up(x.shape[2], 0, bottom)
                and self._rounded_up(x.shape[3], 1, right)
            ):
                return self.pool(x, **{**self.options, "ceil_mode": True})
        return self.pool(F.pad(x, size, value=-math.inf), **self.options)

    def _rounded_up(self, size: int, axis: int, behind: int) -> bool:
        """Whether rounding up makes as many windows as so much padding behind does."""
        kernel = pair(self.options["kernel_size"])[axis]
        stride = pair(self.options["stride"] or kernel)[axis]
        last = -(-(size - kernel) // stride)
        return last == (size + behind - kernel) // stride and last * stride < size


class AvgPool(nn.Module):
    """Average pooling."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        self.options = {name: step[name] for name in names}

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) to (B, K, H', W')."""
        return F.avg_pool2d(x, **self.options)


class AdaptivePool(nn.Module):
    """Pooling to a given number of rows and columns."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.pool = F.adaptive_avg_pool2d if step["op"] == "adaptive_avg" else F.adaptive_max_pool2d

    def forward(self, x: Tensor, *, size: Any) -> Tensor:
        """(B, K, H, W) to (B, K, H', W')."""
        return self.pool(x, size)


class Mean(nn.Module):
    """The mean of each plane."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.keepdim: bool = step["keepdim"]

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) to (B, K) or (B, K, 1, 1)."""
        return x.mean((2, 3), keepdim=self.keepdim)


class Resize(nn.Module):
    """Interpolation to a size or by a factor."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        names = ("scale_factor", "mode", "align_corners", "recompute_scale_factor")
        self.options: dict[str, Any] = {name: step[name] for name in names if name in step}

    def forward(self, x: Tensor, *, size: Any = None) -> Tensor:
        """(B, K, H, W) to (B, K, H', W')."""
        return F.interpolate(x, size, **self.options)


class Pad(nn.Module):
    """Rows and columns of one number around planes."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.value = float(step["value"])

    def forward(self, x: Tensor, *, size: Any) -> Tensor:
        """(B, K, H, W) to (B, K, top + H + bottom, left + W + right) for (left, right, top, bottom)."""
        return F.pad(x, size, value=self.value)


class Slice(nn.Module):
    """Some rows and columns."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.index = (..., *(slice(*part) for part in step["index"]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) to (B, K, H', W')."""
        return x[self.index]


class Unflatten(nn.Module):
    """(B, K) to (B, K, 1, 1)."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Add two axes."""
        return x[:, :, None, None]


class Expand(nn.Module):
    """(B, K, 1, 1) as large as another tensor."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """(B, K, 1, 1) and (B, K, H, W) to (B, K, H, W)."""
        return x.expand_as(other)


class Flatten(nn.Module):
    """(B, K, H, W) to (B, K H W)."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Flatten all but the first axis."""
        return x.flatten(1)


class Add(nn.Module):
    """The sum of two tensors."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor, other: Tensor, *, in_place: bool = False) -> Tensor:
        """Equal shapes, or such that one is spread over the other."""
        return (
            x.add_(other)
            if in_place and x.shape == torch.broadcast_shapes(x.shape, other.shape)
            else x + other
        )


class Mul(nn.Module):
    """The product of two tensors."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Equal shapes, or such that one is spread over the other."""
        return x * other


class Cat(nn.Module):
    """Tensors one after the other along the channels."""

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()

    def forward(self, *parts: Tensor) -> Tensor:
        """(B, K1, ...), (B, K2, ...), ... to (B, K1 + K2 + ..., ...)."""
        return torch.cat(parts, 1)


class Unpool(nn.Module):
    """Values put back to the places from which max pooling took their like.

    The result has, in this order: channels of the values with places of the indices (``values``,
    ``places``), channels of the values at each window's first place (``first``), ones at places of the
    indices (``ones``), and, with ``pattern``, one channel of ones at each window's first place.
    """

    def __init__(self, step: Mapping[str, Any]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = (step[k] for k in ("kernel_size", "stride", "padding"))
        self.extra = len(step["ones"]) + bool(step["pattern"])
        self.firsts = len(step["first"]) + bool(step["pattern"])
        self.order: list[int] = [*step["values"], *step["first"]]
        self.places: list[int] = [*step["places"], *step["ones"]]
        self.kept = len(step["values"])
        self.pattern: bool = step["pattern"]

    def forward(self, x: Tensor, indices: Tensor, *, size: Any) -> Tensor:
        """(B, K, h, w) values and (B, E, h, w) places to (B, K', H, W) for a ``size`` (..., H, W)."""
        height, width = size[-2:]
        values, places = _chosen(x, self.order), _chosen(indices, self.places)
        if self.extra:
            ones = x.new_ones((1, 1, 1, 1)).expand(x.shape[0], self.extra, *x.shape[2:])
            values = torch.cat([values, ones], 1)
        if self.firsts:
            first = self._first(x, width).expand(x.shape[0], -1, -1, -1)
            middle = first.expand(-1, self.firsts - self.pattern, -1, -1)
            parts = [places[:, : self.kept], middle, places[:, self.kept :]]
            places = torch.cat([*parts, first] if self.pattern else parts, 1)
        return F.max_unpool2d(values, places, self.kernel, self.stride, self.padding, [height, width])

    def _first(self, x: Tensor, width: Any) -> Tensor:
        """Flat place of each window's first pixel (1, 1, h, w)."""
        rows = _starts(x.shape[2], self.stride[0], self.padding[0], x.device)
        columns = _starts(x.shape[3], self.stride[1], self.padding[1], x.device)
        return (rows.view(-1, 1) * width + columns)[None, None]


def _starts(count: Any, stride: int, padding: int, device: torch.device) -> Tensor:
    return (torch.arange(count, device=device) * stride - padding).clamp(min=0)


def _chosen(x: Tensor, channels: list[int]) -> Tensor:
    """Some channels; a view where they are the first ones in order."""
    if channels == list(range(len(channels))):
        return x if len(channels) == x.shape[1] else x[:, : len(channels)]
    return x.index_select(1, torch.tensor(channels, device=x.device))


OPERATIONS: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "deconv": Deconv,
    "linear": Linear,
    "affine": Affine,
    "select": Select,
    "pad": Pad,
    "slice": Slice,
    "unflatten": Unflatten,
    "expand": Expand,
    "pointwise": Pointwise,
    "max_pool": MaxPool,
    "avg_pool": AvgPool,
    "adaptive_avg": AdaptivePool,
    "adaptive_max": AdaptivePool,
    "mean": Mean,
    "resize": Resize,
    "flatten": Flatten,
    "add": Add,
    "mul": Mul,
    "cat": Cat,
    "unpool": Unpool,
}
"""By the name that a step has for it."""

IN_PLACE = frozenset({"pointwise", "add"})
"""Operations that can write over their first input."""

VIEWS = frozenset(
    {"flatten", "unflatten", "expand", "slice", "pad", "resize", "adaptive_avg", "adaptive_max", "mean"}
)
"""Operations whose result may share memory with what they read."""
