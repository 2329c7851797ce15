"""Evaluators: objects whose `run(model)` yields names and values."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from apt_vit.model.network import Network
from prunelab.data.loader import Loader


class Accuracy:
    """The share of right answers, and that of the best constant answer."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    @torch.no_grad()
    def run(self, model: Network) -> Iterator[tuple[str, float]]:
        """Yield ``accuracy`` and ``constant``, the best constant answer's, both in [0, 1]."""
        device = next(model.parameters()).device
        right = seen = ones = 0
        for x, y in self.loader:
            right += int((model(x.to(device)).argmax(1).cpu() == y).sum())
            ones += int(y.sum())
            seen += len(y)
        yield "accuracy", right / seen
        yield "constant", max(ones, seen - ones) / seen
