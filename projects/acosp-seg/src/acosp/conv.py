"""Which convolutions are pruned, and how to say that one is not."""

from __future__ import annotations

from torch import nn

PRUNABLE = (nn.Conv2d, nn.ConvTranspose2d)
"""Kinds of layers behind which a channel mask can stand."""


class UnprunableConv2d(nn.Conv2d):
    """A convolution that is never masked, e.g. a classifier, whose every channel is a class.

    Any other module is left out by an attribute of its own: ``module.unprunable = True``.
    """

    unprunable = True


def is_prunable(module: nn.Module) -> bool:
    """Whether a mask is put behind this module: a 2-D convolution, plain or transposed, not flagged."""
    return isinstance(module, PRUNABLE) and not getattr(module, "unprunable", False)
