"""The one generator of pictures: coloured shapes on an uneven, noisy ground, and the whole truth about them.

A picture is a function of (seed, number) alone. How it is drawn is said in
`shape_drawing`.
"""

# H height, W width (equal here), n objects

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunelab.data.synthetic.shape_drawing import (
    GROUNDS,
    SHAPES,
    Draws,
    Thing,
    boxes_of,
    draw,
    random_thing,
)
from prunelab.seed import derive

VOID = 255
"""Mask value of pixels on an edge, which belong to no class."""

_RADII = (0.085, 0.26)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and everything that is true of it."""

    number: int
    """Which picture of its seed this is."""
    things: tuple[Thing, ...]
    """The objects, largest first; of two that overlap the smaller lies in front."""
    ground: str
    """Pattern of the ground."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    cover: np.ndarray
    """(n, H, W) float: how much of each pixel each object covers, as seen: less what lies in front."""

    def mask(self) -> np.ndarray:
        """Semantic mask (H, W) uint8: 0 ground, 1 + place in `SHAPES`, `VOID` on edges."""
        labels = np.zeros(self.image.shape[:2], np.uint8)
        for thing, cover in zip(self.things, self.cover, strict=True):
            labels[cover >= 0.9] = 1 + SHAPES.index(thing.shape)
        share = self.cover.max(axis=0)
        labels[(share > 0.1) & (share < 0.9)] = VOID
        return labels

    @cached_property
    def boxes(self) -> np.ndarray:
        """Boxes of what is seen of the objects, (n, 4) float32 pixels: left, top, right, bottom."""
        return boxes_of(self.cover)

    @property
    def classes(self) -> list[str]:
        """Class names of the objects, in the order of `boxes`."""
        return [thing.shape for thing in self.things]

    @property
    def label(self) -> int:
        """Class of the whole picture: place in `SHAPES` of its largest object."""
        return SHAPES.index(self.things[0].shape)


def _things(draws: Draws) -> tuple[Thing, ...]:
    count = 3 if draws.chance(0.4) else 2
    radii = sorted((draws.uniform(*_RADII) for _ in range(count)), reverse=True)
    placed: list[Thing] = []
    for radius in radii:
        radius = min(radius, 0.2) if count == 3 else radius
        placed.append(random_thing(draws, SHAPES, radius, placed))
    return tuple(placed)


def make_scene(seed: int, number: int, *, side: int = 72) -> Scene:
    """Make picture ``number`` of a seed.

    Args:
        seed: which set of pictures.
        number: which picture of it.
        side: height and width in pixels.
    """
    draws = Draws(derive(seed, "scene", number))
    things = _things(draws)
    ground = draws.pick(GROUNDS)
    image, seen = draw(draws, things, ground, side)
    return Scene(number=number, things=things, ground=ground, image=image, cover=seen)
