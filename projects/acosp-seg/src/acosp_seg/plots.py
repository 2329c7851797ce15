"""Figures: the masks of a network, how they hardened over a training, networks side by side on pictures.

# L masked layers, C channels of a layer, H, W picture
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from acosp.inject import masked_convs
from acosp.soft_topk import ChannelMaskLayer, SoftTopK
from acosp_seg.draw import INK, PAPER, label_font, paint
from acosp_seg.segmenter import Segmenter
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 100
"""Columns of a mask's strip; a column is a hundredth of the layer's channels."""
PREFIX = "pruning/"
"""Before the names of the masks' values among a run's figures."""


@dataclass(frozen=True, kw_only=True)
class LayerMask:
    """The mask of one layer."""

    name: str
    """Dotted name of the convolution."""
    values: np.ndarray
    """(C,), the largest first."""
    kept: int
    """Channels that stay, or are to stay."""
    temperature: float | None
    """None of a mask that is hard."""


def layer_masks(model: nn.Module) -> list[LayerMask]:
    """The masks of a network, in the order of its layers; those of soft layers as they were used last."""
    found = []
    for name, module in masked_convs(model):
        layer = module[1]
        assert isinstance(layer, ChannelMaskLayer)
        values = np.sort(module.mask.detach().float().cpu().numpy())[::-1].copy()
        soft = layer if isinstance(layer, SoftTopK) else None
        found.append(
            LayerMask(
                name=name,
                values=values,
                kept=soft.k if soft else int(values.sum().round()),
                temperature=soft.current_temperature if soft else None,
            )
        )
    return found


def mask_figure(model: nn.Module, *, title: str = "") -> Figure:
    """Every layer's mask as a strip, its largest values left, beside its temperature or number of channels.

    Raises:
        UserError: the network has no masks.
    """
    from matplotlib.figure import Figure

    layers = layer_masks(model)
    if not layers:
        raise UserError("a plot of masks needs a network with masks: this one has none")
    places = ((np.arange(BINS) + 0.5) / BINS)[None]
    strips = np.stack([layer.values[(places[0] * len(layer.values)).astype(int)] for layer in layers])
    figure = Figure(figsize=(10, 1.6 + 0.2 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    shown = left.imshow(
        strips, aspect="auto", cmap="viridis", vmin=0, vmax=1, extent=(0, 100, len(layers), 0)
    )
    rows = np.arange(len(layers)) + 0.5
    for row, layer in enumerate(layers):
        share = 100 * layer.kept / len(layer.values)
        left.plot([share, share], [row, row + 1], color="red", linewidth=1.5)
    left.set_yticks(rows, [layer.name for layer in layers], fontsize=7)
    left.set_xlabel("channels, sorted by mask value, % (red: how many stay)")
    figure.colorbar(shown, ax=left, label="mask", location="left", shrink=0.6)
    temperatures = [layer.temperature for layer in layers]
    if None in temperatures:
        right.barh(rows, [len(layer.values) for layer in layers], color="#d8d8d8", label="all")
        right.barh(rows, [layer.kept for layer in layers], color="#0b6e69", label="kept")
        right.set_xlabel("channels")
        right.legend(fontsize=8)
    else:
        right.plot(temperatures, rows, "o", color="#0b6e69", markersize=4)
        right.set_xscale("log")
        right.set_xlabel("temperature")
    right.tick_params(labelleft=False)
    figure.suptitle(title)
    return figure


def history_figure(metrics: StrPath) -> Figure:
    """How masks hardened over a run: temperature, and the share of channels that are decided, epoch by epoch.

    Args:
        metrics: ``metrics.jsonl`` of a run that pruned.

    Raises:
        UserError: the file cannot be read, or its run had no masks.
    """
    from matplotlib.figure import Figure

    history = _history(Path(metrics))
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in history.items():
        layer, _, value = name.removeprefix(PREFIX).rpartition("/")
        epochs, values = zip(*points, strict=True)
        if value == "temperature" and layer:
            left.plot(epochs, values, color="#0b6e69", alpha=0.4, linewidth=1)
        elif value in ("chosen", "pruned") and layer:
            color = "#0b6e69" if value == "chosen" else "#b3412e"
            right.plot(epochs, 100 * np.array(values), color=color, alpha=0.25, linewidth=1)
        elif value in ("mean_chosen", "mean_pruned"):
            color = "#0b6e69" if value == "mean_chosen" else "#b3412e"
            label = "chosen (mask near 1)" if value == "mean_chosen" else "pruned (near 0)"
            right.plot(epochs, 100 * np.array(values), color=color, linewidth=2.5, label=label)
    left.set_yscale("log")
    left.set_ylabel("temperature")
    right.set_ylabel("channels, %")
    right.set_ylim(-2, 102)
    right.legend()
    right.set_title("thin: layer by layer, thick: mean", fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("epoch")
    return figure


def _history(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Values of the masks by name, each with its epoch."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as figures of a run: {error}") from error
    history: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name.startswith(PREFIX) and isinstance(value, int | float):
                history[name].append((record.get("epoch", record["step"]), value))
    if not history:
        raise UserError(f"{file}: no figures of masks in it, expected a run that pruned")
    return history


def save(figure: Figure, path: StrPath, *, dpi: int = 110) -> None:
    """Write a figure as a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


# ---------------------------------------------------------------------------------------- networks compared


def compare_networks(
    segmenters: Mapping[str, Segmenter],
    pictures: Sequence[tuple[np.ndarray, np.ndarray | None]],
    *,
    height: int = 180,
) -> Image.Image:
    """Networks side by side: a column a picture, rows with pictures, truth, then each network's answers.

    Args:
        segmenters: by the name of their row, such as "dense", "ACoSP-2", ..., "ACoSP-16"; all of the same
            classes.
        pictures: RGB (H, W, 3) uint8, and label maps (H, W) uint8 where they are known.
        height: of a row, in pixels.

    Raises:
        UserError: there is no network or no picture.
    """
    if not segmenters or not pictures:
        raise UserError("a comparison needs at least one network and one picture")
    first = next(iter(segmenters.values()))
    rows: dict[str, list[np.ndarray]] = {"picture": [image for image, _ in pictures]}
    if any(truth is not None for _, truth in pictures):
        rows["truth"] = [
            np.full_like(image, 255) if truth is None else paint(truth, first.colors)
            for image, truth in pictures
        ]
    seen: set[int] = set()
    for name, segmenter in segmenters.items():
        maps = [segmenter.segment(image) for image, _ in pictures]
        seen |= {int(label) for labels in maps for label in np.unique(labels)}
        rows[name] = [paint(labels, segmenter.colors) for labels in maps]
    for _, truth in pictures:
        if truth is not None:
            seen |= {int(label) for label in np.unique(truth) if label < len(first.names)}
    legend = [(first.names[label], tuple(first.colors[label].tolist())) for label in sorted(seen)]
    return _sheet(rows, legend, height)


def _sheet(
    rows: Mapping[str, Sequence[np.ndarray]], legend: Sequence[tuple[str, tuple[int, ...]]], height: int
) -> Image.Image:
    """Rows of pictures with their names at the left and the classes below."""
    gap, letter = max(height // 30, 3), max(height // 11, 12)
    font = label_font(letter)
    margin = max(int(font.getlength(name)) for name in rows) + 2 * letter
    widths = [round(image.shape[1] * height / image.shape[0]) for image in next(iter(rows.values()))]
    total = margin + sum(widths) + gap * len(widths)
    lines = _legend_rows(legend, font, total - 2 * gap, letter)
    bottom = len(rows) * (height + gap) + gap
    sheet = Image.new("RGB", (total, bottom + round(1.7 * letter) * len(lines) + gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows.items()):
        top = gap + row * (height + gap)
        draw.text((letter, top + height / 2), name, fill=INK, font=font, anchor="lm")
        x = margin
        for image, width in zip(images, widths, strict=True):
            # Colours of classes must not mix.
            way = cv2.INTER_AREA if name == "picture" else cv2.INTER_NEAREST
            sheet.paste(Image.fromarray(cv2.resize(image, (width, height), interpolation=way)), (x, top))
            x += width + gap
    for number, line in enumerate(lines):
        y = bottom + round(1.7 * letter) * number
        for x, name, color in line:
            draw.rectangle((x, y, x + letter, y + letter), fill=color, outline=INK)
            draw.text((x + round(1.4 * letter), y + letter / 2), name, fill=INK, font=font, anchor="lm")
    return sheet


def _legend_rows(
    legend: Sequence[tuple[str, tuple[int, ...]]], font: Any, width: int, letter: int
) -> list[list[tuple[int, str, tuple[int, ...]]]]:
    """Places of the legend's entries, row by row: left edge, name, colour."""
    lines: list[list[tuple[int, str, tuple[int, ...]]]] = [[]]
    x = letter
    for name, color in legend:
        needed = round(1.4 * letter) + int(font.getlength(name)) + letter
        if lines[-1] and x + needed > width:
            lines.append([])
            x = letter
        lines[-1].append((x, name, color))
        x += needed
    return lines
