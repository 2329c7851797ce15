"""Which weights a place holds: a model folder, a checkpoint of the original, or a published Swin backbone.

# V words, D width, P static expansion vectors, E dynamic ones, w side of a window
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from expansionnet.config import ModelConfig, SwinConfig
from prunelab.errors import UserError

if TYPE_CHECKING:
    from expansionnet.vocabulary import Vocabulary

BACKBONE = "swin_transf."
"""What names of the backbone begin with, in the state of an end-to-end model."""
FOLDER, ORIGINAL, OFFICIAL_SWIN, TIMM_SWIN = (
    "a model folder",
    "a checkpoint of the original",
    "an official Swin file",
    "Swin weights of timm",
)
"""Kinds of weights, in words."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a place holds."""

    path: Path
    """Where it lies."""
    kind: str
    """`FOLDER`, `ORIGINAL`, `OFFICIAL_SWIN` or `TIMM_SWIN`."""
    state: dict[str, Tensor]
    """Weights under the names of `ExpansionNet`'s own state: the body's, and after `BACKBONE` those of the
    backbone, in timm's naming and without buffers."""
    config: ModelConfig | None = None
    """Sizes that lie beside the weights; None where only the tensors tell them (`sizes`)."""
    vocabulary: Vocabulary | None = None
    """Words that lie beside them."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """States of optimiser, scheduler and loader in a checkpoint of the original, by its keys."""
    unused: tuple[str, ...] = ()
    """Names of the file that no model has: buffers, and the head of a classifier."""

    @property
    def body(self) -> dict[str, Tensor]:
        """Weights of the body."""
        return {name: value for name, value in self.state.items() if not name.startswith(BACKBONE)}

    @property
    def backbone(self) -> dict[str, Tensor]:
        """Weights of the backbone, without `BACKBONE` before their names."""
        return {
            name.removeprefix(BACKBONE): value
            for name, value in self.state.items()
            if name.startswith(BACKBONE)
        }
