"""A pruned model in the three state dicts that the original writes at the end of training."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX, apply_masks, masks


def _checked(model: nn.Module) -> nn.Module:
    if not masks(model):
        raise UserError(f"model {type(model).__name__} has no masks: expected a pruned one to export")
    return model


def pruned_state(model: nn.Module) -> OrderedDict[str, Tensor]:
    """``model_best_pruned.pth``: dense tensors, weights multiplied by their rounded masks, no masks.

    Raises:
        UserError: a model without masks.
    """
    return OrderedDict(apply_masks(_checked(model)))


def sparse_state(model: nn.Module) -> dict[str, Tensor]:
    """``model_best_pruned_sparse.pth``: as `pruned_state`, with every masked weight as a COO tensor.

    Raises:
        UserError: a model without masks.
    """
    masked = {name.removesuffix(MASK_SUFFIX) for name in masks(_checked(model))}
    return {
        name: value.to_sparse_coo() if name in masked else value for name, value in apply_masks(model).items()
    }


def binary_mask_state(model: nn.Module) -> OrderedDict[str, Tensor]:
    """``model_best_bin_mask.pth``: pruned weights together with their masks rounded to 0 and 1.

    Raises:
        UserError: a model without masks.
    """
    return OrderedDict(apply_masks(_checked(model), keep_masks=True))
