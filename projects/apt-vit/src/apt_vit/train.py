"""Train a network that learns which of its tokens to drop.

``train`` alone is the tour; ``train --help`` lists the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apt_vit.config import Config
    from apt_vit.data import Data


def train(cfg: Config, *, data: Data | None = None) -> Path:
    """Train as configured.

    Args:
        cfg: what is trained, and how.
        data: the data set, opened; None: that of the configuration.

    Returns:
        The run's folder.

    Raises:
        UserError: data or weights are missing or do not fit the configuration, the folder holds a run
            already, or a gradient is not finite.
    """
    raise NotImplementedError(cfg, data)
