"""From a network whose pruned channels are zeros to one that has fewer channels and says the same.

Input channels that a convolution does not keep are weight columns of zeros; nothing gets faster or smaller by
them. Here the layers before it stop making what nobody reads: filters go, and with them what belongs to them
in biases, batch norms and depthwise convolutions. Where readers of one tensor keep different channels, all
that any of them keeps is made, and each picks its own. `prunelab.surgery.shrink` does it; here the result is
held against the masked network, since a wrong one would still answer.

The slim network can be fine-tuned in place of the masked one: every step changes what is left in the same
way, with momentum, weight decay and the statistics of batch norms (columns that `round_to` adds have zero
weights, and masks of zeros keep them so). What a masked training has besides is of no effect: filters, scales
and statistics of channels that nobody reads, which decay or wander on; they count in the decay that it logs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.modes import evaluating
from prunelab.surgery import Structure, resize, shrink

TOLERANCE = 1e-5
"""Largest difference to the masked network in double precision, as a share of its largest output."""


@dataclass(frozen=True, kw_only=True)
class Slim:
    """A network without the channels that were pruned."""

    model: nn.Module
    """It; its code, and the names of its weights, are those of the full network."""
    structure: Structure
    """Channels that are left of each layer that changed, as plain data (`channel_prune.model.build`)."""
    difference: float | None
    """To the masked network, in double precision, as a share of the largest output; None: not looked at."""


def slim(
    model: nn.Module,
    kept: Mapping[str, Sequence[int]],
    example: Tensor,
    *,
    round_to: int = 1,
    verify: bool = True,
) -> Slim:
    """Make a pruned network really smaller.

    Args:
        model: the network; it stays as it is. What it does with other channels than the kept ones does not
            count.
        kept: input channels that convolutions read, by path; others read all.
        example: an input (B, 3, H, W).
        round_to: numbers of channels that layers make are raised to multiples of this, by channels with
            weights of zero.
        verify: compare with the masked network, on random pictures of the example's size.

    Raises:
        UserError: the network cannot be followed, a list does not fit its layer, or results differ.
    """
    lists = {path: {"in": list(channels)} for path, channels in kept.items()}
    small = shrink(model, example, lists, round_to=round_to)
    difference = None
    if verify:
        difference = _difference(masked(model, kept), small.model, example)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{type(model).__name__}: the slim network differs from the masked one by {difference:.2g} "
                f"of its largest output, expected at most {TOLERANCE:g}: its code does something with "
                "channels that was not understood"
            )
    return Slim(model=small.model, structure=small.structure, difference=difference)


class Whole:
    """The way back: a slim network's numbers at the places of the full one that they came from.

    What the slim network lacks stays as it was: nobody reads it.

    Args:
        model: the full network; it takes up the numbers.
        structure: of the slim one, made of this network.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model = model
        numbered = copy.deepcopy(model).double()
        with torch.no_grad():
            for tensor in numbered.state_dict().values():
                tensor.copy_(torch.arange(1, tensor.numel() + 1).view(tensor.shape))
        # Weights that rounding adds are zero on both sides; they have the number 0 here, which is no place.
        self._numbers = {
            name: tensor.long() for name, tensor in resize(numbered, structure).state_dict().items()
        }

    @torch.no_grad()
    def of(self, small: nn.Module) -> nn.Module:
        """The full network with the numbers that the slim one has now."""
        own = self.model.state_dict()
        for name, tensor in small.state_dict().items():
            if name in own:  # a list of channels to read has no counterpart
                numbers = self._numbers[name]
                real = numbers > 0
                flat = own[name].flatten().index_copy(0, numbers[real] - 1, tensor[real])
                own[name].copy_(flat.view(own[name].shape))
        return self.model


def masked(model: nn.Module, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of a network in which what is not kept has zero weights."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for path, channels in kept.items():
            weight = model.get_submodule(path).get_parameter("weight")  # (O, C, h, w)
            mask = torch.zeros(weight.shape[1], dtype=weight.dtype, device=weight.device)
            mask[list(channels)] = 1
            weight.mul_(mask.view(1, -1, *(1,) * (weight.dim() - 2)))
    return model


def _difference(model: nn.Module, small: nn.Module, example: Tensor) -> float:
    """How far two networks are from each other in double precision, as a share of the largest output."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)
    networks = [model.double(), copy.deepcopy(small).double()]
    with evaluating(*networks), torch.no_grad():
        expected, found = ([y for y in tree_leaves(net(x)) if isinstance(y, Tensor)] for net in networks)
    largest = max((float(y.abs().max()) for y in expected if y.numel()), default=0.0)
    apart = [
        float((a - b).abs().max()) if a.shape == b.shape else float("inf")
        for a, b in zip(expected, found, strict=True)
        if a.numel()
    ]
    return max(apart, default=0.0) / (largest or 1.0)
