"""A figure of what ``compare`` found: accuracy against multiply-adds, for each way to choose channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunelab.util import StrPath, atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "before": "channels chosen",
    "recalibrated": "batch norms measured again",
    "finetuned": "fine-tuned, equally long",
}
"""Figures of a row, and how their panels are titled."""


def ways_figure(means: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each figure of `PANELS`, a line for each way.

    Args:
        means: rows with ``method``, ``MACs`` (share of the full network's) and the figures, all from 0 to 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(10, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for method in dict.fromkeys(row["method"] for row in means):
            points = sorted((row["MACs"], row[key]) for row in means if row["method"] == method)
            axis.plot(*zip(*points, strict=True), marker="o", label=method)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("multiply-adds left")
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("quality")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def write_ways(path: StrPath, means: Sequence[Mapping[str, Any]]) -> None:
    """Write `ways_figure` as a PNG file."""
    with atomic_write(path) as file:
        ways_figure(means).savefig(file, format="png")
