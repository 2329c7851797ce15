"""Rows of testing by sliding windows: beside one window at a time, summed in NumPy, scored from PNG files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from acosp_seg.benches.compact import RATIO, masked
from acosp_seg.benches.predict_reference import PlainSettings, evaluate_plain, predict_plain
from acosp_seg.config import ModelConfig
from acosp_seg.draw import write_gray
from acosp_seg.model import build
from acosp_seg.predict import IMAGENET_MEAN, IMAGENET_STD, Predictor, Windows
from prunelab.bench import Result, Row, compare
from prunelab.metrics import SegmentationMeter
from prunelab.surgery import compact

PICTURE, BASE_SIZE, CROP = (300, 560), 480, (161, 161)
"""A picture that is scaled to 257x480 and cut into 8 windows; the result is scaled back."""
GOALS = {"dense": 1.2, "compact": 1.5}
CLOSE = 1e-5
"""Most difference of a probability ..."""
MOVED = 1e-5
"""... but for this share of them: where two values are nearly equal, max-unpooling may take the other."""

Answer = tuple[np.ndarray, np.ndarray]
"""Probabilities (H, W, C) and label map (H, W)."""


def _network(arch: str, classes: int, kind: str, width: int) -> nn.Module:
    """A network with random weights and statistics, in evaluation mode."""
    if kind == "compact":
        model = masked(arch, classes, RATIO, width=width)
        return compact(model, torch.zeros(1, 3, *CROP))
    layers = 50 if arch == "psp" else None
    torch.manual_seed(0)
    return build(ModelConfig(arch=arch, layers=layers, classes=classes, width=width)).eval()


def _settings(classes: int, crop: tuple[int, int]) -> tuple[Windows, PlainSettings]:
    windows = Windows(classes=classes, crop=crop, base_size=BASE_SIZE)
    plain = PlainSettings(
        classes=classes,
        crop=crop,
        base_size=BASE_SIZE,
        scales=(1.0,),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return windows, plain


def _pictures(count: int, size: tuple[int, int], classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, classes, size, dtype=np.uint8))
        for _ in range(count)
    ]


def same(ours: Answer, plain: Answer) -> bool:
    """Whether two answers have equal probabilities, and so equal labels but for ties."""
    far = np.abs(ours[0] - plain[0]) > CLOSE
    return bool(far.mean() <= MOVED and (ours[1] == plain[1]).mean() >= 0.999)


def windows_row(
    arch: str,
    classes: int,
    kind: str,
    *,
    width: int = 64,
    size: tuple[int, int] = PICTURE,
    crop: tuple[int, int] = CROP,
) -> Row:
    """Label map of one picture.

    Args:
        arch: ``psp`` or ``segnet``.
        classes: C.
        kind: ``dense``, or ``compact`` (of random masks at the highest ratio).
        width: channels of the first stage.
        size: of the picture.
        crop: of a window.
    """
    model = _network(arch, classes, kind, width)
    windows, plain = _settings(classes, crop)
    (image, _), *_ = _pictures(1, size, classes)
    # What `acosp_seg.test` predicts with: batch norms are folded in.
    predictor = Predictor(compact(model, torch.zeros(1, 3, *crop)) if kind == "dense" else model, windows)

    def ours() -> Answer:
        found = predictor.probabilities(image).numpy()
        return found, found.argmax(axis=2).astype(np.uint8)

    def reference() -> Answer:
        found = predict_plain(model, image, plain)
        return found, found.argmax(axis=2).astype(np.uint8)

    note = f"{size[0]}x{size[1]} in windows of {crop[0]}x{crop[1]} with mirror images, float32"
    return compare(
        f"windows, {arch} {kind}, {classes} classes",
        ours,
        reference,
        same,
        work=1,
        unit="pictures",
        goal=GOALS[kind],
        note=f"{note}, {torch.get_num_threads()} threads; the original takes one window at a time",
    )


def program_row(
    *,
    arch: str = "segnet",
    classes: int = 11,
    width: int = 64,
    count: int = 3,
    size: tuple[int, int] = (360, 480),
) -> Row:
    """From pictures to areas with a compact network: label maps are written, and scored from memory."""
    model = _network(arch, classes, "compact", width)
    windows, plain = _settings(classes, size)
    samples = _pictures(count, size, classes)
    predictor = Predictor(model, windows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ours() -> np.ndarray:
            meter = SegmentationMeter(classes)
            for number, (image, target) in enumerate(samples):
                labels = predictor.labels(image)
                write_gray(folder / f"{number}.png", labels)
                meter.update(labels, target)
            found = meter.areas
            return torch.stack([found.intersection, found.union, found.target]).numpy()

        def reference() -> np.ndarray:
            return evaluate_plain(model, samples, plain, folder)

        def near(one: np.ndarray, other: np.ndarray) -> bool:
            return bool(np.abs(one - other).sum() <= 1e-3 * count * size[0] * size[1])

        return compare(
            f"test program, {arch} compact",
            ours,
            reference,
            near,
            work=count,
            unit="pictures",
            note=f"{size[0]}x{size[1]}, one window a picture, {torch.get_num_threads()} threads",
        )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "windows-psp-dense": lambda: windows_row("psp", 19, "dense"),
    "windows-psp-compact": lambda: windows_row("psp", 19, "compact"),
    "windows-psp-compact-150": lambda: windows_row("psp", 150, "compact"),
    "windows-segnet-dense": lambda: windows_row("segnet", 11, "dense"),
    "windows-segnet-compact": lambda: windows_row("segnet", 11, "compact"),
    "test-program": program_row,
}
