"""Anchors: the boxes that every place of every feature layer starts from, and boxes told relative to them.

Boxes are either corners (ymin, xmin, ymax, xmax) or centres (cy, cx, h, w), always as shares of the picture's
height and width.
"""

# A anchors

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from prunelab.errors import UserError

STRIDES = (8, 16, 32, 64)
"""Pixels from one place to the next in the layers that halve: conv4_3, fc7, conv8_2 and conv9_2."""
UNPADDED = 2
"""Further layers, conv10_2 and conv11_2: 3x3 convolutions without padding, each two places smaller."""
RATIOS = ((1, 2, 0.5), *((1, 2, 3, 0.5, 0.3333),) * 3, (1, 2, 0.5), (1, 2, 0.5))
"""Width by height of the anchors of each layer, besides an extra square one."""
SCALING = (0.1, 0.1, 0.2, 0.2)
"""What offsets (cy, cx, h, w) are divided by, so that they are of one size."""
LEAST_SIZE = 33
"""Side of the smallest picture with three layers of more than one place before the last."""
FIRST_SCALE, SECOND_SCALE, LAST_SCALE = 0.1, 0.2, 0.9


@dataclass(frozen=True, kw_only=True)
class AnchorLayer:
    """The anchors of one feature layer."""

    grid: int
    """Places along each side."""
    step: float
    """Pixels from one place to the next."""
    scale: float
    """Side of a square anchor, as a share of the picture's."""
    extra_scale: float
    """Side of the extra square anchor."""
    ratios: tuple[float, ...]
    """Width by height of the others."""

    @property
    def depth(self) -> int:
        """Anchors at each place."""
        return len(self.ratios) + 1


@lru_cache(maxsize=32)
def anchor_layers(image_size: int) -> tuple[AnchorLayer, ...]:
    """The feature layers of a picture's size: six at 300, fewer where a small picture has no room for them.

    Scales are 0.1 in the first layer and rise evenly from 0.2 to 0.9 in the others; an extra square lies
    between a layer's scale and the next one's, by their geometric mean. At 300 these are the published ones.

    Args:
        image_size: side of the picture in pixels.

    Raises:
        UserError: the picture is too small.
    """
    if image_size < LEAST_SIZE:
        raise UserError(f"image_size is {image_size}, expected at least {LEAST_SIZE} for SSD")
    sizes: list[tuple[int, float]] = []
    grid = math.ceil(image_size / 4)  # after two poolings, SAME: halves are rounded up
    for stride in STRIDES:
        grid = math.ceil(grid / 2)
        sizes.append((grid, float(stride)))
    for _ in range(UNPADDED):
        grid -= 2
        if grid >= 1:
            sizes.append((grid, image_size / grid))
    count = len(sizes)
    rise = (LAST_SCALE - SECOND_SCALE) / (count - 2)
    scales = [FIRST_SCALE, *(SECOND_SCALE + rise * k for k in range(count))]
    return tuple(
        AnchorLayer(
            grid=grid,
            step=step,
            scale=round(scales[k], 4),
            extra_scale=round(math.sqrt(scales[k] * scales[k + 1]), 4),
            ratios=RATIOS[k],
        )
        for k, (grid, step) in enumerate(sizes)
    )


def make_anchors(layers: Sequence[AnchorLayer], image_size: int) -> Tensor:
    """Anchors as centres, (A, 4) float32, in the order layer, row, column, depth; not clipped.

    At each place the extra square comes first, then one anchor for each ratio.

    Args:
        layers: the feature layers.
        image_size: side of the picture in pixels, that steps are counted in.
    """
    found = []
    for layer in layers:
        middle = (torch.arange(layer.grid, dtype=torch.float64) + 0.5) * layer.step / image_size
        roots = torch.tensor([1.0, *(math.sqrt(ratio) for ratio in layer.ratios)], dtype=torch.float64)
        side = torch.tensor(
            [layer.extra_scale, *[layer.scale] * len(layer.ratios)], dtype=torch.float64
        )  # (depth,)
        shape = (layer.grid, layer.grid, layer.depth)
        parts = (middle[:, None, None], middle[None, :, None], side / roots, side * roots)
        found.append(torch.stack([part.expand(shape) for part in parts], dim=-1).reshape(-1, 4))
    return torch.cat(found).float()


@lru_cache(maxsize=16)
def anchors_of(image_size: int, device: torch.device | None = None) -> Tensor:
    """Anchors of the network for a picture's size, (A, 4) centres; made once, not to be changed."""
    return make_anchors(anchor_layers(image_size), image_size).to(device or torch.device("cpu"))


def corners(centres: Tensor) -> Tensor:
    """Centres (..., 4) to corners."""
    middle, half = centres[..., :2], centres[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets of boxes from anchors: by the anchor's size, sizes as logarithms, all divided by `SCALING`.

    Args:
        boxes: corners (..., A, 4) with positive sides.
        anchors: centres (A, 4).
    """
    size = boxes[..., 2:] - boxes[..., :2]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    offsets = torch.cat(
        [(middle - anchors[:, :2]) / anchors[:, 2:], torch.log(size / anchors[:, 2:])], dim=-1
    )
    return offsets / offsets.new_tensor(SCALING)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`: corners (..., A, 4), not clipped.

    Args:
        offsets: (..., A, 4).
        anchors: centres (A, 4).
    """
    scaled = offsets * offsets.new_tensor(SCALING)
    middle = scaled[..., :2] * anchors[:, 2:] + anchors[:, :2]
    half = torch.exp(scaled[..., 2:]) * anchors[:, 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)
