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


def suits(x: Tensor) -> bool:
    """Whether oneDNN can multiply this tensor: single precision on a processor that it suits, no export."""
    return (
        not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and x.numel() > 0
        and available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.onnx.is_in_onnx_export()
    )


def usable(x: Tensor) -> bool:
    """Whether products with this tensor may go to oneDNN: it `suits`, and nobody wants gradients."""
    return not torch.is_grad_enabled() and suits(x)


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


class Replacing(TorchFunctionMode):
    """Within ``with Replacing(...):`` functions of torch are others, in any module.

    Args:
        others: what is called in place of a function, with its arguments.
    """

    def __init__(self, others: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self.others = dict(others)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or the one in its place."""
        return self.others.get(func, func)(*args, **(kwargs or {}))


class OneDNN(Replacing):
    """Within ``with OneDNN():`` linear maps and products by one large matrix go to oneDNN, in any module."""

    def __init__(self) -> None:
        products = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
        super().__init__({F.linear: linear, **dict.fromkeys(products, _product)})


def _product(*args: Tensor, **named: Any) -> Tensor:
    """``a @ b``; a linear map where one of them is a large matrix and the other a batch of matrices."""
    if named:
        return torch.matmul(*args, **named)
    a, b = args
    if b.dim() == 2 < a.dim() and b.numel() >= LEAST and usable(a):
        return linear(a, b.t().contiguous())
    if a.dim() == 2 < b.dim() and a.numel() >= LEAST and usable(b):
        return linear(b.transpose(-1, -2), a.contiguous()).transpose(-1, -2)
    return a @ b
