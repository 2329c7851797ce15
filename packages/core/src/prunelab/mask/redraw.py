"""Products by one masked weight in a loop, each with a mask of its own.

A recurrent network whose masks are drawn at every call makes T masked weights, T gradients of them and their
sums, all of the size of the weight. `Redrawn` does without: a tile of rows at a time is drawn into a buffer
that stays in the processor's cache, multiplied, and forgotten. In the backward pass the same numbers are
drawn again from the call's key. Gradients of weight and logits wait until all calls' outputs have theirs;
then each tile's are summed up over the calls where they lie, and leave the cache once.

For a call c with input x, output gradient g and mask b: ``y = x (b * w)^T``, ``dL/dx = g (b * w)``,
``dL/dw = sum_c b * (g^T x)``, ``dL/dm = s (1 - s) w * sum_c g^T x``.
"""

# C calls, N rows of a call's output, P rows of an input (N = P * K), I inputs, O outputs (rows of the weight)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunelab.mask import fused
from prunelab.mask.layers import Masked

_TILE = 2**20
"""Elements of a tile: 4 MB, which the last cache of any processor holds."""


@dataclass(eq=False)
class _Calls:
    """What is known of all calls of one weight in one loop."""

    weight: Tensor
    """(O, I) w; contiguous, as are the logits."""
    logits: Tensor
    """(O, I) m."""
    bypass: bool
    """Whether the factor s (1 - s) is left out."""
    limit: Tensor = field(init=False)
    """(O, I) int32 that holds the bits of uint32: how often m is pruned, see `prunelab.mask.kernels`."""
    backward: int = -1
    """Number of the backward pass that what follows belongs to."""
    waiting: list[tuple[list[np.uint64], list[Tensor], Tensor]] = field(default_factory=list)
    """Keys, inputs (C, P, I) and output gradient (C, N, O) of calls whose gradients are not yet summed up."""

    def __post_init__(self) -> None:
        self.limit = fused.limits(self.logits)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows; an even number each, as two elements share a random number."""
        outputs, inputs = self.weight.shape
        rows = max(2, _TILE // inputs // 2 * 2)
        for low in range(0, outputs, rows):
            yield low, min(low + rows, outputs)

    def buffer(self) -> Tensor:
        """Memory for a tile."""
        return torch.empty(min(next(self.tiles())[1], len(self.weight)), self.weight.shape[1])

    def wait(self, keys: list[np.uint64], inputs: list[Tensor], grad: Tensor) -> None:
        """Keep what a call's gradient will be made of."""
        # A pass that did not ask for the weight's gradient left its calls here.
        now = torch._C._current_graph_task_id()
        if now != self.backward:
            self.backward, self.waiting = now, []
        self.waiting.append((keys, inputs, grad))


def _columns(tile: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """The columns of a tile (rows, I) that belong to each input."""
    return list(tile.split([part.shape[-1] for part in parts], dim=1))


class _Product(torch.autograd.Function):
    """(C, N, O) from inputs (C, P, I) that stand side by side, each call with a mask of its own."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, calls: _Calls, *parts: Tensor) -> Tensor:
        ctx.calls, ctx.keys = calls, [fused.new_key() for _ in parts[0]]
        ctx.save_for_backward(*parts)
        count, rows = len(parts[0]), max(part.shape[1] for part in parts)
        out = parts[0].new_empty(count, rows, len(calls.weight))
        buffer = calls.buffer()
        for low, high in calls.tiles():
            tile = buffer[: high - low]
            for call, key in enumerate(ctx.keys):
                fused.draw_product(calls.weight[low:high], calls.limit[low:high], key, low, tile)
                _multiply([part[call] for part in parts], tile, out[call, :, low:high])
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad, parts, calls = grads[0].contiguous(), ctx.saved_tensors, ctx.calls
        # An input that serves K rows receives the sum of their gradients.
        sums = [
            grad if part.shape[1] == grad.shape[1] else grad.unflatten(1, (part.shape[1], -1)).sum(2)
            for part in parts
        ]  # (C, P, O) each
        wanted = ctx.needs_input_grad[2:]
        outs = [torch.zeros_like(part) if want else None for part, want in zip(parts, wanted, strict=True)]
        if any(wanted):
            buffer = calls.buffer()
            for low, high in calls.tiles():
                tile = buffer[: high - low]
                for call, key in enumerate(ctx.keys):
                    fused.draw_product(calls.weight[low:high], calls.limit[low:high], key, low, tile)
                    for out, total, columns in zip(outs, sums, _columns(tile, parts), strict=True):
                        if out is not None:
                            out[call].addmm_(total[call, :, low:high], columns)
        anchor = None
        if ctx.needs_input_grad[0]:
            calls.wait(ctx.keys, list(parts), grad)
            anchor = grad.new_zeros(())
        return anchor, None, *outs


def _multiply(parts: Sequence[Tensor], tile: Tensor, out: Tensor) -> None:
    """Fill ``out`` (N, rows) with the sum of the inputs (P, I) times their columns of the tile."""
    begun = False
    for part, columns in zip(parts, _columns(tile, parts), strict=True):
        if len(part) == len(out):
            out.addmm_(part, columns.t(), beta=1 if begun else 0)
            begun = True
    for part, columns in zip(parts, _columns(tile, parts), strict=True):
        if len(part) < len(out):
            out.unflatten(0, (len(part), -1)).add_((part @ columns.t()).unsqueeze(1))  # (P, K, rows)


class _Anchor(torch.autograd.Function):
    """A number on which all calls depend, so that its backward pass runs after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, logits: Tensor, calls: _Calls) -> Tensor:
        ctx.calls = calls
        ctx.save_for_backward(weight, logits)
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        calls: _Calls = ctx.calls
        weight, logits = ctx.saved_tensors  # which checks that both are as they were
        of_weight, of_logits = fused.fresh(weight.shape).zero_(), fused.fresh(weight.shape).zero_()
        buffer = calls.buffer()
        for low, high in calls.tiles():
            rows, tile = slice(low, high), buffer[: high - low]
            for keys, parts, grad in calls.waiting:
                for call, key in enumerate(keys):
                    _outer(grad[call, :, rows], [part[call] for part in parts], tile)
                    fused.draw_gradient(tile, calls.limit[rows], key, low, of_weight[rows], of_logits[rows])
            if calls.bypass:
                of_logits[rows] *= weight[rows]
            else:
                fused.times_slope(weight[rows], logits[rows], of_logits[rows])
        calls.waiting = []
        return of_weight, of_logits, None


