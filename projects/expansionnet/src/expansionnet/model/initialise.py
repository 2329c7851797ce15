"""Weights of a new network, as the original draws them."""

from __future__ import annotations

import math

from torch import Tensor, nn

BACKBONE = "swin_transf"
"""Name of the backbone inside an end-to-end network."""


def initialise(model: nn.Module, prefix: str = "") -> None:
    """Draw all weights.

    Whatever has more than one dimension is Xavier-uniform, the backbone's relative positions and convolution
    too. Biases are uniform within 1/sqrt(inputs), but 0 in the backbone's linear maps. Norms are 1 and 0.

    Args:
        model: changed in place.
        prefix: the name it has inside the network, for a part of it.
    """
    for name, module in model.named_modules(prefix=prefix):
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif kind == "bias":
                _initialise_bias(parameter, module, name.startswith(BACKBONE))


def _initialise_bias(bias: Tensor, module: nn.Module, in_backbone: bool) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    if in_backbone and isinstance(module, nn.Linear):
        nn.init.zeros_(bias)
    else:
        bound = 1 / math.sqrt(weight[0].numel())
        nn.init.uniform_(bias, -bound, bound)
