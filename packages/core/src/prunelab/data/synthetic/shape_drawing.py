"""What the embedded pictures are made of: coloured shapes on an uneven, noisy ground.

Colours vary and overlap (red, orange, yellow; pink, purple), sizes are continuous, edges are soft, and noise
lies over all: what is shown can be told from the pixels well, but not always.

Only additions, products, quotients and square roots are used on pixels, and angles are rounded, so that the
same pixels come out on every machine.
"""

# H height, W width (equal here: the side), n objects

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "bar")
"""Classes of objects; in masks and boxes class c is shape c - 1, and 0 is the ground."""

MORE_SHAPES = ("frame", "moon")
"""Two further outlines, for sets with ten classes."""

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "orange": (0.93, 0.50, 0.12),
    "yellow": (0.90, 0.84, 0.20),
    "green": (0.16, 0.62, 0.22),
    "blue": (0.16, 0.28, 0.85),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.95, 0.55, 0.72),
    "cyan": (0.20, 0.75, 0.80),
}
"""The middle of each colour's range, as red, green, blue in [0, 1]."""

GROUNDS = ("plain", "striped", "dotted")
"""Patterns of the ground."""


SMALL, LARGE = 0.135, 0.18
"""Radius (share of the picture's side) below which an object is small, and above which it is large."""


_T = TypeVar("_T")


class Draws:
    """Random draws made of uniform numbers only."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._rng.random())

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return float(self._rng.random()) < probability

    def pick(self, options: Sequence[_T]) -> _T:
        """One of the options, all equally likely."""
        return options[int(float(self._rng.random()) * len(options))]

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """The items in random order."""
        keys = self._rng.random(len(items)).tolist()
        return [item for _, item in sorted(zip(keys, items, strict=True), key=lambda pair: pair[0])]

    def array(self, *shape: int) -> np.ndarray:
        """Uniform numbers in [-1, 1)."""
        return 2.0 * self._rng.random(shape) - 1.0


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a picture; lengths are shares of the picture's side."""

    shape: str
    """One of `SHAPES` or `MORE_SHAPES`."""
    colour: str
    """One of `COLOURS`."""
    tint: tuple[float, float, float]
    """Its real colour."""
    x: float
    """Centre, from the left."""
    y: float
    """Centre, from the top."""
    radius: float
    """Half its extent."""
    turn: tuple[float, float]
    """Cosine and sine of the angle by which it is turned (a small one)."""

    @property
    def size(self) -> str:
        """``small``, ``large``, or empty for what lies between."""
        return "small" if self.radius < SMALL else "large" if self.radius > LARGE else ""


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the pixels in [0, 1]: y (H, 1) and x (1, W)."""
    steps = (np.arange(side) + 0.5) / side
    return steps[:, None], steps[None, :]


def _outline(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far points lie out, 1 on the edge, less inside; u to the right and v down, in radii."""
    across, down = np.abs(u), np.abs(v)
    if shape == "square":
        return np.maximum(across, down) / 0.86
    if shape == "triangle":
        return np.maximum(v / 0.7, across * 1.7 - v)
    if shape == "diamond":
        return across + down
    if shape == "cross":
        return np.minimum(np.maximum(across / 0.34, down), np.maximum(down / 0.34, across))
    if shape == "star":  # four points: sqrt|u| + sqrt|v| = 1, a little fuller
        return (np.sqrt(across) + np.sqrt(down)) ** 2 / 1.25
    if shape == "bar":
        return np.maximum(across, down / 0.36)
    if shape == "frame":
        out = np.maximum(across, down) / 0.86
        return np.maximum(out, 2.0 - out / 0.55)
    out = np.sqrt(u * u + v * v)
    if shape == "moon":  # a disc without another one to its right
        return np.maximum(out, 2.0 - np.sqrt((u - 0.55) * (u - 0.55) + v * v) / 0.7)
    return out if shape == "circle" else np.maximum(out, 2.0 - out / 0.52)


def cover(
    shape: str, centre: tuple[float, float], radius: float, turn: tuple[float, float], side: int
) -> np.ndarray:
    """How much of each pixel an object covers, (H, W) in [0, 1].

    Args:
        shape: one of `SHAPES` or `MORE_SHAPES`.
        centre: x and y, as shares of the side.
        radius: half its extent, as a share of the side.
        turn: cosine and sine of its angle.
        side: height and width in pixels.
    """
    y, x = _grid(side)
    right, below = (x - centre[0]) / radius, (y - centre[1]) / radius
    u, v = right * turn[0] + below * turn[1], below * turn[0] - right * turn[1]
    return np.clip((1.0 - _outline(shape, u, v)) * (radius * side) + 0.5, 0.0, 1.0)