def _outer(grad: Tensor, parts: Sequence[Tensor], tile: Tensor) -> None:
    """Fill a tile (rows, I) with g^T x for an output gradient g (N, rows) and inputs x (P, I)."""
    for part, columns in zip(parts, _columns(tile, parts), strict=True):
        if len(part) < len(grad):
            summed = grad.unflatten(0, (len(part), -1)).sum(1)  # (P, rows)
            torch.mm(summed.t(), part, out=columns)
        else:
            torch.mm(grad.t(), part, out=columns)


class Redrawn:
    """A masked weight as a loop uses it: a new mask for each product where the layer draws masks now.

    Where it does not (evaluation, fixed masks, `prunelab.mask.draw_once`, a layer without masks) all products
    share one weight. Make one for each forward pass, and do not change the layer while it is in use.

    Args:
        layer: a layer, masked or not.
        name: which of its weights (O, I).
    """

    def __init__(self, layer: nn.Module, name: str = "weight") -> None:
        self._calls: _Calls | None = None
        self._draw = self._shared = None
        if not isinstance(layer, Masked):
            self._shared = layer.get_parameter(name)
        elif not layer.redraws(name):
            self._shared = layer.effective(name)
        else:
            self._draw = partial(layer.effective, name)
            self._begin(layer, name)

    def _begin(self, layer: Masked, name: str) -> None:
        weight, logits = layer.get_parameter(name), layer.mask_of(name)
        if _kernels_fit(weight, logits):
            self._calls = _Calls(weight.detach(), logits.detach(), layer.mask_spec.bypass_sigmoid_grad)
            self._anchor = _Anchor.apply(weight, logits, self._calls)

    def product(self, *inputs: Tensor) -> Tensor:
        """One call: inputs side by side times the transposed weight.

        Args:
            inputs: (P, I') each, whose widths add up to I; P divides N, the most rows of an input, and each
                row of a shorter one stands for N / P neighbouring rows.

        Returns:
            (N, O).
        """
        return self.products(*(x.unsqueeze(0) for x in inputs)).squeeze(0)

    def products(self, *inputs: Tensor) -> Tensor:
        """C calls that do not wait for each other: inputs (C, P, I') as in `product`, output (C, N, O)."""
        if self._calls is not None and all(x.dtype == torch.float32 for x in inputs):
            out = _Product.apply(self._anchor, self._calls, *inputs)
            assert isinstance(out, Tensor)
            return out
        rows = max(x.shape[1] for x in inputs)
        whole = [x if x.shape[1] == rows else x.repeat_interleave(rows // x.shape[1], dim=1) for x in inputs]
        joined = torch.cat(whole, dim=2) if len(whole) > 1 else whole[0]
        if self._draw is None:
            assert self._shared is not None
            return F.linear(joined, self._shared)
        return torch.stack([F.linear(x, self._draw()) for x in joined])


def _kernels_fit(weight: Tensor, logits: Tensor) -> bool:
    return (
        weight.dim() == 2
        and fused.usable(weight, logits)
        and weight.is_contiguous()
        and logits.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )
