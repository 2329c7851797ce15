"""What came out of a run: one row for each of its networks, with its quality, cost, size and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from channel_prune.job import Task
from prunelab import dist
from prunelab.flops import count
from prunelab.hub import WEIGHTS_FILE
from prunelab.modes import evaluating
from prunelab.report import Cell, Format, Table, latency, result_table
from prunelab.util import human_bytes, human_count, write_json

SUMMARY = "summary.json"
CONSTANT = "best constant answer"
COLUMNS = ("MACs", "parameters", "file", "ms / picture")
"""Behind the name and the figures."""
FORMATS: dict[str, Format] = {
    "MACs": human_count,
    "parameters": human_count,
    "file": human_bytes,
    "ms / picture": ".2f",
}
Row = dict[str, Cell]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One network of the table."""

    name: str
    model: nn.Module
    place: Path
    """Its model folder, or the file that it came from."""


def summarise(
    rivals: Sequence[Rival],
    task: Task,
    picture: Tensor,
    *,
    folder: Path,
    title: str,
    more: Table | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Measure networks, write `SUMMARY` and print the table. Collective; cost is measured on rank 0 alone.

    Args:
        rivals: on the device of ``picture``.
        task: evaluates them.
        picture: one input (1, 3, S, S), for which multiply-adds and time are taken.
        folder: where `SUMMARY` goes.
        title: of the table.
        more: another table, which is printed below and written as ``multiply_adds``.
        quiet: print nothing.
    """
    rows = [row_of(rival, task, picture) for rival in rivals]
    constant = task.constant
    if constant is not None:
        rows.insert(0, {"model": CONSTANT, task.figures[0]: constant})
    figures = list(task.figures)
    content: dict[str, Any] = {"title": title, "figures": figures, "rows": rows}
    if more is not None:
        content["multiply_adds"] = [dict(zip(more.columns, row, strict=True)) for row in more.rows]
    dist.on_main(lambda: write_json(folder / SUMMARY, content))
    if dist.is_main() and not quiet:
        table_of(rows, figures, title).print()
        if more is not None:
            more.print()
        for rival in rivals:
            print(f"{rival.name}: {rival.place}")
        print(f"next: uv run --package channel-prune demo --model {rivals[-1].place} FILE...")
    return rows


def row_of(rival: Rival, task: Task, picture: Tensor) -> Row:
    """A network's row; see `summarise`."""
    with evaluating(rival.model), torch.no_grad():
        found = dict(task.evaluate(rival.model))
        cost = dist.on_main(lambda: _cost(rival, picture))
    return {"model": rival.name, **{name: found[name] for name in task.figures}, **cost}


def _cost(rival: Rival, picture: Tensor) -> Row:
    counted = count(rival.model, picture)

    def call() -> None:
        rival.model(picture)
        if picture.is_cuda:
            torch.cuda.synchronize(picture.device)

    with torch.no_grad():
        time = latency(call)
    file = rival.place / WEIGHTS_FILE if rival.place.is_dir() else rival.place
    return {
        "MACs": counted.macs,
        "parameters": counted.parameters,
        "file": file.stat().st_size if file.is_file() else None,
        "ms / picture": 1000 * time.median,
    }


def table_of(rows: Sequence[Row], figures: Sequence[str], title: str, notes: Sequence[str] = ()) -> Table:
    """The rows for people."""
    formats = {**FORMATS, **dict.fromkeys(figures, ".4f")}
    return result_table(title, ["model", *figures, *COLUMNS], rows, formats=formats, notes=notes)
