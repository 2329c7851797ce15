"""Products by one weight in a loop, whose gradient is one product at the end.

Autograd makes a gradient of the weight's size at every step of a loop and adds them up, each from as few rows
as a step has: for an LSTM that is half of the backward pass. `Deferred` lets the outputs' gradients g of all
steps wait and makes ``sum_t g_t^T x_t`` at once; the same numbers but for the order of the sum.
"""

# T steps, N rows of a step, I inputs, O outputs

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _Waiting:
    """Inputs (N, I) and output gradients (N, O) of the steps that a backward pass has been through."""

    def __init__(self) -> None:
        self.backward = -1
        self.steps: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Tensor, grad: Tensor) -> None:
        # A pass that did not ask for the weight's gradient left its steps here.
        now = torch._C._current_graph_task_id()
        if now != self.backward:
            self.backward, self.steps = now, []
        self.steps.append((inputs, grad))

    def take(self) -> tuple[Tensor, Tensor]:
        inputs, grads = zip(*self.steps, strict=True)
        self.steps = []
        return torch.cat(inputs), torch.cat(grads)  # (T * N, I), (T * N, O)


class _Product(torch.autograd.Function):
    """One step's output (N, O)."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, waiting: _Waiting
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.waiting = waiting
        return F.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        inputs, weight = ctx.saved_tensors
        anchor = None
        if ctx.needs_input_grad[1]:
            ctx.waiting.add(inputs, grad)
            anchor = grad.new_zeros(())
        return grad @ weight if ctx.needs_input_grad[0] else None, anchor, None, None, None


class _Anchor(torch.autograd.Function):
    """A number on which all steps depend, so that its backward pass runs after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, waiting: _Waiting) -> Tensor:
        ctx.waiting = waiting
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        inputs, grad = ctx.waiting.take()
        of_bias = grad.sum(dim=0) if ctx.needs_input_grad[1] else None
        return grad.t() @ inputs if ctx.needs_input_grad[0] else None, of_bias, None


class Deferred:
    """A linear map as a loop uses it.

    Make one for each forward pass. Without gradients, in mixed precision and in compiled graphs it is
    torch's own.

    Args:
        weight: (O, I).
        bias: (O,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._waiting = _Waiting()
        self._anchor: Tensor | None = None
        usual = torch.compiler.is_compiling() or torch.is_autocast_enabled(weight.device.type)
        asked = weight.requires_grad or (bias is not None and bias.requires_grad)
        if asked and torch.is_grad_enabled() and not usual:
            self._anchor = _Anchor.apply(weight, bias, self._waiting)  # pyright: ignore

    def __call__(self, inputs: Tensor) -> Tensor:
        """(N, I) to (N, O)."""
        if self._anchor is None:
            return F.linear(inputs, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.detach()
        found = _Product.apply(inputs, self._anchor, self.weight.detach(), bias, self._waiting)
        assert isinstance(found, Tensor)
        return found
