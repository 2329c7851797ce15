"""Convolution and pooling with TensorFlow's SAME padding, at any size.

SAME makes ceil(size / stride) outputs and puts what has to be added half before and half behind, the odd one
behind. With stride 1 and an odd kernel that is the symmetric padding of torch's own layers; with stride 2 it
depends on the size: 3 x 3 over an even size adds nothing before and one row behind, where torch's
``padding=1`` adds one on each side.

What is built here are torch's own layers, with `torch.nn.functional.pad` before them where they cannot do it
alone; torch.fx follows it, so that `prunelab.surgery` does too.

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Rows (or columns) that SAME adds before and behind.

    Written without a comparison, so that ``size`` may be a number of torch.fx or of torch.export.

    Args:
        size: rows of the input.
        kernel: rows of the kernel, at least ``stride`` of them with its dilation.
        stride: rows from one output to the next.
        dilation: rows from one tap of the kernel to the next.
    """
    reach = (kernel - 1) * dilation + 1
    total = ((size + stride - 1) // stride - 1) * stride + reach - size
    return total // 2, total - total // 2


class SamePad(nn.Module):
    """Adds what SAME adds before a layer without padding.

    Args:
        kernel: of the layer behind it.
        stride: of the layer behind it.
        dilation: of the layer behind it.
        value: what is added: 0 before a convolution, minus infinity before max pooling.
    """

    def __init__(self, kernel: int, stride: int, dilation: int = 1, value: float = 0.0) -> None:
        super().__init__()
        if (kernel - 1) * dilation + 1 < stride:
            raise ValueError(f"kernel {kernel} with dilation {dilation} is smaller than stride {stride}")
        self.kernel, self.stride, self.dilation, self.value = kernel, stride, dilation, value

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H + added, W + added)."""
        top, bottom = same_padding(x.shape[2], self.kernel, self.stride, self.dilation)
        left, right = same_padding(x.shape[3], self.kernel, self.stride, self.dilation)
        return F.pad(x, (left, right, top, bottom), value=self.value)

    def extra_repr(self) -> str:
        """What is shown of it."""
        return f"kernel={self.kernel}, stride={self.stride}, dilation={self.dilation}, value={self.value}"


class SameConv(nn.Module):
    """A convolution with SAME padding: ``conv`` is a plain ``nn.Conv2d``.

    Args:
        inputs: channels that it reads.
        outputs: channels that it makes.
        kernel: its rows and columns.
        stride: rows and columns from one output to the next.
        dilation: rows and columns from one tap to the next.
        groups: ``inputs`` for a depthwise convolution.
        bias: whether it has one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        symmetric = stride == 1 and (kernel - 1) * dilation % 2 == 0
        padding = (kernel - 1) * dilation // 2 if symmetric else 0
        self.pad = None if symmetric or kernel == 1 else SamePad(kernel, stride, dilation)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        return self.conv(x if self.pad is None else self.pad(x))


class SameMaxPool(nn.Module):
    """Max pooling with SAME padding; what is added is minus infinity, so it is never the maximum.

    Args:
        kernel: rows and columns of the window.
        stride: rows and columns from one window to the next.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        symmetric = stride == 1 and kernel % 2 == 1
        halving = kernel == stride == 2  # at most one row, behind: the window that ceil_mode adds
        self.pad = None if symmetric or halving else SamePad(kernel, stride, value=-math.inf)
        self.pool = nn.MaxPool2d(kernel, stride, kernel // 2 if symmetric else 0, ceil_mode=halving)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        if self.pad is None:
            return self.pool(x)
        height, width = x.shape[2:]
        known = isinstance(height, int) and isinstance(width, int)  # symbols where torch records the network
        if known and height % 2 == width % 2 == 0 and (self.pad.kernel, self.pad.stride) == (3, 2):
            # one row behind, which rounding up does without a copy of everything
            return F.max_pool2d(x, 3, 2, ceil_mode=True)
        return self.pool(self.pad(x))
