"""Masks of pruned channels in fine-tuning: their weights are zero and stay zero.

They are no state of their own: a channel is pruned where all its weights are zero, and a run that goes on
finds its masks in the weights again.

# O outputs, C input channels of a convolution
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from channel_prune.choosing.prunable import Layer


class Masks:
    """One mask for each convolution.

    Args:
        kernels: weights (O, C, h, w) by the convolution's path.
        masks: (1, C, 1, 1) each: 1 where a channel is kept, else 0.
        trainable: all that is trained, of which `shares` says how much is pruned.
    """

    def __init__(
        self, kernels: dict[str, Tensor], masks: dict[str, Tensor], trainable: Sequence[Tensor]
    ) -> None:
        self._kernels = kernels
        self._masks = masks
        self._trainable = trainable

    @classmethod
    def from_zeros(cls, layers: Sequence[Layer], model: nn.Module | None = None) -> Masks:
        """The masks of kernels as they are now: a channel is kept where its sum of squares is above zero.

        Args:
            layers: the convolutions.
            model: the network, for its other parameters; None: the kernels count alone.
        """
        kernels: dict[str, Tensor] = {layer.name: layer.conv.weight for layer in layers}
        masks = {}
        for name, weight in kernels.items():
            squares = weight.detach().square().sum((0, 2, 3), keepdim=True)  # (1, C, 1, 1)
            masks[name] = (squares > 0).to(weight.dtype)
        if model is None:
            return cls(kernels, masks, list(kernels.values()))
        return cls(kernels, masks, [p for p in model.parameters() if p.requires_grad])

    @property
    def kept(self) -> dict[str, list[int]]:
        """The kept channels of each convolution."""
        return {name: torch.nonzero(mask.flatten()).flatten().tolist() for name, mask in self._masks.items()}

    @property
    def state(self) -> dict[str, Tensor]:
        """The masks (1, C, 1, 1) by the convolution's path."""
        return dict(self._masks)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Multiply the kernels' gradients by the masks.

        To be called when gradients have been averaged over the processes and hold the weight decay's part
        (zero for pruned weights in any case, which are zero themselves).
        """
        for name, weight in self._kernels.items():
            if weight.grad is not None:
                weight.grad.mul_(self._masks[name])

    def shares(self) -> dict[str, Tensor]:
        """How many of all trainable numbers (``pr_trn``) and of the kernels (``pr_krn``) are zero now, ()."""
        return pruned_shares(self._trainable, list(self._kernels.values()))


def pruned_shares(trainable: Sequence[Tensor], kernels: Sequence[Tensor]) -> dict[str, Tensor]:
    """How many of all trainable numbers (``pr_trn``) and of the kernels (``pr_krn``) are zero, ()."""
    return {"pr_trn": _share(trainable), "pr_krn": _share(kernels)}


def _share(tensors: Sequence[Tensor]) -> Tensor:
    left = torch.stack([torch.count_nonzero(tensor.detach()) for tensor in tensors]).sum()
    return 1 - left / sum(tensor.numel() for tensor in tensors)
