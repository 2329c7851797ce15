"""The network, and how it comes from and goes to a model folder.

# B batch, W width
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from apt_vit.config import ModelConfig
from prunelab.config import from_plain, to_plain
from prunelab.hub import load_model_folder, load_state, save_model_folder


class Network(nn.Module):
    """Points to the logits of two classes."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.layers = nn.Sequential(nn.Linear(2, cfg.width), nn.ReLU(), nn.Linear(cfg.width, 2))

    def forward(self, points: Tensor) -> Tensor:
        """(B, 2) to logits (B, 2)."""
        return self.layers(points)

    def save(self, folder: Path) -> None:
        """Write a model folder."""
        save_model_folder(folder, to_plain(self.cfg), self.state_dict(), kind="apt-vit")

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Network:
        """Read a model folder.

        Raises:
            UserError: it is missing, or of another kind of model.
        """
        found = load_model_folder(folder, kind="apt-vit")
        model = cls(from_plain(ModelConfig, found.config))
        load_state(model, found.state, where=str(folder))
        return model.to(torch.device(device))
