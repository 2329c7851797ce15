"""Compare two runs by their `metrics.jsonl`: a table, a plot, and whether they are the same.

    compare_runs.py A B                      a row a value: last of each, largest difference, where first
    compare_runs.py A B --plot curves.png    both curves of every value that both have
    compare_runs.py A B --same               for a change that must not change numbers: fails where one does

Times and rates differ between any two runs: values whose names speak of them are left out of `--same`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunelab.errors import UserError, entry

Curve = dict[int, float]
CLOCK = re.compile(
    r"(^|[/_.])(time|seconds?|sec|minutes|eta|elapsed|wall|per_second|speed|memory|ram)s?($|[/_.])"
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one value of two runs differs, over the steps that both have."""

    name: str
    last_a: float
    last_b: float
    largest: float
    """The largest absolute difference; infinite where one is a number and the other is not."""
    first_step: int | None
    """The first step at which they differ; None where they never do."""
    common: int
    """How many steps both have."""
    only_one: int
    """How many steps only one of the two has."""


def read_metrics(run: Path) -> dict[str, Curve]:
    """Read every number of ``metrics.jsonl``, by its name and step.

    Raises:
        UserError: the file is missing or a line is no JSON object.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a run folder")
    curves: dict[str, Curve] = defaultdict(dict)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: line {number} is no JSON object with a 'step'") from None
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                curves[name][step] = float(value)
    return dict(curves)


def compare(a: Mapping[str, Curve], b: Mapping[str, Curve]) -> list[Difference]:
    """Compare every value that either run has, by name."""
    found = []
    for name in sorted({*a, *b}):
        left, right = a.get(name, {}), b.get(name, {})
        steps = sorted(left.keys() & right.keys())
        gaps = {step: _gap(left[step], right[step]) for step in steps}
        found.append(
            Difference(
                name=name,
                last_a=left[max(left)] if left else math.nan,
                last_b=right[max(right)] if right else math.nan,
                largest=max(gaps.values(), default=0.0),
                first_step=next((step for step in steps if gaps[step]), None),
                common=len(steps),
                only_one=len(left.keys() ^ right.keys()),
            )
        )
    return found


def _gap(left: float, right: float) -> float:
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    return abs(left - right) if math.isfinite(left) and math.isfinite(right) else math.inf


def table(differences: Sequence[Difference]) -> str:
    """The differences as a Markdown table."""
    lines = ["| value | A | B | largest difference | first at step | steps in both | in one |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for d in differences:
        first = "never" if d.first_step is None else str(d.first_step)
        numbers = f"{d.last_a:.6g} | {d.last_b:.6g} | {d.largest:.3g}"
        lines.append(f"| {d.name} | {numbers} | {first} | {d.common} | {d.only_one} |")
    return "\n".join(lines)


def plot(a: Mapping[str, Curve], b: Mapping[str, Curve], labels: tuple[str, str], path: Path) -> None:
    """Draw both curves of every value that both runs have, one panel each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(a.keys() & b.keys())
    if not names:
        raise UserError("the two runs have no value in common: nothing to plot")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for position, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, position + 1)
        for curve, label, style in ((a[name], labels[0], "-"), (b[name], labels[1], "--")):
            steps = sorted(curve)
            axes.plot(steps, [curve[s] for s in steps], style, label=label)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print, plot."""
    parser = argparse.ArgumentParser(prog="compare_runs.py", description="Compare two run folders.")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these values alone")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--same", action="store_true", help="fail where a value or a step differs")
    options = parser.parse_args(argv)
    a, b = (
        {n: c for n, c in read_metrics(run).items() if not options.only or n in options.only}
        for run in (options.a, options.b)
    )
    differences = compare(a, b)
    print(table(differences))
    if options.plot:
        plot(a, b, (options.a.name, options.b.name), options.plot)
        print(f"wrote {options.plot}")
    if options.same:
        differing = [d.name for d in differences if (d.largest or d.only_one) and not CLOCK.search(d.name)]
        if differing:
            raise UserError(f"the runs differ in {', '.join(differing)}")
        print("the runs are the same")


if __name__ == "__main__":
    main()
