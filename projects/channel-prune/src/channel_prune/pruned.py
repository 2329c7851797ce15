"""Prune any network from Python.

```python
pruned = prune(model, example, batches, ratio=0.5)
pruned.model    # the same network, refitted, zeros where channels were pruned
pruned.slim()   # a network without them
```
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from channel_prune.choosing.choose import Choice, choose
from channel_prune.config import PruneConfig
from channel_prune.slim import slim
from prunelab.doors import did_you_mean
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A network with fewer channels."""

    model: nn.Module
    """It, in the full network's shapes."""
    choice: Choice
    """What was done to each layer."""
    example: Tensor
    """An input that it takes."""

    @property
    def kept(self) -> dict[str, list[int]]:
        """The input channels that every convolution keeps, by its path."""
        return self.choice.kept

    def slim(self, *, round_to: int = 1) -> nn.Module:
        """A network without the pruned channels, whose outputs are the same.

        Args:
            round_to: numbers of channels are raised to multiples of it.

        Raises:
            UserError: the network cannot be traced.
        """
        return slim(self.model, self.kept, self.example, round_to=round_to).model


def prune(
    model: nn.Module, example: Tensor, batches: Sequence[Tensor], ratio: float = 0.5, **options: Any
) -> Pruned:
    """Prune the input channels of a network's convolutions; the network given stays as it is.

    Args:
        model: any network of convolutions.
        example: an input (B, 3, H, W).
        batches: inputs like those it was trained with; a few hundred pictures or more.
        ratio: share of every convolution's input channels that goes, but of the first one's.
        **options: fields of `channel_prune.config.PruneConfig`.

    Raises:
        UserError: no such option, a value out of range, or a network that cannot be pruned so.
    """
    known = [field.name for field in fields(PruneConfig)]
    for name in options:
        if name not in known:
            raise UserError(f"prune has no option {name!r}: {did_you_mean(name, known)}")
    cfg = PruneConfig(**{"prune_ratio": ratio, "nb_smpls": sum(map(len, batches)), **options})
    model = copy.deepcopy(model)
    choice = choose(model, batches, cfg, example=example)
    return Pruned(model=model, choice=choice, example=example)
