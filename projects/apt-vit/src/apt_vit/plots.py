"""A figure of what ``compare`` found: accuracy against multiply-adds, for each way to prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunelab.util import StrPath, atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COST, ACCURACY = "of dense", "accuracy"
"""Figures of a point: its multiply-adds as a share of the unpruned network's, and what that gives."""


def ways_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """A line for each way: its networks as they were trained (large), and asked at other keep rates.

    Args:
        points: means over seeds, with ``row`` (the way), `COST`, `ACCURACY`, and ``keep_rate``: None where
            the network is asked as it was trained.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.6, 4.2), dpi=120, layout="constrained")
    axis = figure.subplots()
    for number, way in enumerate(dict.fromkeys(point["row"] for point in points)):
        own = [point for point in points if point["row"] == way]
        line = sorted((point[COST], point[ACCURACY]) for point in own)
        trained = [(point[COST], point[ACCURACY]) for point in own if point["keep_rate"] is None]
        colour = f"C{number}"
        axis.plot(*zip(*line, strict=True), color=colour, marker=".", linewidth=1, label=way)
        axis.plot(*zip(*trained, strict=True), color=colour, marker="o", markersize=9, linestyle="")
    axis.set_xlabel("multiply-adds, agents included, of the unpruned network's")
    axis.set_ylabel("accuracy")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=9, title="large: as trained", title_fontsize=8)
    return figure


def write_ways(path: StrPath, points: Sequence[Mapping[str, Any]]) -> None:
    """Write `ways_figure` as a PNG file."""
    with atomic_write(path) as file:
        ways_figure(points).savefig(file, format="png")
