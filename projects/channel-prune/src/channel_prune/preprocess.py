"""How a picture becomes what a network takes; saved with the network, since another way ruins its answers.

# S side of what the network takes
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channel_prune.config import DETECTION, FOREIGN, Config
from prunelab.errors import UserError
from prunelab.transforms.classify import (
    CIFAR,
    ILSVRC,
    IMAGENET,
    SHORTER,
    SIDE,
    Colours,
    Resample,
    central_crop,
    distorted_crop,
    draw_shift,
    draw_window,
    pad_crop_flip,
    smooth_resize,
)
from prunelab.transforms.paired import Rng
from prunelab.transforms.resize import resize_bilinear_tf1

RECIPES = ("small", "large", "whole")
RESAMPLES = ("tf1", "bilinear", "bicubic")
SMALLEST_LARGE = 64
"""Side from which one's own pictures are treated as those of ILSVRC-12 are, and not as those of CIFAR-10."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The way of a picture, of any size, to a network."""

    side: int
    """S."""
    recipe: str
    """``small``: CIFAR-10's (shorter side to S and the middle; in training padded, cropped and mirrored);
    ``large``: ILSVRC-12's (shorter side to `shorter`, and the middle; in training a random window, mirrored);
    ``whole``: squeezed to S by S, as detectors take pictures."""
    shorter: int
    """Length that the shorter side is scaled to before the middle is cut out; not of ``whole``."""
    colours: Colours = field(default=CIFAR)
    """What pixels become."""
    resample: str = "tf1"
    """How sizes are changed: ``tf1`` (TensorFlow 1's grid), or smoothed, ``bilinear`` or ``bicubic``, as
    networks of torchvision and timm are used to."""
    bgr: bool = False
    """Whether blue comes first, then green and red."""

    def __post_init__(self) -> None:
        for name, allowed in (("recipe", RECIPES), ("resample", RESAMPLES)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.side < 1 or self.shorter < self.side:
            raise UserError(f"side is {self.side} and shorter {self.shorter}, expected 1 <= side <= shorter")

    def picture(self, image: np.ndarray) -> Tensor:
        """Prepare a picture for an answer.

        Args:
            image: (H, W, 3) uint8, red, green, blue.

        Returns:
            (3, S, S) float32.
        """
        return self.fitted_picture(self._fitted(image))

    def fitted_picture(self, image: np.ndarray) -> Tensor:
        """Prepare a picture that has its size already, (S, S, 3) with values 0 to 255, to (3, S, S)."""
        return self._tensor(self.colours(image))

    def training_picture(self, image: np.ndarray, rng: Rng = random) -> Tensor:
        """Prepare a picture for training, changed at random; (H, W, 3) uint8 to (3, S, S) float32.

        Raises:
            ValueError: the recipe is ``whole``: a detector's pictures are changed together with their boxes.
        """
        if self.recipe == "large":
            window = draw_window(image.shape[0], image.shape[1], rng)
            crop = distorted_crop(image, window, rng.random() < 0.5, self.side, self._resample)
            return self._tensor(self.colours(crop))
        if self.recipe == "small":
            planes = torch.from_numpy(pad_crop_flip(self._fitted(image), draw_shift(rng), self.colours))
            return planes.flip(0) if self.bgr else planes
        raise ValueError("a detector's pictures are changed together with their boxes")

    @property
    def _resample(self) -> Resample:
        return resize_bilinear_tf1 if self.resample == "tf1" else smooth_resize(self.resample)

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """The picture's evaluation crop, (S, S, 3) float32 with values 0 to 255."""
        if self.recipe == "whole":
            return self._resample(image, self.side, self.side)
        return central_crop(image, self.shorter, self.side, self._resample)

    def _tensor(self, image: np.ndarray) -> Tensor:
        planes = (image[:, :, ::-1] if self.bgr else image).transpose(2, 0, 1)  # (3, S, S)
        return torch.from_numpy(np.ascontiguousarray(planes))


def preprocess_of(cfg: Config) -> Preprocess:
    """The way that a configuration asks for.

    The original's networks have that of their data set, networks of torchvision ImageNet's with smoothed
    sizes, and those of timm what timm says of them. One's own pictures go the way of CIFAR-10's where the
    network takes fewer than 64 pixels, and that of ILSVRC-12's else.
    """
    side, data = cfg.net.image_size, cfg.data
    if data.dataset in DETECTION:
        return Preprocess(side=side, shorter=side, recipe="whole", colours=ILSVRC, bgr=True)
    small = data.dataset in ("cifar10", "tiny") or (data.dataset == "folder" and side < SMALLEST_LARGE)
    imagenet = data.pixels == "imagenet"
    if small:
        return Preprocess(side=side, shorter=side, recipe="small", colours=IMAGENET if imagenet else CIFAR)
    found = Preprocess(
        side=side,
        shorter=side * SHORTER // SIDE,
        recipe="large",
        colours=IMAGENET if imagenet else ILSVRC,
        resample="bilinear" if cfg.net.name.startswith(FOREIGN) else "tf1",
    )
    return replace(found, **_timm_says(cfg)) if cfg.net.name.startswith("timm:") and imagenet else found


def _timm_says(cfg: Config) -> dict[str, Any]:
    """Mean, deviation and crop of a network's published weights."""
    from timm.models import get_pretrained_cfg

    told = get_pretrained_cfg(cfg.net.name.removeprefix("timm:"))
    if told is None:
        return {}
    return {
        "colours": Colours(mean=tuple(told.mean), std=tuple(told.std), scale=255.0, black_border=True),
        "shorter": max(int(cfg.net.image_size / told.crop_pct), cfg.net.image_size),
        "resample": told.interpolation if told.interpolation in RESAMPLES else "bicubic",
    }
