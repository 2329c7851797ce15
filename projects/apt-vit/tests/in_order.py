"""Data given to a training: recorded pictures, in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apt_vit.config import Config
from apt_vit.data import Batch, Data
from apt_vit.preprocess import preprocess_of
from prunelab.data.loader import Loader, load_in
from prunelab.data.sampling import EpochSampler


class Recorded:
    """Pictures and their classes, given as they are.

    Args:
        pictures: (N, 3, H, W) float32.
        labels: (N,) int64.
    """

    def __init__(self, pictures: Tensor, labels: Tensor) -> None:
        self.pictures, self.labels = pictures, np.asarray(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, samples: list[int]) -> Batch:
        return self.pictures[samples], torch.from_numpy(self.labels[samples])

    def check(self) -> dict[str, Any]:
        return {"files": len(self)}

    def raw(self, index: int) -> np.ndarray:
        return self.pictures[index].permute(1, 2, 0).numpy()


class InOrder(Data):
    """Splits whose batches come in the same order in every epoch."""

    def loader(self, split: str, rank: int = 0, world_size: int = 1) -> Loader[EpochSampler]:
        found, data = self.split(split), self.cfg.data
        size = self.cfg.micro_batch_size if split == "train" else data.eval_batch_size
        sampler = EpochSampler(
            len(found), size, seed=0, shuffle=False, drop_last=False, rank=rank, world_size=world_size
        )
        return load_in(sampler, found, collate=found.collate, seed=0)


def in_order(cfg: Config, splits: Mapping[str, tuple[Tensor, Tensor]]) -> InOrder:
    """Data of a configuration, by split; ``val`` serves as ``test`` too."""
    found = {name: Recorded(*pair) for name, pair in splits.items()}
    return InOrder(
        cfg=cfg,
        folder=Path("recorded"),
        class_names=tuple(f"class {number}" for number in range(cfg.model.num_classes)),
        preprocess=preprocess_of(cfg),
        splits={"test": found["val"], **found},
    )
