"""Sliding windows: what a network says of a picture of any size, at several scales and mirrored.

A picture is scaled so that its longer side is ``scale * base_size``, padded with the mean where it is smaller
than a window, and cut into windows that overlap by a third. Windows go through the network many at a time,
each with its mirror image; probabilities are summed where windows overlap, resized to the picture's own size,
and averaged over the scales. Everything stays on the network's device until the label map is done.

# B windows, C classes, H, W picture, h, w scaled (and padded) picture, th, tw window
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.errors import UserError

Size: TypeAlias = tuple[int, int]
"""Height and width."""
Place: TypeAlias = tuple[slice, slice]
"""Rows and columns of a window."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Of red, green and blue, for values 0..255."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of the same."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How pictures are scaled and cut, and how the pieces are put together."""

    classes: int
    """C."""
    crop: Size
    """Size of a window."""
    base_size: int = 0
    """Longer side of a picture at scale 1; 0: as it is."""
    scales: tuple[float, ...] = (1.0,)
    """Scales whose probabilities are averaged."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from the channels; also what a small picture is padded with."""
    std: tuple[float, ...] = IMAGENET_STD
    """What the channels are divided by."""
    stride_rate: float = 2 / 3
    """Distance of neighbouring windows in windows, rounded up to pixels."""
    flip: bool = True
    """Whether each window's mirror image has a say as well."""
    batch: int = 4
    """Windows that go through the network together, each with its mirror image."""
    double: bool = False
    """Sum in double precision and resize with OpenCV, as the original does, rather than in single precision
    on the device; probabilities differ by about 1e-7."""

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or self.batch < 1:
            raise UserError(
                f"test_h, test_w and window_batch are {self.crop[0]}, {self.crop[1]} and {self.batch}; "
                "expected 1 or more"
            )
        if not 0 < self.stride_rate <= 1:
            raise UserError(f"stride_rate is {self.stride_rate}; expected above 0 and at most 1")
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales are {list(self.scales)}; expected at least one, each above 0")


def scaled_size(size: Size, scale: float, base_size: int) -> Size:
    """Size of a picture at a scale: the longer side ``scale * base_size``, halves rounded to the even number.

    Args:
        size: of the picture.
        scale: factor.
        base_size: longer side at scale 1; 0: the picture's own.
    """
    high, wide = size
    long = round(scale * (base_size or max(size)))
    if high > wide:
        return long, max(round(long / high * wide), 1)
    return max(round(long / wide * high), 1), long


def starts(length: int, crop: int, stride_rate: float) -> list[int]:
    """First rows (or columns) of the windows along a side; the last window ends where the side does.

    Args:
        length: of the side, at least ``crop``.
        crop: length of a window.
        stride_rate: see `Windows`.
    """
    stride = math.ceil(crop * stride_rate)
    count = math.ceil((length - crop) / stride) + 1
    return [min(i * stride, length - crop) for i in range(count)]


