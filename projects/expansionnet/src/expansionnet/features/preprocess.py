"""Pictures as the backbone sees them: resized to a square without keeping their shape, and standardised."""

# B pictures, S side of the square

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunelab.data.pictures import Picture, open_picture, pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures: red, green, blue."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Turns pictures into what a backbone reads; training, evaluation and features know no other way."""

    size: int
    """Side S, in pixels."""
    black: bool = False
    """Take pictures as the original does: one that is not RGB is black, none is turned upright as its EXIF
    data says. Else they are converted and turned."""

    def __call__(self, picture: Picture) -> Tensor:
        """A file, a PIL image or an array (H, W, 3) uint8 as (3, S, S) float32.

        Raises:
            UserError: see `prunelab.data.pictures.open_picture`.
        """
        return self._standardised(np.asarray(self._resized(picture))[None])[0]

    def batch(self, pictures: Iterable[Picture]) -> Tensor:
        """Several pictures as (B, 3, S, S); errors as of a single one."""
        return self._standardised(np.stack([np.asarray(self._resized(picture)) for picture in pictures]))

    def _resized(self, picture: Picture) -> Image.Image:
        # Pillow's bilinear filter reaches as far as the scale demands: it does not skip pixels.
        return self._image(picture).resize((self.size, self.size), Image.Resampling.BILINEAR)

    def _image(self, picture: Picture) -> Image.Image:
        if isinstance(picture, np.ndarray) or not self.black:
            return Image.fromarray(pixels(picture))
        image = picture if isinstance(picture, Image.Image) else open_picture(picture)
        return image if image.mode == "RGB" else Image.new("RGB", image.size)

    @staticmethod
    def _standardised(levels: np.ndarray) -> Tensor:
        """Levels (B, S, S, 3) uint8 as (B, 3, S, S), in one pass over the memory for each operation."""
        values = torch.from_numpy(levels.transpose(0, 3, 1, 2).astype(np.float32, order="C")) / 255
        mean, std = (torch.tensor(colour)[:, None, None] for colour in (MEAN, STD))
        return values.sub_(mean).div_(std)
