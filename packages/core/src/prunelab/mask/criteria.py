"""Which weights to prune: criteria that turn weights or gradients into 0/1 masks.

All functions take and return plain mappings by mask name and touch no module; `prunelab.mask.assign` puts the
result into a model. The number pruned out of ``n`` is ``floor(target * n)``, the smallest criterion first.

| scheme | criterion | ranked over |
|---|---|---|
| ``blind`` | ``|w|`` | all tensors together |
| ``uniform`` | ``|w|`` | each tensor alone |
| ``dist`` | ``|(w - mean) / std|`` with each tensor's own mean and population std | all tensors together |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunelab.errors import UserError

Scheme = Literal["blind", "uniform", "dist"]


def check_target(target: float) -> float:
    """Return a sparsity target that lies in [0, 1).

    Raises:
        UserError: it does not.
    """
    if not 0 <= target < 1:
        raise UserError(f"sparsity target {target!r} is out of range: expected a number in [0, 1)")
    return float(target)


def prune_smallest(criterion: Tensor, target: float) -> Tensor:
    """Mask out the ``floor(target * n)`` smallest entries of one tensor; ties as `torch.topk` orders them.

    Args:
        criterion: real numbers of any shape with ``n`` entries.
        target: fraction to prune, in [0, 1).

    Returns:
        0/1 mask of the criterion's shape and dtype.
    """
    flat = criterion.detach().reshape(-1)  # (n,)
    mask = torch.ones_like(flat)
    number = int(check_target(target) * flat.numel())
    if number:
        mask[torch.topk(flat, number, largest=False, sorted=False).indices] = 0
    return mask.view(criterion.shape)


def _prune_together(criteria: Mapping[str, Tensor], target: float) -> dict[str, Tensor]:
    """One ranking over all tensors, split again by tensor in the order given."""
    merged = prune_smallest(torch.cat([c.reshape(-1) for c in criteria.values()]), target)  # (sum of n,)
    parts = merged.split([c.numel() for c in criteria.values()])
    return {name: part.view(c.shape).clone() for (name, c), part in zip(criteria.items(), parts, strict=True)}


def _check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    if not tensors:
        raise UserError(f"there are no {what}s to rank: expected at least one masked weight")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{what} of {name} is not finite: expected real numbers to rank")


def _standardised(weight: Tensor) -> Tensor:
    deviation = weight.std(correction=0)
    centred = (weight - weight.mean()).abs()
    # A tensor of equal values has no ranking of its own: all its entries count as smallest.
    return torch.where(deviation > 0, centred / deviation, torch.zeros_like(centred))


def magnitude(weights: Mapping[str, Tensor], target: float, scheme: Scheme) -> dict[str, Tensor]:
    """Prune the weights of smallest size.

    Args:
        weights: unmasked weights by mask name, as `prunelab.mask.weights_of` gives them.
        target: fraction to prune, in [0, 1).
        scheme: how sizes are compared, see the table above.

    Returns:
        0/1 masks under the same names, in the weights' shapes and dtypes.

    Raises:
        UserError: a target out of range, an unknown scheme, or a weight that is not finite.
    """
    _check_finite(weights, "weight")
    plain = {name: weight.detach() for name, weight in weights.items()}
    match scheme:
        case "uniform":
            return {name: prune_smallest(w.abs(), target) for name, w in plain.items()}
        case "blind":
            return _prune_together({name: w.abs() for name, w in plain.items()}, target)
        case "dist":
            return _prune_together({name: _standardised(w) for name, w in plain.items()}, target)
    raise UserError(f"magnitude scheme {scheme!r} is unknown: expected blind, uniform or dist")


def snip(gradients: Mapping[str, Tensor], target: float, *, signed: bool = False) -> dict[str, Tensor]:
    """Prune the weights whose masks matter least to the loss, by single-shot connection sensitivity.

    Args:
        gradients: ``dL/dmask`` by mask name, summed over one or more batches with all masks 1.
        target: fraction to prune, in [0, 1).
        signed: rank the gradient divided by its sum, sign and all (a negative sum then turns the ranking
            round),
            as the original system did; otherwise its absolute value, as the criterion is defined.

    Returns:
        0/1 masks under the same names; one ranking over all tensors.

    Raises:
        UserError: a target out of range, or gradients that are not finite or sum to nothing.
    """
    _check_finite(gradients, "mask gradient")
    saliency = {name: g.detach() if signed else g.detach().abs() for name, g in gradients.items()}
    merged = torch.cat([s.reshape(-1) for s in saliency.values()])
    total = merged.sum()
    if float(total) == 0:
        raise UserError("mask gradients sum to 0: expected a loss that depends on the masked weights")
    return _prune_together({name: s / total for name, s in saliency.items()}, target)
