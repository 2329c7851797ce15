"""How a picture becomes what the network takes; saved with the network, since another way ruins its answers.

# H, W height and width of what the network takes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from apt_vit.config import Config
from prunelab.errors import UserError
from prunelab.transforms.classify import Colours, Window

RATIO = (3 / 4, 4 / 3)
"""Least and largest width / height of a random crop."""
MEAN = STD = (0.5, 0.5, 0.5)
"""What pixels in [0, 1] are normalised by."""


class Draw(NamedTuple):
    """What is drawn for a training picture."""

    window: Window
    """The part of the picture that is shown."""
    flip: bool
    """Whether it is mirrored."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The way of a picture, of any size, to the network."""

    size: tuple[int, int]
    """H and W."""
    crop_scale: float = 0.05
    """Least share of a training picture's area that a random crop shows."""
    flip: bool = False
    """Whether training pictures are mirrored at random."""
    mean: tuple[float, ...] = MEAN
    """Of red, green and blue, in [0, 1]."""
    std: tuple[float, ...] = STD
    """Of red, green and blue, in [0, 1]."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or len(self.size) != 2:
            raise UserError(f"size is {self.size}, expected a height and a width of at least 1")

    @property
    def colours(self) -> Colours:
        """What the values of pixels become."""
        return Colours(mean=tuple(self.mean), std=tuple(self.std), scale=255.0)

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """A picture of any size as the network sees it, (h, w, 3) to (H, W, 3), both uint8."""
        return self._resized(Image.fromarray(image))

    def picture(self, image: np.ndarray) -> Tensor:
        """Prepare a picture for an answer: both sides are resized, whatever its proportions.

        Args:
            image: (h, w, 3) uint8, red, green, blue.

        Returns:
            (3, H, W) float32.
        """
        return self._tensor(self.fitted(image))

    def draw(self, height: int, width: int) -> Draw:
        """Draw a crop, and then whether it is mirrored, from torch's generator.

        The draws are torchvision's; loaders seed the generator for each sample.

        Args:
            height: h of the picture.
            width: w of the picture.
        """
        extent = torch.empty(3, height, width, device="meta")
        window = RandomResizedCrop.get_params(extent, [self.crop_scale, 1.0], list(RATIO))
        return Draw(Window(*window), self.flip and bool(torch.rand(()) < 0.5))

    def training_picture(self, image: np.ndarray, drawn: Draw | None = None) -> Tensor:
        """Prepare a picture for training: a random window of it, resized, perhaps mirrored.

        Args:
            image: (h, w, 3) uint8, red, green, blue.
            drawn: what was drawn; None: it is drawn now.

        Returns:
            (3, H, W) float32.
        """
        (top, left, height, width), flip = drawn or self.draw(*image.shape[:2])
        shown = self._resized(Image.fromarray(image[top : top + height, left : left + width]))
        return self._tensor(shown[:, ::-1] if flip else shown)

    def _resized(self, image: Image.Image) -> np.ndarray:
        """Smoothed where it becomes smaller; the original's PIL pictures are resized in the same way."""
        height, width = self.size
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    def _tensor(self, image: np.ndarray) -> Tensor:
        planes = self.colours(image).transpose(2, 0, 1)  # (3, H, W)
        return torch.from_numpy(np.ascontiguousarray(planes))


def preprocess_of(cfg: Config) -> Preprocess:
    """The way that a configuration asks for."""
    return Preprocess(size=cfg.model.img_size, crop_scale=cfg.data.crop_scale, flip=cfg.data.flip)
