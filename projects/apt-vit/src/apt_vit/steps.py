"""The paper's equations.

| symbol | meaning | equation | shape |
|---|---|---|---|
| x | points | | (B, 2) |
| y | classes | | (B,) |
| L | cross-entropy | | () |
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.model.network import Network
from prunelab.optim import guarded_step


def train_step(
    model: Network, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """One step on one batch, already on the model's device; returns what is logged."""
    x, y = batch
    optimizer.zero_grad()
    L = F.cross_entropy(model(x), y)
    L.backward()
    guarded_step(optimizer, model.parameters())
    return {"loss": L.detach()}
