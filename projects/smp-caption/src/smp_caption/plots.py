"""Pictures of finished runs: how sparse each layer is, and scores against sparsity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunelab.doors import runs_root
from prunelab.errors import UserError, entry
from prunelab.mask import MASK_SUFFIX, SparsityReport
from prunelab.util import atomic_write
from smp_caption.cli import parse_plot
from smp_caption.collect import Result, best_of, collect, weights_of
from smp_caption.options import PlotOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 40
"""More masks than these are shown together by the module that they are in."""
LEAST_WIDTH = 1.25
"""Shares of weights that are left this factor apart have room for ticks of their own."""
TYPES = (".png", ".pdf", ".svg")
METHODS = {
    "supermask": "SMP",
    "mag_grad_uniform": "gradual",
    "mag_grad_blind": "gradual (class-blind)",
    "mag_blind": "hard (class-blind)",
    "mag_dist": "hard (class-distribution)",
    "mag_uniform": "hard (class-uniform)",
    "lottery_mag_blind": "lottery ticket (class-blind)",
    "lottery_mag_dist": "lottery ticket (class-distribution)",
    "lottery_mag_uniform": "lottery ticket (class-uniform)",
    "lottery_mask_freeze": "lottery ticket (gradual)",
    "snip": "SNIP",
    "mask_freeze": "masks kept",
}
"""Ways to prune as the published tables call them."""


def layer_sparsities(report: SparsityReport) -> dict[str, float]:
    """Sparsity of each layer, in the order of the network.

    A layer is a masked weight, or, of a network with many, all masked weights of one module together.
    """
    names = {name: name.removesuffix(MASK_SUFFIX).removesuffix(".weight") for name in report.sizes}
    if len(names) > MOST_NAMES:
        names = {name: _module(layer) for name, layer in names.items()}
    kept: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    for name, layer in names.items():
        kept[layer] += report.kept[name]
        sizes[layer] += report.sizes[name]
    return {layer: 1 - kept[layer] / size for layer, size in sizes.items()}


def _module(layer: str) -> str:
    """``model.encoder.layers.0.self_attn.linears.2`` to ``encoder.layers.0.self_attn.linears``."""
    parts = layer.removeprefix("model.").removeprefix("core.").split(".")
    return ".".join(parts[:-1] if parts[-1].isdigit() or parts[-1].startswith("w_") else parts)


def sparsity_figure(runs: Mapping[str, SparsityReport], title: str = "") -> Figure:
    """A row for each layer and a point in it for each run; a dashed line is a run's sparsity overall.

    Args:
        runs: what the masks of each run keep.
        title: line above.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    each = {name: layer_sparsities(report) for name, report in runs.items()}
    layers = list(dict.fromkeys(layer for found in each.values() for layer in found))
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(layers)), dpi=120, layout="constrained")
    axis = figure.subplots()
    places = {layer: place for place, layer in enumerate(layers)}
    for number, (name, found) in enumerate(each.items()):
        colour = f"C{number % 10}"
        axis.plot(list(found.values()), [places[layer] for layer in found], "o", color=colour, label=name)
        axis.axvline(runs[name].sparsity, color=colour, linestyle="--", linewidth=1, alpha=0.6)
    axis.set_yticks(range(len(layers)), layers, fontsize=8)
    axis.set_ylim(len(layers) - 0.5, -0.5)
    axis.set_xlabel("weights pruned")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    _finish(figure, title)
    return figure


