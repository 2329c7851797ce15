"""A convolution with its channel mask, computed in the cheaper of two ways.

``conv(x) * m`` and ``conv(x, W * m, b * m)`` are the same but for rounding. The first costs time and memory
for every pixel (for the mask's gradient the convolution's output is kept beside the product), the second for
every weight.

# B images, C channels out, I channels in, H x W pixels, F = I / groups * kernel height * kernel width
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from acosp.soft_topk import ChannelMaskLayer

Form: TypeAlias = Literal["auto", "activation", "weight"]

PIXELS_PER_WEIGHT = 1.0
"""From this many output pixels (of the whole batch) per weight of a filter on, masking the weights is used.

Measured on two cores with 3x3 convolutions of 64 to 512 channels, forwards and backwards.
"""


class _MaskedConv(torch.autograd.Function):
    """``conv2d(x, weight * mask, bias * mask)`` that keeps only what it was given.

    The masked weights are made again on the way back, so no memory is held between the two ways.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, mask)
        ctx.geometry = (stride, padding, dilation, groups)
        masked_bias = None if bias is None else bias * mask
        return F.conv2d(x, weight * mask.view(-1, 1, 1, 1), masked_bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, bias, mask = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        needs_x, needs_weight, needs_bias, needs_mask = ctx.needs_input_grad[:4]
        column = mask.view(-1, 1, 1, 1)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight * column if needs_x else weight,
            None if bias is None else list(bias.shape),
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [needs_x, needs_weight or needs_mask, bias is not None and (needs_bias or needs_mask)],
        )
        grad_mask = None
        if needs_mask:
            grad_mask = (grad_weight * weight).sum((1, 2, 3))  # (C,)
            if bias is not None:
                grad_mask += grad_bias * bias
        return (
            grad_x,
            grad_weight.mul_(column) if needs_weight else None,
            grad_bias.mul_(mask) if bias is not None and needs_bias else None,
            grad_mask,
            *[None] * 4,
        )


def masked_conv2d(x: Tensor, conv: nn.Conv2d, mask: Tensor) -> Tensor:
    """``conv(x) * mask`` with the mask on the weights: x (B, I, H, W), mask (C,) -> (B, C, H', W')."""
    weight, bias = conv.weight, conv.bias
    lean = (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()  # a compiler decides itself what it keeps
        and not torch.is_autocast_enabled(x.device.type)
        and isinstance(conv.padding, tuple)
        and conv.padding_mode == "zeros"
        and x.dtype == weight.dtype == mask.dtype
    )
    if lean:
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        y = _MaskedConv.apply(x, weight, bias, mask, *geometry)
        assert isinstance(y, Tensor)
        return y
    mask = mask.to(weight.dtype)
    return conv._conv_forward(x, weight * mask.view(-1, 1, 1, 1), None if bias is None else bias * mask)


def pixels_out(x: Tensor, conv: nn.Conv2d) -> int:
    """How many pixels the convolution of x (B, I, H, W) gives, over the whole batch."""
    count = x.shape[0]
    for size, kernel, stride, dilation, place in zip(
        x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, (0, 1), strict=True
    ):
        padding = conv.padding[place] if isinstance(conv.padding, tuple) else 0
        if conv.padding == "same":
            count *= size
        else:
            count *= (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return count


class MaskingSequential(nn.Sequential):
    """A convolution and the mask behind it, as ``0`` and ``1``.

    Args:
        conv: A 2-D convolution, plain or transposed.
        mask: The layer that holds its mask.
    """

    form: Form = "auto"
    """Where the mask is multiplied: on the ``weight``, on the ``activation``, or ``auto``: on the weights
    where there are `pixels_per_weight` output pixels or more for each weight of a filter."""
    pixels_per_weight: float = PIXELS_PER_WEIGHT

    def __init__(self, conv: nn.Module, mask: ChannelMaskLayer) -> None:
        super().__init__(conv, mask)

    @property
    def mask(self) -> Tensor:
        """The stored mask (C,)."""
        layer = self[1]
        assert isinstance(layer, ChannelMaskLayer)
        return layer.mask

    @property
    def __flops__(self) -> Any:
        """The convolution's, for tools that count operations by this attribute."""
        return self[0].__flops__

    def forward(self, input: Tensor) -> Tensor:
        """Convolve and mask: (B, I, H, W) -> (B, C, H', W')."""
        conv, layer = self._modules.values()
        assert isinstance(conv, nn.Module)
        assert isinstance(layer, ChannelMaskLayer)
        if isinstance(conv, nn.Conv2d) and self._masks_weights(input, conv, layer):
            return masked_conv2d(input, conv, layer.current_mask())
        return layer(conv(input))

    def _masks_weights(self, x: Tensor, conv: nn.Conv2d, layer: ChannelMaskLayer) -> bool:
        """Whether the mask goes on the weights: possible unseen by anybody, and wanted."""
        possible = (
            self.form != "activation"
            and isinstance(x, Tensor)  # a tracer's stand-in has no shape
            and x.dim() == 4
            and type(conv).forward is nn.Conv2d.forward
            and type(conv)._conv_forward is nn.Conv2d._conv_forward
            and not (_is_watched(conv) or _is_watched(layer))
            and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
            and not torch.compiler.is_exporting()
        )
        if not possible or self.form == "weight":
            return possible
        weights = conv.weight[0].numel()  # F
        return pixels_out(x, conv) >= self.pixels_per_weight * weights


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks wait for this module to be called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def set_form(model: nn.Module, form: Form) -> None:
    """Say for every masked convolution of a model where its mask is multiplied; see `MaskingSequential.form`.

    Raises:
        ValueError: an unknown form.
    """
    if form not in get_args(Form):
        raise ValueError(f"form is {form!r}, expected one of {', '.join(get_args(Form))}")
    for module in model.modules():
        if isinstance(module, MaskingSequential):
            module.form = form
