"""Put masks into a network, make soft ones hard, and take them out again.

Every function changes the model in place. A conv at ``X`` becomes a `MaskingSequential` at ``X``: its weights
move to ``X.0``, the mask is at ``X.1``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from acosp.conv import is_prunable
from acosp.masking import MaskingSequential
from acosp.soft_topk import ChannelMaskLayer, SoftTopK
from acosp.sparse_conv import ChannelSparseConv


def replace(
    model: nn.Module,
    matches: Callable[[nn.Module], bool],
    replacement: Callable[[str, nn.Module], nn.Module],
) -> None:
    """Replace modules depth first in the order of registration.

    A module that is registered at several places is replaced at all of them by one and the same new module.
    Masked convolutions are not searched for further ones inside.

    Args:
        model: Changed in place; the model itself is never replaced.
        matches: Whether a module is to be replaced.
        replacement: Gets the dotted name (the first, of several) and the module.
    """
    done: dict[int, tuple[nn.Module, nn.Module]] = {}  # holds the old ones, so that no id is used twice

    def visit(parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            if id(child) not in done and not matches(child):
                if not isinstance(child, MaskingSequential):
                    visit(child, f"{prefix}{name}.")
                continue
            if id(child) not in done:
                done[id(child)] = (child, replacement(f"{prefix}{name}", child))
            parent._modules[name] = done[id(child)][1]

    visit(model, "")


def inject_masks(model: nn.Module, make: Callable[[str, nn.Module], ChannelMaskLayer]) -> None:
    """Put a mask behind every prunable convolution (`acosp.conv.is_prunable`) that has none.

    Args:
        model: Changed in place.
        make: Gets the dotted name and the convolution, gives the mask layer.

    Raises:
        ValueError: the model itself is a convolution, which nothing can stand behind.
    """
    if is_prunable(model):
        raise ValueError("the model is a single convolution: put it into a module, e.g. nn.Sequential(conv)")

    def masked(name: str, conv: nn.Module) -> nn.Module:
        wrapped = MaskingSequential(conv, make(name, conv))
        wrapped.train(conv.training)
        return wrapped

    replace(model, is_prunable, masked)


def masked_convs(model: nn.Module) -> Iterator[tuple[str, MaskingSequential]]:
    """Names and modules of all masked convolutions, in the order of registration."""
    for name, module in model.named_modules():
        if isinstance(module, MaskingSequential):
            yield name, module


def _warn_of_counts(odd: list[tuple[str, int, int]]) -> None:
    """Say once that hard masks keep another number of channels than they should."""
    if odd:
        name, kept, wanted = odd[0]
        warnings.warn(
            f"{len(odd)} hard masks do not keep the wanted number of channels (the first, {name}: {kept}, "
            f"not {wanted}): equal mask values, or no training forward before the masks were made hard",
            stacklevel=3,
        )


def soft_to_hard_k(model: nn.Module, *, stored_mask: bool = False) -> None:
    """Replace every soft mask by a fixed one of zeros and ones; the logits leave the model.

    Args:
        model: Changed in place; without soft masks nothing happens.
        stored_mask: True: as published, only the mask that the last training forward stored counts. A model
            that was never trained keeps all its channels then; one warning says so. False: exactly k channels
            stay, by the stored mask where there is one, else by the logits.
    """
    odd: list[tuple[str, int, int]] = []

    def harden(name: str, module: nn.Module) -> nn.Module:
        assert isinstance(module, SoftTopK)
        hard = module.hard_mask(stored=stored_mask)
        kept = int(hard.sum())
        if kept != module.k:
            odd.append((name, kept, module.k))
        layer = ChannelMaskLayer(hard)
        layer.train(module.training)
        return layer

    for name, module in list(masked_convs(model)):
        if isinstance(module[1], SoftTopK):
            module[1] = harden(f"{name}.1" if name else "1", module[1])
    replace(model, lambda module: isinstance(module, SoftTopK), harden)
    _warn_of_counts(odd)


def _out_axis(conv: nn.Module, mask: Tensor) -> Tensor:
    """The mask (C,) in a shape that fits the convolution's weight."""
    if isinstance(conv, nn.ConvTranspose2d):
        return mask.view(conv.groups, 1, -1, 1, 1)  # weight as (G, I / G, C / G, h, w)
    return mask.view(-1, 1, 1, 1)


@torch.no_grad()
def hard_to_conv(model: nn.Module, *, reinitialize: bool = False, freeze: bool = False) -> None:
    """Multiply every stored mask into its convolution's weight and bias and take the mask away.

    Parameters stay the same objects, so an optimiser goes on with them.

    Args:
        model: Changed in place.
        reinitialize: Give pruned filters new weights (Xavier, normal); their bias stays 0.
        freeze: As published, the convolutions' parameters are not trained any further.
    """

    def bare(name: str, module: nn.Module) -> nn.Module:
        assert isinstance(module, MaskingSequential)
        conv, mask = module[0], module.mask
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        weight = conv.weight
        if isinstance(conv, nn.ConvTranspose2d):
            grouped = (conv.groups, weight.shape[0] // conv.groups, *weight.shape[1:])
        else:
            grouped = tuple(weight.shape)
        shaped = _out_axis(conv, mask.to(weight.dtype))
        fresh = torch.zeros_like(weight)
        if reinitialize:
            nn.init.xavier_normal_(fresh)
        weight.copy_((weight.view(grouped) * shaped + fresh.view(grouped) * (1 - shaped)).view(weight.shape))
        if conv.bias is not None:
            conv.bias.mul_(mask)
        if freeze:
            conv.requires_grad_(False)
        return conv

    replace(model, lambda module: isinstance(module, MaskingSequential), bare)


def soft_to_channel_sparse(model: nn.Module, *, stored_mask: bool = False) -> None:
    """Replace every masked convolution by one that computes only the channels that stay.

    Args:
        model: Changed in place.
        stored_mask: How soft masks are made hard; see `soft_to_hard_k`.
    """
    odd: list[tuple[str, int, int]] = []

    def sparse(name: str, module: nn.Module) -> nn.Module:
        assert isinstance(module, MaskingSequential)
        conv, layer = module[0], module[1]
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        mask = module.mask
        if isinstance(layer, SoftTopK):
            mask = layer.hard_mask(stored=stored_mask)
            kept = int(mask.sum())
            if kept != layer.k:
                odd.append((name, kept, layer.k))
        new = ChannelSparseConv.from_mask(conv, mask)
        new.train(module.training)
        return new

    replace(model, lambda module: isinstance(module, MaskingSequential), sparse)
    _warn_of_counts(odd)