def _place(draws: Draws, radius: float, placed: Sequence[Thing]) -> tuple[float, float]:
    """A centre away from the other objects, if thirty tries find one."""
    x = y = 0.5
    for _ in range(30):
        x, y = (draws.uniform(radius + 0.03, 0.97 - radius) for _ in range(2))
        if all(math.hypot(x - t.x, y - t.y) > 0.98 * (radius + t.radius) + 0.04 for t in placed):
            break
    return x, y


def random_thing(draws: Draws, shapes: Sequence[str], radius: float, placed: Sequence[Thing]) -> Thing:
    """An object of random shape, colour and angle, away from others where that can be.

    Args:
        draws: random draws.
        shapes: what it may be.
        radius: half its extent, as a share of the side.
        placed: objects that are there already.
    """
    colour = draws.pick(tuple(COLOURS))
    light = draws.uniform(0.75, 1.05)
    red, green, blue = (light * c + draws.uniform(-0.1, 0.1) for c in COLOURS[colour])
    angle = draws.uniform(-0.2, 0.2)
    x, y = _place(draws, radius, placed)
    return Thing(
        shape=draws.pick(shapes),
        colour=colour,
        tint=(red, green, blue),
        x=x,
        y=y,
        radius=radius,
        turn=(round(math.cos(angle), 3), round(math.sin(angle), 3)),
    )


def _ground(draws: Draws, pattern: str, side: int) -> np.ndarray:
    """The ground, (H, W, 3): greyish, uneven, with a faint pattern.

    Args:
        draws: random draws.
        pattern: one of `GROUNDS`.
        side: height and width in pixels.
    """
    y, x = _grid(side)
    level = draws.pick((0.3, 0.5, 0.72))
    tint = [level + draws.uniform(-0.06, 0.06) for _ in range(3)]
    slope = draws.uniform(-0.12, 0.12) * (x - 0.5) + draws.uniform(-0.12, 0.12) * (y - 0.5)
    strength = draws.uniform(0.05, 0.09)
    wide = draws.uniform(0.09, 0.15)
    if pattern == "striped":
        along = x + y if draws.chance(0.5) else x + 0.0 * y
        slope = slope + strength * np.where(along / wide % 1.0 < 0.5, 1.0, -1.0)
    elif pattern == "dotted":
        dx, dy = x / wide % 1.0 - 0.5, y / wide % 1.0 - 0.5
        slope = slope + strength * np.where(dx * dx + dy * dy < 0.08, 2.0, 0.0)
    return slope[:, :, None] + np.array(tint)


def draw(draws: Draws, things: Sequence[Thing], pattern: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects on a ground, lit from the upper right, with noise over all.

    Args:
        draws: random draws.
        things: the objects; a later one lies in front of an earlier one.
        pattern: one of `GROUNDS`.
        side: height and width in pixels.

    Returns:
        Picture (H, W, 3) uint8, and how much of each pixel each object covers as seen, less what lies in
        front, (n, H, W) in [0, 1].
    """
    pixels = _ground(draws, pattern, side)
    y, x = _grid(side)
    seen = np.zeros((len(things), side, side))
    for place, thing in enumerate(things):
        share = cover(thing.shape, (thing.x, thing.y), thing.radius, thing.turn, side)
        seen[:place] *= 1.0 - share
        seen[place] = share
        shade = 1.0 + 0.25 * ((x - thing.x) - (y - thing.y))
        pixels = pixels + share[:, :, None] * (shade[:, :, None] * np.array(thing.tint) - pixels)
    pixels = (
        pixels + draws.uniform(0.03, 0.1) * draws.array(side, side, 1) + 0.04 * draws.array(side, side, 3)
    )
    return np.clip(np.floor(pixels * 255.0 + 0.5), 0, 255).astype(np.uint8), seen


def boxes_of(seen: np.ndarray) -> np.ndarray:
    """Boxes of what is seen, (n, 4) float32 pixels: left, top, right, bottom; zeros for what is hidden.

    Args:
        seen: how much of each pixel each object covers, (n, H, W).
    """
    boxes = np.zeros((len(seen), 4), np.float32)
    for box, share in zip(boxes, seen, strict=True):
        rows, columns = np.nonzero(share >= 0.5)
        if len(rows):
            box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes
