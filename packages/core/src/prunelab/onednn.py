"""Linear maps by oneDNN, where nothing is trained on a processor.

Torch multiplies float32 matrices on processors with MKL, which takes oneDNN's double time on those of another
maker than its own. The operation that torch's compiler puts in the place of linear maps calls oneDNN, which
reads the weight from where it is: there is nothing to prepare, and nothing to make anew when weights change.
Where few rows meet the same weights many times, `packed` weights save it from sorting them at each call.

# M rows, I inputs, O outputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEAST = 2**16
"""Numbers of a matrix from which on a product by it goes to oneDNN; below, changing layouts costs more."""


@cache
def available() -> bool:
    """Whether oneDNN is here, and the processor has the wide registers that it uses better than MKL."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def usable(x: Tensor) -> bool:
    """Whether products with this tensor may go to oneDNN: single precision, no gradients, no export."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and not torch.is_grad_enabled()
        and x.numel() > 0
        and available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.onnx.is_in_onnx_export()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of x (..., I), by oneDNN where it is `usable`."""
    if weight.numel() < LEAST or not usable(x):
        return F.linear(x, weight, bias)
    return mapped(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))


def mapped(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """``x @ weight.t() + bias`` by oneDNN: what torch's compiler makes of linear maps.

    Args:
        x: (M, I), of any strides.
        weight: (O, I), of any strides, or `packed`.
        bias: (O,).
        relu: take the positive part of the result.

    Returns:
        (M, O); without gradients.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")


def packed(weight: Tensor, rows: int) -> Tensor:
    """A copy of a weight (O, I) in the order in which oneDNN reads it, for `mapped` alone.

    It takes as long as a few products, and does not follow the weight when that changes.

    Args:
        weight: float32.
        rows: how many rows M it will mostly meet at once; it serves any number.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)


class OneDNN(TorchFunctionMode):
    """Within ``with OneDNN():`` linear maps and products by one large matrix go to oneDNN, in any module."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take linear maps and products; hand all else on."""
        if func is F.linear:
            return linear(*args, **(kwargs or {}))
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__) and not kwargs:
            return _product(*args)
        return func(*args, **(kwargs or {}))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``; a linear map where one of them is a large matrix and the other a batch of matrices."""
    if b.dim() == 2 < a.dim() and b.numel() >= LEAST and usable(a):
        return linear(a, b.t().contiguous())
    if a.dim() == 2 < b.dim() and a.numel() >= LEAST and usable(b):
        return linear(b.transpose(-1, -2), a.contiguous()).transpose(-1, -2)
    return a @ b
