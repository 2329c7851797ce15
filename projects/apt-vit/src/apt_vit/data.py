"""Generated points in two rings, one class each, and their loaders.

# N samples, B batch
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from apt_vit.config import DataConfig
from prunelab.data.loader import Loader, make_loader
from prunelab.seed import derive

Sample = tuple[Tensor, Tensor]


class Rings(Dataset[Sample]):
    """Points of the plane, class 0 near radius 1 and class 1 near radius 2.

    Args:
        size: N.
        seed: of the points.
        split: a name that is drawn from too, so that splits differ.
    """

    def __init__(self, size: int, *, seed: int, split: str) -> None:
        generator = torch.Generator().manual_seed(derive(seed, "rings", split))
        self.labels = torch.randint(0, 2, (size,), generator=generator)  # (N,)
        angle = torch.rand(size, generator=generator) * 2 * torch.pi
        radius = 1 + self.labels + 0.2 * torch.randn(size, generator=generator)
        self.points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)  # (N, 2)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return self.points[index], self.labels[index]


def collate(samples: list[Sample]) -> Sample:
    """Stack samples: points (B, 2), labels (B,)."""
    points, labels = zip(*samples, strict=True)
    return torch.stack(points), torch.stack(labels)


def loader(cfg: DataConfig, *, seed: int, split: str, rank: int = 0, world_size: int = 1) -> Loader:
    """The loader of a split, `train` shuffled and without a short last batch."""
    training = split == "train"
    return make_loader(
        Rings(cfg.samples, seed=seed, split=split),
        batch_size=cfg.batch_size,
        collate=collate,
        seed=seed,
        shuffle=training,
        drop_last=training,
        rank=rank,
        world_size=world_size,
    )
