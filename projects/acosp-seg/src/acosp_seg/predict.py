"""Sliding windows: what a network says of a picture of any size, at several scales and mirrored.

A picture is scaled so that its longer side is ``scale * base_size``, padded with the mean where it is smaller
than a window, and cut into windows that overlap by a third. Each window goes through the network together
with its mirror image (and with other windows, as far as that is faster); probabilities are summed where
windows overlap, resized to the picture's own size, and averaged over the scales. On a GPU everything stays
there until the label map is done. Classes are the last axis in memory: sums, resizing and the choice of a
class are several times faster so on a CPU.

# B windows, C classes, H, W picture, h, w scaled (and padded) picture, th, tw window
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

PIXELS_ON_GPU, PIXELS_A_LAYER = 4_000_000, 8_000
"""Pixels that go through the network together at most (but one window's): on a GPU, and on a CPU for each
layer. More outgrow a CPU's caches; but the more layers there are, the more counts what they need to start."""
VECTOR = 16
"""Numbers that a CPU handles at once: with fewer classes the softmax of the last axis is ten times slower."""


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
    batch: int = 0
    """Windows that go through the network together, each with its mirror image; 0: as many as is fast."""
    double: bool = False
    """Sum in double precision and resize with OpenCV on the CPU, as the original does; in single precision,
    on the device, probabilities differ by about 1e-7."""

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise UserError(f"test_h and test_w are {self.crop[0]} and {self.crop[1]}; expected 1 or more")
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
        self.together = self._together()
        self._mean = torch.tensor(windows.mean, device=self.device)
        self._std = torch.tensor(windows.std, device=self.device)

    def _together(self) -> int:
        """How many windows, mirror images counted, go through the network at a time."""
        if self.windows.batch:
            return self.windows.batch * (2 if self.windows.flip else 1)
        most = PIXELS_ON_GPU
        if self.device.type == "cpu":
            most = PIXELS_A_LAYER * sum(weight.dim() == 4 for weight in self.model.parameters())
        return max(most // math.prod(self.windows.crop), 1)

    @torch.inference_mode()
    def labels(self, image: np.ndarray) -> np.ndarray:
        """The most probable class of every pixel, (H, W) uint8.

        Args:
            image: RGB (H, W, 3), uint8 or float32 in 0..255.
        """
        total = self._summed(image)
        if total.device.type == "cpu":
            return total.numpy().argmax(axis=2).astype(np.uint8)
        return total.argmax(dim=2).to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> Tensor:
        """Probabilities of the classes, (H, W, C), on the network's device.

        Args:
            image: RGB (H, W, 3), uint8 or float32 in 0..255.
        """
        return self._summed(image) / len(self.windows.scales)

    def _summed(self, image: np.ndarray) -> Tensor:
        """Sum over the scales, (H, W, C)."""
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
        """Probabilities of a picture that has been scaled already, resized to ``size``: (H, W, C).

        Args:
            scaled: RGB (h, w, 3), float32 in 0..255.
            size: H, W.
        """
        x = (torch.from_numpy(scaled).to(self.device) - self._mean) / self._std
        high, wide = x.shape[:2]
        crop_h, crop_w = self.windows.crop
        more_h, more_w = max(crop_h - high, 0), max(crop_w - wide, 0)
        top, left = more_h // 2, more_w // 2
        padded = F.pad(x, (0, 0, left, more_w - left, top, more_h - top))  # 0 is what the mean has become
        whole = self._joined(padded)
        return self._resized(whole[top : top + high, left : left + wide], size)

    def _joined(self, x: Tensor) -> Tensor:
        """Probabilities (h, w, C) of a normalised picture (h, w, 3), each the mean of the windows over it."""
        settings = self.windows
        high, wide = x.shape[:2]
        tops, lefts = (
            starts(side, crop, settings.stride_rate)
            for side, crop in zip((high, wide), settings.crop, strict=True)
        )
        ways = (False, True) if settings.flip else (False,)
        jobs = [(self._place(top, left), mirrored) for top in tops for left in lefts for mirrored in ways]
        dtype = torch.float64 if settings.double else torch.float32
        total = torch.zeros(high, wide, settings.classes, dtype=dtype, device=self.device)
        size = math.ceil(len(jobs) / math.ceil(len(jobs) / self.together))  # all batches about equally large
        for start in range(0, len(jobs), size):
            some = jobs[start : start + size]
            logits = self._logits([x[place].flip(1) if mirrored else x[place] for place, mirrored in some])
            for (place, mirrored), one in zip(some, logits, strict=True):
                found = _softmax(one)
                total[place] += found.flip(1) if mirrored else found
        rows = _coverage(tops, high, settings.crop[0])
        columns = _coverage(lefts, wide, settings.crop[1]) * (2 if settings.flip else 1)
        counts = (rows[:, None] * columns).to(total)  # (h, w), how often a pixel was summed
        return total.div_(counts[:, :, None])

    def _place(self, top: int, left: int) -> Place:
        return slice(top, top + self.windows.crop[0]), slice(left, left + self.windows.crop[1])

    def _logits(self, windows: Sequence[Tensor]) -> Tensor:
        """Logits (B, th, tw, C) of normalised windows (th, tw, 3)."""
        batch = torch.stack(list(windows)).permute(0, 3, 1, 2)  # (B, 3, th, tw)
        if self.device.type != "cpu":
            batch = batch.contiguous()  # on a CPU convolutions are faster with channels last in memory
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits = self.model(batch)
        logits = logits.float()
        if logits.shape[2:] != batch.shape[2:]:
            logits = F.interpolate(logits, batch.shape[2:], mode="bilinear", align_corners=True)
        return logits.permute(0, 2, 3, 1).contiguous()

    def _resized(self, found: Tensor, size: Size) -> Tensor:
        """Resize (h, w, C) to (H, W, C); a picture of that size already is handed on."""
        if found.shape[:2] == size:
            return found
        if self.device.type != "cpu" and not self.windows.double:
            channels = found.permute(2, 0, 1).unsqueeze(0)
            resized = F.interpolate(channels, size, mode="bilinear", align_corners=False)[0]
            return resized.permute(1, 2, 0)
        array = np.ascontiguousarray(found.cpu().numpy())
        resized = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(resized).to(self.device)


def _softmax(logits: Tensor) -> Tensor:
    """Probabilities (th, tw, C) of logits, which are overwritten on a CPU where classes are few."""
    if logits.device.type != "cpu" or logits.shape[2] >= VECTOR:
        return F.softmax(logits, dim=2)
    powers = logits.sub_(logits.amax(dim=2, keepdim=True)).exp_()
    return powers.div_((powers @ powers.new_ones(logits.shape[2]))[:, :, None])


def _coverage(begins: Sequence[int], length: int, crop: int) -> Tensor:
    """How many windows lie over each row (or column), (length,)."""
    count = torch.zeros(length)
    for begin in begins:
        count[begin : begin + crop] += 1
    return count
