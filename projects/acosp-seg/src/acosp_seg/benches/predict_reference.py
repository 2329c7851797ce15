"""The plain way to test: one window at a time, sums in NumPy, resizing by OpenCV, and a PNG before the score.

What `acosp_seg.predict` is measured against and compared with. Nothing else uses it.

# C classes, H, W picture, h, w scaled picture
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """How pictures are cut and scaled."""

    classes: int
    """C."""
    crop: tuple[int, int]
    """Height and width of a window."""
    base_size: int
    """Longer side at scale 1."""
    scales: Sequence[float]
    """Scales whose results are averaged."""
    mean: Sequence[float]
    """Of the three channels, for 0..255."""
    std: Sequence[float]
    """Of the three channels."""


@torch.no_grad()
def window_plain(model: nn.Module, window: np.ndarray, settings: PlainSettings) -> np.ndarray:
    """Probabilities (crop_h, crop_w, C) of one window and of its mirror image, averaged."""
    device = next(model.parameters()).device
    x = torch.from_numpy(window.transpose(2, 0, 1).copy()).float()
    for channel, mean, std in zip(x, settings.mean, settings.std, strict=True):
        channel.sub_(mean).div_(std)
    batch = x.unsqueeze(0).to(device)
    logits = model(torch.cat([batch, batch.flip(3)]))
    if logits.shape[2:] != x.shape[1:]:
        logits = F.interpolate(logits, x.shape[1:], mode="bilinear", align_corners=True)
    both = F.softmax(logits, dim=1)
    mean = (both[0] + both[1].flip(2)) / 2
    return mean.cpu().numpy().transpose(1, 2, 0)


def scale_plain(
    model: nn.Module, image: np.ndarray, size: tuple[int, int], settings: PlainSettings
) -> np.ndarray:
    """Probabilities of a scaled picture (h, w, 3), resized to ``size``: (H, W, C) in double precision."""
    crop_h, crop_w = settings.crop
    more_h, more_w = (max(crop - side, 0) for crop, side in zip(settings.crop, image.shape[:2], strict=True))
    top, left = more_h // 2, more_w // 2
    padded = cv2.copyMakeBorder(
        image, top, more_h - top, left, more_w - left, cv2.BORDER_CONSTANT, value=list(settings.mean)
    )
    high, wide = padded.shape[:2]
    step_h, step_w = math.ceil(crop_h * 2 / 3), math.ceil(crop_w * 2 / 3)
    total = np.zeros((high, wide, settings.classes))
    count = np.zeros((high, wide, 1))
    for row in range(math.ceil((high - crop_h) / step_h) + 1):
        for column in range(math.ceil((wide - crop_w) / step_w) + 1):
            bottom, right = min(row * step_h + crop_h, high), min(column * step_w + crop_w, wide)
            place = slice(bottom - crop_h, bottom), slice(right - crop_w, right)
            total[place] += window_plain(model, padded[place], settings)
            count[place] += 1
    total /= count
    inner = total[top : top + image.shape[0], left : left + image.shape[1]]
    return cv2.resize(inner, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def predict_plain(model: nn.Module, image: np.ndarray, settings: PlainSettings) -> np.ndarray:
    """Probabilities (H, W, C) of an RGB picture (H, W, 3), averaged over the scales."""
    picture = image.astype(np.float32)
    high, wide = picture.shape[:2]
    total = np.zeros((high, wide, settings.classes))
    for scale in settings.scales:
        long = round(scale * settings.base_size)
        new_h, new_w = (long, round(long / high * wide)) if high > wide else (round(long / wide * high), long)
        scaled = cv2.resize(picture, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        total += scale_plain(model, scaled, (high, wide), settings)
    return total / len(settings.scales)


def evaluate_plain(
    model: nn.Module,
    samples: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: PlainSettings,
    folder: Path,
    ignore: int = 255,
) -> np.ndarray:
    """Predict pictures into PNG files, then read the files again to sum areas.

    Args:
        model: the network in evaluation mode.
        samples: pictures (H, W, 3) and label maps (H, W).
        settings: see above.
        folder: an existing folder for the files.
        ignore: label of the pixels that do not count.

    Returns:
        Pixels predicted and true, predicted or true, true: (3, C).
    """
    for number, (image, _) in enumerate(samples):
        labels = np.argmax(predict_plain(model, image, settings), axis=2).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), labels)
    sums = np.zeros((3, settings.classes))
    for number, (_, target) in enumerate(samples):
        guess = cv2.imread(str(folder / f"{number}.png"), cv2.IMREAD_GRAYSCALE)
        assert guess is not None
        guess = np.where(target == ignore, ignore, guess)
        parts = [guess[guess == target], guess, target]
        inter, out, true = (np.histogram(part, bins=np.arange(settings.classes + 1))[0] for part in parts)
        sums += np.stack([inter, out + true - inter, true])
    return sums
