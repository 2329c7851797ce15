"""A captioner as one thing: network, words, and where it has one the backbone, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expansionnet.config import DecodeConfig, ModelConfig

if TYPE_CHECKING:
    from expansionnet.features import FeatureExtractor
    from expansionnet.model import ExpansionNet
    from expansionnet.vocabulary import Vocabulary

KIND = "expansionnet"
Picture = str | Path | Image.Image


@dataclass(kw_only=True)
class Captioner:
    """Everything that turns a picture into a caption."""

    model: ExpansionNet
    """The network."""
    vocabulary: Vocabulary
    """Its words."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How to search."""
    extractor: FeatureExtractor | None = None
    """Computes what the body reads from pictures, for a model that reads features."""
    black_pictures: bool = False
    """Whether pictures that are not RGB are taken for black ones, as the original does."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was noted when it was saved: training step, scores."""

    @property
    def config(self) -> ModelConfig:
        """Its sizes."""
        return self.model.cfg

    def caption(
        self, pictures: Picture | Sequence[Picture], *, beam_size: int | None = None
    ) -> str | list[str]:
        """Say what is on a picture (a file or a PIL image), or on each of several."""
        raise NotImplementedError

    def caption_features(
        self, features: Tensor | Sequence[np.ndarray], *, beam_size: int | None = None
    ) -> list[str]:
        """Caption pictures given as features (S, F)."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
        """Write configuration, weights, card, words and backbone into a folder."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", backbone: str | Path | None = None
    ) -> Captioner:
        """Read what `save_pretrained` wrote: a folder, or an id on the Hub."""
        raise NotImplementedError

    @classmethod
    def from_original(
        cls,
        path: str | Path,
        *,
        vocab_path: str | Path,
        config: ModelConfig | None = None,
        device: str | torch.device = "cpu",
        backbone: str | Path | None = None,
    ) -> Captioner:
        """A captioner from a checkpoint of the original and its words."""
        raise NotImplementedError
