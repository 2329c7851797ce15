"""What people look at when a command has ended: tables of results, latencies, pages of pictures."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeAlias


Cell: TypeAlias = str | int | float | None
Format: TypeAlias = str | Callable[[Any], str]

ABSENT = "-"
"""What stands in a cell that has no value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A small table with a title; numbers are right-aligned, `None` is shown as a dash."""

    title: str
    """One line above the table; may be empty."""
    columns: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells, row by row."""
    formats: Mapping[str, Format] = field(default_factory=dict)
    """How the numbers of a column are written: a format such as ``".1f"``, or a function."""
    notes: tuple[str, ...] = ()
    """Lines below the table."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{len(self.columns)} columns {self.columns}, but a row of {len(row)}: {row}"
                )
        unknown = set(self.formats) - set(self.columns)
        if unknown:
            raise ValueError(f"formats for columns {sorted(unknown)}, which are not in {self.columns}")

    def texts(self) -> list[list[str]]:
        """The cells as text, without the header."""
        formats = [self.formats.get(column) for column in self.columns]
        return [[_text(cell, how) for cell, how in zip(row, formats, strict=True)] for row in self.rows]

    def right(self) -> list[bool]:
        """Which columns hold numbers only and are right-aligned."""
        return [
            any(isinstance(row[i], (int, float)) for row in self.rows)
            and all(row[i] is None or isinstance(row[i], (int, float)) for row in self.rows)
            for i in range(len(self.columns))
        ]

    def plain(self) -> str:
        """The table as plain text with aligned columns."""
        body, right = self.texts(), self.right()
        widths = [max(len(line[i]) for line in [list(self.columns), *body]) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            parts = zip(cells, widths, right, strict=True)
            return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in parts).rstrip()

        rule = "  ".join("-" * width for width in widths)
        head = [self.title] if self.title else []
        return "\n".join([*head, line(self.columns), rule, *map(line, body), *self.notes])

    def markdown(self) -> str:
        """The table in Markdown, for a README; the title is left to the text around it."""
        rule = ["---:" if right else "---" for right in self.right()]
        lines = [list(self.columns), *self.texts()]
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        table = "\n".join("| " + " | ".join(line) + " |" for line in [escaped[0], rule, *escaped[1:]])
        return "\n\n".join([table, *self.notes])

    def print(self, file: TextIO | None = None) -> None:
        """Print the table: with rules and colours on a terminal, as plain text elsewhere."""
        out = sys.stdout if file is None else file
        if not (out.isatty() and os.environ.get("TERM") != "dumb"):
            print(self.plain(), file=out, flush=True)
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table as RichTable

        # names and first column are content: brackets in them are not markup
        rich = RichTable(title=escape(self.title) or None, title_justify="left", header_style="bold")
        for i, (column, right) in enumerate(zip(self.columns, self.right(), strict=True)):
            rich.add_column(
                escape(column), justify="right" if right else "left", style="cyan" if i == 0 else ""
            )
        for row in self.texts():
            rich.add_row(*map(escape, row))
        console = Console(file=out)
        console.print(rich)
        for note in self.notes:
            console.print(escape(note), style="dim", highlight=False)


def _text(cell: Cell, how: Format | None) -> str:
    if cell is None:
        return ABSENT
    if isinstance(cell, str):
        return cell
    if callable(how):
        return how(cell)
    if how is not None:
        return format(cell, how)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if abs(cell) < 10_000 or not math.isfinite(cell) else f"{cell:,.0f}"


def result_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell] | Mapping[str, Cell]],
    *,
    formats: Mapping[str, Format] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Make a `Table`; a row is a sequence of cells or a mapping from column to cell (absent: a dash).

    Example:
        >>> table = result_table("", ["model", "CIDEr"], [{"model": "dense", "CIDEr": 111.3}])
        >>> print(table.markdown())
        | model | CIDEr |
        | --- | ---: |
        | dense | 111.3 |

    Raises:
        ValueError: A row does not fit the columns.
    """
    cells = []
    for row in rows:
        if isinstance(row, Mapping):
            unknown = set(row) - set(columns)
            if unknown:
                raise ValueError(f"a row has {sorted(unknown)}, which are not in {tuple(columns)}")
            cells.append(tuple(row.get(column) for column in columns))
        else:
            cells.append(tuple(row))
    return Table(
        title=title,
        columns=tuple(columns),
        rows=tuple(cells),
        formats=dict(formats or {}),
        notes=tuple(notes),
    )