def score_figure(results: Sequence[Result], score: str, title: str = "") -> Figure:
    """A panel for each kind of model: a line for each way to prune, a dashed line for the dense model.

    Args:
        results: the best result of each run.
        score: its score that is drawn.
        title: line above.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    colours = matplotlib.colormaps["tab20"].resampled(len(METHODS))
    kinds = sorted({result.model.removesuffix("_prune") for result in results})
    figure = Figure(figsize=(max(5.6, 4.6 * len(kinds)), 4.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        own = [result for result in results if result.model.removesuffix("_prune") == kind]
        for dense in (result for result in own if not result.method):
            axis.axhline(dense.scores[score], color="grey", linestyle="--", linewidth=1, label="dense")
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for result in own:
            if result.method and result.weights is not None:
                lines[result.method].append((1 - result.weights.sparsity, result.scores[score]))
        for number, (method, label) in enumerate(METHODS.items()):
            if method in lines:
                points = zip(*sorted(lines[method]), strict=True)
                axis.plot(*points, marker="o", color=colours(number), markersize=4, label=label)
        axis.set_xscale("log")
        lefts = sorted(left for points in lines.values() for left, _ in points)
        axis.set_xticks(_apart([round(left, 4) for left in lefts]))
        if lefts and lefts[-1] < lefts[0] * LEAST_WIDTH:  # runs of one target, which meet it to a few weights
            middle = (lefts[0] * lefts[-1]) ** 0.5
            axis.set_xlim(middle / LEAST_WIDTH, middle * LEAST_WIDTH)
        axis.invert_xaxis()
        axis.tick_params(labelsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda left, _: f"{100 * (1 - left):.4g} %"))
        axis.set_title(kind, fontsize=10)
        axis.set_xlabel("weights pruned")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(score)
    _finish(figure, title)
    return figure


def _apart(ticks: Sequence[float]) -> list[float]:
    """Those of some ticks on a logarithmic axis that leave each other room."""
    chosen: list[float] = []
    for tick in ticks:
        if not chosen or tick > chosen[-1] * LEAST_WIDTH:
            chosen.append(tick)
    return chosen


def _finish(figure: Figure, title: str) -> None:
    """Put the title and one legend for all panels above them."""
    labelled = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(),
        labelled.keys(),
        loc="outside upper left",
        ncols=min(3, max(1, len(labelled))),
        frameon=False,
        fontsize=8,
        title=title,
        title_fontsize=11,
        alignment="left",
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's name says.

    Raises:
        UserError: it is none that can be written.
    """
    if path.suffix not in TYPES:
        raise UserError(f"{path}: expected a file that ends in {', '.join(TYPES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def plot_sparsities(options: PlotOptions) -> Path:
    """Draw how sparse each layer of some runs is.

    Raises:
        UserError: no run is named, or one has no masks.
    """
    if not options.runs:
        raise UserError("plot-sparsities needs at least one run: plot-sparsities RUN...")
    reports = {}
    for name in options.runs:
        found = weights_of(Path(name))
        if found is None or found.masks is None:
            raise UserError(f"{name}: expected a pruned run, this one has no {'masks' if found else 'model'}")
        reports[Path(name).name] = found.masks
    path = Path(options.output or "sparsities.png")
    save(sparsity_figure(reports, options.title), path)
    return path


def plot_scores(options: PlotOptions) -> Path:
    """Draw a score of all runs below some folders against their sparsity.

    Raises:
        UserError: no such folder, or no run in it has this score.
    """
    folders = [Path(name) for name in options.runs] or [runs_root()]
    results = [result for folder in folders for result in collect(folder)]
    chosen = [r for r in best_of(results, options.score) if r.evaluation.startswith(options.evaluation)]
    if not chosen:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run has the score {options.score} of {options.evaluation}"
        )
    path = Path(options.output or "scores.png")
    save(score_figure(chosen, options.score, options.title), path)
    return path


@entry
def sparsities_main(argv: Sequence[str] | None = None) -> None:
    """Run ``plot-sparsities``."""
    options = parse_plot("plot-sparsities", argv)
    print(options if options.dry_run else f"written: {plot_sparsities(options)}")


@entry
def scores_main(argv: Sequence[str] | None = None) -> None:
    """Run ``plot-scores``."""
    options = parse_plot("plot-scores", argv)
    print(options if options.dry_run else f"written: {plot_scores(options)}")
