"""The command line of a benchmark: which rows, how many rounds, a table, a JSON file."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, TypeAlias

from prunelab.bench.compare import LEAST_ROUNDS, Figure, Result, Row, Skip, using_rounds
from prunelab.doors import did_you_mean
from prunelab.errors import UserError
from prunelab.report import Cell, Table, result_table
from prunelab.util import StrPath, human_seconds, write_json

Rows: TypeAlias = Mapping[str, Callable[[], Result | list[Result]]]


def discover(package: ModuleType) -> dict[str, Callable[[], Result | list[Result]]]:
    """Collect ``ROWS`` of every module ``rows_*`` of a package, in the order of the modules' names.

    Raises:
        ValueError: Two modules use the same row name.
    """
    found: dict[str, Callable[[], Result | list[Result]]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        if not module.startswith("rows_"):
            continue
        for name, row in importlib.import_module(f"{package.__name__}.{module}").ROWS.items():
            if name in found:
                raise ValueError(f"the row {name!r} of {module} exists twice")
            found[name] = row
    return found


def machine() -> dict[str, Any]:
    """What a reader must know about the machine: processor, cores, threads, versions."""
    import psutil
    import torch

    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "logical_cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def results_table(results: Iterable[Result]) -> Table:
    """One line a side; ``x ours`` is how many times our median fits into the side's. Settings stand below."""
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for result in results:
        lines.extend(_row_lines(result) if isinstance(result, Row) else _figure_lines(result))
        if result.note:
            notes.append(f"{result.name}: {result.note}")
    columns = ["what", "side", "min", "median", "max", "a second", "x ours", "goal", "reached"]
    return result_table("", columns, lines, formats={"x ours": ".2f"}, notes=notes)


def _goal_cells(result: Result) -> tuple[str, str]:
    goals = result.goals()
    if not goals:
        return "", ""
    return ", ".join(goal for goal, _ in goals), "yes" if all(reached for _, reached in goals) else "NO"


def _row_lines(row: Row) -> list[tuple[Cell, ...]]:
    lines: list[tuple[Cell, ...]] = []
    for side in (row.ours, row.reference, *row.extra):
        rate = row.rate(side)
        first = side is row.ours
        lines.append(
            (
                row.name if first else "",
                side.name,
                human_seconds(side.min),
                human_seconds(side.median),
                human_seconds(side.max),
                "" if rate is None else f"{rate:,.0f} {row.unit}" if rate >= 10 else f"{rate:.3g} {row.unit}",
                None if first else side.median / row.ours.median,
                *(_goal_cells(row) if first else ("", "")),
            )
        )
    return lines


def _figure_lines(figure: Figure) -> list[tuple[Cell, ...]]:
    """A figure stands in the column of the medians."""

    def shown(value: float) -> str:
        if figure.unit == "s":
            return human_seconds(value)
        return f"{value:,.0f} {figure.unit}" if value == int(value) else f"{value:,.4g} {figure.unit}"

    lines: list[tuple[Cell, ...]] = []
    lines.append((figure.name, "ours", "", shown(figure.ours), "", "", None, *_goal_cells(figure)))
    if figure.reference is not None:
        ratio = figure.reference / figure.ours
        lines.append(("", "reference", "", shown(figure.reference), "", "", ratio, "", ""))
    return lines


def plain_table(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The table as plain data, one mapping a side, with the figures as a reader wants to see them.

    Keys: ``what`` and ``side``; ``min``, ``median``, ``max`` and ``rate`` in words; ``ratio``, how many times
    our median fits into the side's; for our side ``goal``, ``reached`` and ``note``. A key without a value is
    missing.
    """
    keys = ("what", "side", "min", "median", "max", "rate", "ratio", "goal", "reached")
    found: list[dict[str, Any]] = []
    for result in results:
        lines = _row_lines(result) if isinstance(result, Row) else _figure_lines(result)
        for line in lines:
            cells = {key: cell for key, cell in zip(keys, line, strict=True) if cell not in ("", None)}
            note = {"note": result.note} if result.note and line is lines[0] else {}
            found.append({"what": result.name} | cells | note)
    return found


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure our way beside the straightforward one, alternating in one process; "
        "results are compared before times.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="rows to measure (* is a wildcard); all if none"
    )
    parser.add_argument(
        "--rounds", type=int, default=LEAST_ROUNDS, metavar="N", help="alternations (default 5)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of torch (default: torch's own choice)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every single figure to FILE")
    parser.add_argument(
        "--json-table", metavar="FILE", help="also write the table's lines to FILE, one mapping a side"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    return parser


def _chosen(names: Sequence[str], rows: Rows) -> list[str]:
    wanted = set()
    for name in names:
        found = [row for row in rows if fnmatchcase(row, name)]
        if not found:
            raise UserError(f"no row is called {name!r}: {did_you_mean(name, rows)}")
        wanted.update(found)
    return [row for row in rows if not names or row in wanted]


def main(prog: str, rows: Rows, argv: Sequence[str] | None = None) -> list[Result]:
    """Run the rows that the command line names and print their table.

    Args:
        prog: How the command is called, for ``--help``.
        rows: Name -> function that measures and returns one result or several (or raises `Skip`).
        argv: Arguments; None takes those of the process.

    Returns:
        What was measured, in order.

    Raises:
        UserError: An unknown row, or too few rounds.
    """
    options = _parser(prog).parse_args(argv)
    if options.list:
        print("\n".join(rows))
        return []
    return measure(
        rows,
        options.names,
        rounds=options.rounds,
        threads=options.threads,
        json=options.json,
        json_table=options.json_table,
    )


def measure(
    rows: Rows,
    names: Sequence[str] = (),
    *,
    rounds: int = LEAST_ROUNDS,
    threads: int | None = None,
    json: StrPath | None = None,
    json_table: StrPath | None = None,
) -> list[Result]:
    """Run rows and print their table, for commands that read their arguments themselves.

    Args:
        rows: Name -> function that measures and returns one result or several (or raises `Skip`).
        names: Which rows, with ``*`` as a wildcard; all if none.
        rounds: Alternations of each row.
        threads: Threads of torch; None leaves them as they are.
        json: File for every single figure.
        json_table: File for `plain_table`.

    Returns:
        What was measured, in order.

    Raises:
        UserError: An unknown row, too few rounds, or no threads.
    """
    if rounds < LEAST_ROUNDS:
        raise UserError(f"--rounds {rounds}: expected {LEAST_ROUNDS} or more")
    chosen = _chosen(names, rows)
    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: expected 1 or more")
        import torch

        torch.set_num_threads(threads)
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    results: list[Result] = []
    skipped: dict[str, str] = {}
    for name in chosen:
        try:
            with using_rounds(rounds):
                measured = rows[name]()
        except Skip as why:
            skipped[name] = str(why)
            continue
        results.extend(measured if isinstance(measured, list) else [measured])
    results_table(results).print()
    for name, why in skipped.items():
        print(f"{name}: not measured: {why}")
    if json:
        content = {"machine": about, "rows": [result.as_dict() for result in results], "skipped": skipped}
        write_json(json, content)
    if json_table:
        write_json(json_table, plain_table(results))
    return results