class Predictor:
    """Predicts pictures with a network; neither is changed.

    Args:
        model: takes (B, 3, th, tw), gives logits (B, C, any size), and is in evaluation mode.
        windows: how pictures are cut and put together.
        amp: whether the network computes in bfloat16 where that is safe; the rest stays in single precision.
    """

    def __init__(self, model: nn.Module, windows: Windows, *, amp: bool = False) -> None:
        self.model, self.windows, self.amp = model, windows, amp
        self.device = next(model.parameters()).device
        self._sum_dtype = torch.float64 if windows.double else torch.float32
        self._mean = torch.tensor(windows.mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(windows.std, device=self.device).view(3, 1, 1)

    @torch.inference_mode()
    def labels(self, image: np.ndarray) -> np.ndarray:
        """The most probable class of every pixel, (H, W) uint8.

        Args:
            image: RGB (H, W, 3), uint8 or float32 in 0..255.
        """
        return self._summed(image).argmax(dim=0).to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> Tensor:
        """Probabilities of the classes, (C, H, W), on the network's device.

        Args:
            image: RGB (H, W, 3), uint8 or float32 in 0..255.
        """
        return self._summed(image) / len(self.windows.scales)

    def _summed(self, image: np.ndarray) -> Tensor:
        """Sum over the scales, (C, H, W)."""
        picture = image.astype(np.float32)
        size = picture.shape[0], picture.shape[1]
        total: Tensor | None = None
        for scale in self.windows.scales:
            high, wide = scaled_size(size, scale, self.windows.base_size)
            scaled = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_LINEAR)
            found = self.at_scale(scaled, size)
            total = found if total is None else total.add_(found)
        assert total is not None
        return total

    @torch.inference_mode()
    def at_scale(self, scaled: np.ndarray, size: Size) -> Tensor:
        """Probabilities of a picture that has been scaled already, resized to ``size``: (C, H, W).

        Args:
            scaled: RGB (h, w, 3), float32 in 0..255.
            size: H, W.
        """
        x = torch.from_numpy(scaled).to(self.device).permute(2, 0, 1)
        x = (x - self._mean) / self._std  # (3, h, w)
        crop_h, crop_w = self.windows.crop
        more_h, more_w = max(crop_h - x.shape[1], 0), max(crop_w - x.shape[2], 0)
        top, left = more_h // 2, more_w // 2
        # The mean has become 0.
        padded = F.pad(x, (left, more_w - left, top, more_h - top))
        whole = self._windows_joined(padded)
        inner = whole[:, top : top + x.shape[1], left : left + x.shape[2]]
        return self._resized(inner, size)

    def _windows_joined(self, x: Tensor) -> Tensor:
        """Probabilities (C, h, w) of a normalised picture (3, h, w), each the mean of the windows over it."""
        settings = self.windows
        high, wide = x.shape[1:]
        tops, lefts = (
            starts(side, crop, settings.stride_rate)
            for side, crop in zip((high, wide), settings.crop, strict=True)
        )
        total = torch.zeros(settings.classes, high, wide, dtype=self._sum_dtype, device=self.device)
        places = [self._place(top, left) for top in tops for left in lefts]
        for some in _chunks(places, settings.batch):
            for place, found in zip(some, self._of_windows([x[:, *place] for place in some]), strict=True):
                total[:, *place] += found
        rows = self._coverage(tops, high, settings.crop[0])
        columns = self._coverage(lefts, wide, settings.crop[1])
        return total.div_(rows[:, None] * columns)  # (h, w), how many windows lie over a pixel

    def _place(self, top: int, left: int) -> Place:
        return slice(top, top + self.windows.crop[0]), slice(left, left + self.windows.crop[1])

    def _coverage(self, begins: Sequence[int], length: int, crop: int) -> Tensor:
        """How many windows lie over each row (or column), (length,)."""
        count = torch.zeros(length, dtype=self._sum_dtype)
        for begin in begins:
            count[begin : begin + crop] += 1
        return count.to(self.device)

    def _of_windows(self, windows: Sequence[Tensor]) -> Tensor:
        """Probabilities (B, C, th, tw) of normalised windows (3, th, tw), with those of mirror images."""
        batch = torch.stack(list(windows))
        if self.windows.flip:
            batch = torch.cat([batch, batch.flip(3)])  # (2 * B, 3, th, tw)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits = self.model(batch)
        logits = logits.float()
        if logits.shape[2:] != batch.shape[2:]:
            logits = F.interpolate(logits, batch.shape[2:], mode="bilinear", align_corners=True)
        found = F.softmax(logits, dim=1)
        if not self.windows.flip:
            return found
        plain, mirrored = found.chunk(2)
        return (plain + mirrored.flip(3)).div_(2)

    def _resized(self, found: Tensor, size: Size) -> Tensor:
        """Resize (C, h, w) to (C, H, W); a picture of that size already is handed on."""
        if found.shape[1:] == size:
            return found
        if not self.windows.double:
            return F.interpolate(found.unsqueeze(0), size, mode="bilinear", align_corners=False)[0]
        array = np.ascontiguousarray(found.permute(1, 2, 0).cpu().numpy())  # (h, w, C)
        resized = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        resized = resized.reshape(*size, -1)  # OpenCV drops the last axis of a single class
        return torch.from_numpy(resized).permute(2, 0, 1).to(self.device)


def _chunks(places: Sequence[Place], size: int) -> Iterator[Sequence[Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
