"""What every network of this project can do besides its forward pass.

# B batch, H height, W width, K classes
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from acosp_seg.config import ModelConfig

Groups = tuple[tuple[str, ...], tuple[str, ...]]


class Network(nn.Module):
    """A network whose forward pass gives logits, and whose `losses` give what training needs.

    The forward pass has no branch on its input, so that torch.fx can trace it; sizes that do not fit are
    refused before it by `check_input`.

    Args:
        cfg: what is built.
        criterion_ignore: label that does not count in the loss.
    """

    def __init__(self, cfg: ModelConfig, criterion_ignore: int = 255) -> None:
        super().__init__()
        self.cfg = cfg
        self.criterion = nn.CrossEntropyLoss(ignore_index=criterion_ignore)
        self.register_forward_pre_hook(_check)

    def check_input(self, x: Tensor) -> None:
        """Refuse a batch that the network cannot take; each network says which.

        Raises:
            UserError: its size does not fit.
        """

    def groups(self) -> Groups:
        """Names of the top-level blocks in the optimizer's order: those at the base rate, then the others."""
        raise NotImplementedError

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions (as ``y``), main loss and auxiliary loss (0 where there is no auxiliary head)."""
        logits = self(x)
        loss = self.criterion(logits, y)
        return logits.detach().argmax(dim=1), loss, torch.zeros_like(loss)


def _check(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Check the input before the forward pass; not while a graph is recorded, whose sizes may be symbols."""
    if isinstance(module, Network) and args and not torch.compiler.is_compiling():
        module.check_input(args[0])


UNPRUNABLE = "unprunable"


def unprunable(conv: nn.Conv2d) -> nn.Conv2d:
    """Mark a convolution that gives the logits: it gets no mask."""
    setattr(conv, UNPRUNABLE, True)
    return conv
