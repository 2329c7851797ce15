"""The arithmetic of one masked weight: what a mask is, how it is sampled and rounded, how gradients pass it.

| symbol | meaning | source |
|---|---|---|
| ``w`` | a weight of any shape | |
| ``m`` | its mask parameter, equal shape: logits (supermask) or 0/1 values (fixed) | |
| ``s`` | sigmoid(m), the probability that the weight is kept | Supermask Pruning, eq. of the gates |
| ``b`` | the 0/1 mask in use: Bernoulli(s) in training, 1 iff m > 0 otherwise | |

Masked weight: ``b * w``. Backward: ``dL/dw = g * b`` and, straight through the sampling or rounding and
then with the true derivative of the sigmoid, ``dL/dm = g * w * s * (1 - s)`` where ``g = dL/d(b * w)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prunelab.errors import UserError
from prunelab.mask import fused

MASK_SUFFIX = "_pruning_mask"
"""A weight named ``X`` has its mask in the sibling parameter ``X_pruning_mask``."""

MaskKind = Literal["supermask", "fixed"]
_DEFAULT_INIT: dict[str, float] = {"supermask": 5.0, "fixed": 1.0}


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """How the masks of a layer behave."""

    kind: MaskKind = "supermask"
    """``supermask``: trainable logits, sampled in training. ``fixed``: 0/1 values, multiplied as they are."""
    init: float | None = None
    """First value of every mask entry; None means 5.0 for a supermask and 1.0 for a fixed mask."""
    bypass_sigmoid_grad: bool = False
    """Let the gradient pass the sigmoid as if it were the identity (supermask only)."""
    trainable: bool | None = None
    """Whether masks ask for gradients; None means yes for a supermask, no for a fixed mask."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.kind not in _DEFAULT_INIT:
            raise UserError(f"mask kind {self.kind!r} is unknown: expected one of {', '.join(_DEFAULT_INIT)}")
        if self.init is not None and math.isnan(self.init):
            raise UserError("mask init nan is not a number: expected a real number")
        if self.kind == "fixed" and self.bypass_sigmoid_grad:
            raise UserError(
                "bypass_sigmoid_grad True has no meaning for a fixed mask: expected kind 'supermask'"
            )

    @property
    def first_value(self) -> float:
        """The value that masks start from."""
        return _DEFAULT_INIT[self.kind] if self.init is None else self.init

    @property
    def asks_gradient(self) -> bool:
        """Whether mask parameters are made with ``requires_grad``."""
        return self.kind == "supermask" if self.trainable is None else self.trainable


def sample_mask(logits: Tensor) -> Tensor:
    """Draw Bernoulli(sigmoid(logits)) from torch's default generator.

    Exact at both ends: ``inf`` always keeps, ``-inf`` always prunes (the uniform numbers lie in [0, 1)).

    Args:
        logits: real numbers of any shape.

    Returns:
        bool of the same shape.
    """
    if fused.usable(logits):
        return fused.draw(logits)
    # float32 whatever the parameter's dtype: half precision would offer too few different uniform numbers.
    keep = torch.sigmoid(logits.detach().float())
    return torch.rand_like(keep) < keep


def round_mask(logits: Tensor) -> Tensor:
    """Round sigmoid(logits) half to even: kept iff the logit is greater than 0, so that 0 itself prunes.

    Args:
        logits: real numbers of any shape.

    Returns:
        bool of the same shape.
    """
    return logits.detach() > 0


def through_sigmoid(grad: Tensor, logits: Tensor) -> Tensor:
    """``grad * s * (1 - s)``: a gradient (or one number for all) on its way through s = sigmoid(logits)."""
    logits = logits.detach()
    if grad.dim() == 0 and fused.usable(logits):
        return fused.slopes(float(grad), logits)
    keep = torch.sigmoid(logits)
    return torch.ops.aten.sigmoid_backward(grad.to(logits.dtype).expand_as(logits), keep)


class _MaskProduct(torch.autograd.Function):
    """``w * b`` with the supermask gradient; keeps weight, logits and the bool sample for backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, logits: Tensor, binary: Tensor, bypass: bool) -> Tensor:
        ctx.bypass = bypass
        ctx.save_for_backward(weight, logits, binary)
        return fused.product(weight, binary) if fused.usable(weight, binary) else weight * binary

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weight, logits, binary = ctx.saved_tensors
        if all(ctx.needs_input_grad[:2]) and not ctx.bypass and fused.usable(grad, weight, logits, binary):
            return *fused.product_gradients(grad, weight, logits, binary), None, None
        grad_weight = grad * binary if ctx.needs_input_grad[0] else None
        grad_logits = None
        if ctx.needs_input_grad[1]:
            grad_logits = grad * weight
            if not ctx.bypass:
                grad_logits = through_sigmoid(grad_logits, logits)
            grad_logits = grad_logits.to(logits.dtype)
        return grad_weight, grad_logits, None, None


def masked_weight(
    weight: Tensor, logits: Tensor, binary: Tensor, *, bypass_sigmoid_grad: bool = False
) -> Tensor:
    """Multiply a weight by a 0/1 mask, with gradients for the weight and for the logits behind the mask.

    Args:
        weight: ``w``, any shape.
        logits: ``m``, the same shape; receives the straight-through gradient.
        binary: ``b``, bool of the same shape, drawn or rounded from the logits (or given).
        bypass_sigmoid_grad: leave out the factor ``s * (1 - s)``.

    Returns:
        ``b * w``, the shape and dtype of the weight.
    """
    out = _MaskProduct.apply(weight, logits, binary, bypass_sigmoid_grad)
    assert isinstance(out, Tensor)
    return out
