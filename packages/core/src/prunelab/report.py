"""What people look at when a command has ended: tables of results, latencies, pages of pictures."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write, human_count, human_seconds

if TYPE_CHECKING:
    from PIL.Image import Image

    from prunelab.flops import Count

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


def flops_table(count: Count, *, depth: int = 2, title: str = "") -> Table:
    """What each submodule costs, with all that is inside of it; names of at most ``depth`` parts."""
    rows: list[tuple[Cell, ...]] = []
    for name, part in [("all", count), *count.modules.items()]:
        if name == "all" or name.count(".") < depth:
            share = 100 * part.macs / count.macs if count.macs else 0.0
            left = 100 * part.nonzero_macs / part.macs if part.macs else None
            rows.append((name, part.kind, part.parameters, part.nonzero_parameters, part.macs, share, left))
    columns = ["module", "kind", "parameters", "not zero", "MACs", "% of all", "% with weights"]
    formats = dict.fromkeys(["parameters", "not zero", "MACs"], human_count)
    percents = dict.fromkeys(["% of all", "% with weights"], ".1f")
    return result_table(title, columns, rows, formats={**formats, **percents})


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds that a call takes."""

    median: float
    """The middle of all calls."""
    slow: float
    """Nine of ten calls are not slower."""
    calls: int
    """How many were timed."""

    def __str__(self) -> str:
        """One line for people."""
        return f"{human_seconds(self.median)} (90 % within {human_seconds(self.slow)}, {self.calls} calls)"


def latency(
    call: Callable[[], object], *, calls: int = 20, warmup: int = 3, most_seconds: float = 5.0
) -> Latency:
    """Time a call again and again.

    Args:
        call: What is timed; on an accelerator it must wait for its result.
        calls: Timed calls.
        warmup: Calls before that.
        most_seconds: After this time no further call is begun; at least one is timed.
    """
    for _ in range(warmup):
        call()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < calls and (not seconds or time.perf_counter() - begin < most_seconds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    slow = sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1]
    return Latency(median=statistics.median(seconds), slow=slow, calls=len(seconds))


# ------------------------------------------------------------------------------------------------- pictures

Line: TypeAlias = str | tuple[str, str]
Source: TypeAlias = "StrPath | Image"
Item: TypeAlias = "tuple[Source, Sequence[Line]] | tuple[Source, Sequence[Line], Mapping[str, Cell]]"

_SIDE = 560  # longest side of a picture in the page, pixels
_SHEET_WIDTH, _GAP = 320, 20  # of one picture in the sheet, and between two


@dataclass(frozen=True, kw_only=True)
class _Card:
    picture: Image
    lines: tuple[Line, ...]
    extra: dict[str, str]


def gallery(
    items: Iterable[Item],
    html_path: StrPath,
    png_path: StrPath | None = None,
    *,
    title: str,
    intro: str = "",
    most_in_png: int = 60,
) -> None:
    """Show pictures with captions: one HTML file that needs nothing else, and one picture of them all.

    Args:
        items: (picture, lines) or (picture, lines, extra): the picture as a path or a PIL image; lines as
            text or as (label, text), the first one set off; extra figures by name, e.g. ``{"CIDEr": 1.2}``.
        html_path: The page; pictures are inside of it as JPEG.
        png_path: The sheet; None makes none.
        title: Heading.
        intro: Text below it.
        most_in_png: The sheet shows the first pictures only.

    Raises:
        UserError: A picture is missing or broken, or a file cannot be written.
    """
    cards = [_card(item) for item in items]
    with atomic_write(html_path, "w") as file:
        file.write(_page(cards, title, intro))
    if png_path is not None:
        sheet = _sheet(cards[:most_in_png], title, intro, len(cards))
        with atomic_write(png_path) as file:
            sheet.save(file, format="PNG", optimize=True)


def _card(item: Item) -> _Card:
    source, lines, *rest = item
    extra: Mapping[str, Cell] = rest[0] if rest else {}
    texts = {name: _text(value, None) for name, value in extra.items()}
    return _Card(picture=_open(source), lines=tuple(lines), extra=texts)


def _open(source: Source) -> Image:
    """An RGB picture, upright, no side longer than the page needs; what is transparent becomes white."""
    from PIL import Image as pil
    from PIL import ImageOps

    try:
        with pil.open(source) if isinstance(source, (str, os.PathLike)) else source.copy() as read:
            picture = ImageOps.exif_transpose(read)
            if picture.mode not in ("L", "RGB"):
                picture = picture.convert("RGBA")  # palettes cannot be made smaller
            picture.thumbnail((_SIDE, _SIDE), pil.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{source}: not a readable picture: {reason}") from error
    if picture.mode == "RGBA":
        picture = pil.alpha_composite(pil.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _page(cards: Sequence[_Card], title: str, intro: str) -> str:
    escape = html.escape
    head = f"<h1>{escape(title)}</h1>" + (f"\n<p>{escape(intro)}</p>" if intro else "")
    body = "\n".join(_figure(card) for card in cards)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header>
{head}
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _figure(card: _Card) -> str:
    escape = html.escape
    buffer = io.BytesIO()
    card.picture.save(buffer, format="JPEG", quality=87)
    data = base64.b64encode(buffer.getvalue()).decode()
    first = card.lines[0] if card.lines else ""
    alt = first if isinstance(first, str) else first[1]
    width, height = card.picture.size
    parts = [
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{width}" height="{height}">'
    ]
    lines = []
    for line in card.lines:
        label, text = ("", line) if isinstance(line, str) else line
        lines.append(f"<p>{f'<b>{escape(label)}</b> ' if label else ''}{escape(text)}</p>")
    chips = "".join(
        f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in card.extra.items()
    )
    if chips:
        lines.append(f'<div class="figures">{chips}</div>')
    if lines:
        parts.append(f"<figcaption>{''.join(lines)}</figcaption>")
    return f"<figure>{''.join(parts)}</figure>"


_CSS = """
:root { color-scheme: light dark; --back: #f4f3ef; --card: #ffffff; --ink: #1d2126; --soft: #626b75;
  --line: #e2e0da; --well: #eae8e2; --mark: #0b6e69; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1d2125; --ink: #e8eaec;
  --soft: #9aa4ae; --line: #2d3338; --well: #101316; --mark: #5fd0c5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.45 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
header, main { max-width: 1500px; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2.5rem); }
header { padding-top: 2.2rem; padding-bottom: 1.2rem; }
h1 { margin: 0; font-size: clamp(1.4rem, 3vw, 2rem); letter-spacing: -0.015em; line-height: 1.2; }
header p { margin: .5rem 0 0; color: var(--soft); max-width: 70ch; }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  padding-bottom: 3rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; display: flex; flex-direction: column; box-shadow: 0 1px 3px rgb(0 0 0 / .06); }
img { display: block; width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: contain;
  background: var(--well); }
figcaption { padding: .85rem 1rem 1rem; display: flex; flex-direction: column; gap: .35rem; flex: 1; }
figcaption p { margin: 0; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
figcaption p:first-child { color: var(--ink); font-size: 1.02rem; font-weight: 550; }
figcaption p b { color: var(--mark); font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: .35rem; margin-top: auto; padding-top: .45rem; }
.figures span { font-size: .78rem; color: var(--soft); background: var(--well); border-radius: 999px;
  padding: .1rem .6rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.figures b { color: var(--ink); font-weight: 600; }
@media print { figure { break-inside: avoid; box-shadow: none; } }
"""


# ----------------------------------------------------------------------------------------------------- sheet


def _sheet(cards: Sequence[_Card], title: str, intro: str, total: int) -> Image:
    """All pictures with their texts as one picture."""
    from PIL import Image as pil
    from PIL import ImageDraw, ImageOps

    columns = max(1, min(4, math.ceil(math.sqrt(len(cards)))))
    width = columns * (_SHEET_WIDTH + _GAP) + _GAP
    draw = ImageDraw.Draw(pil.new("RGB", (1, 1)))
    if len(cards) < total:
        intro = f"{intro} The first {len(cards)} of {total}.".strip()
    head = [("bold", 26, "#1d2126", title)] + ([("plain", 15, "#626b75", intro)] if intro else [])
    head_lines = _wrapped(draw, head, width - 2 * _GAP)
    blocks = [_wrapped(draw, _card_texts(card), _SHEET_WIDTH - 24) for card in cards]
    well = _SHEET_WIDTH * 3 // 4
    heights = [well + 20 + _height(block) for block in blocks]
    rows = [range(i, min(i + columns, len(cards))) for i in range(0, len(cards), columns)]
    tops, y = [], _GAP + _height(head_lines) + _GAP
    for row in rows:
        tops.append(y)
        y += max(heights[i] for i in row) + _GAP
    sheet = pil.new("RGB", (width, y), "#f4f3ef")
    draw = ImageDraw.Draw(sheet)
    _write(draw, head_lines, _GAP, _GAP)
    for top, row in zip(tops, rows, strict=True):
        height = max(heights[i] for i in row)
        for place, i in enumerate(row):
            x = _GAP + place * (_SHEET_WIDTH + _GAP)
            box = (x, top, x + _SHEET_WIDTH - 1, top + height - 1)
            draw.rounded_rectangle(box, 10, fill="#ffffff", outline="#e2e0da")
            draw.rectangle((x + 1, top + 1, x + _SHEET_WIDTH - 2, top + well), fill="#eae8e2")
            small = ImageOps.contain(cards[i].picture, (_SHEET_WIDTH - 2, well), pil.Resampling.LANCZOS)
            sheet.paste(small, (x + (_SHEET_WIDTH - small.width) // 2, top + 1 + (well - small.height) // 2))
            _write(draw, blocks[i], x + 12, top + well + 10)
    return sheet


_Text: TypeAlias = tuple[str, int, str, str]  # font, size, colour, text


def _card_texts(card: _Card) -> list[_Text]:
    texts: list[_Text] = []
    for number, line in enumerate(card.lines):
        text = line if isinstance(line, str) else f"{line[0]}: {line[1]}"
        texts.append(("bold", 15, "#1d2126", text) if number == 0 else ("plain", 13, "#626b75", text))
    if card.extra:
        figures = " · ".join(f"{name}\u00a0{value}" for name, value in card.extra.items())
        texts.append(("plain", 12, "#0b6e69", figures))
    return texts


def _font(kind: str, size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    name = {"plain": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}[kind]  # they come with matplotlib
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrapped(draw: Any, texts: Sequence[_Text], width: int) -> list[_Text]:
    """Break texts into lines that are no wider than ``width``; a word that is too long is cut."""
    lines: list[_Text] = []
    for kind, size, colour, text in texts:
        font = _font(kind, size)
        line = ""
        for word in text.split(" "):  # not at no-break spaces
            longer = f"{line} {word}".strip()
            if line and draw.textlength(longer, font=font) > width:
                lines.append((kind, size, colour, line))
                longer = word
            while len(longer) > 1 and draw.textlength(longer, font=font) > width:
                fits = max(
                    [n for n in range(len(longer)) if draw.textlength(longer[:n], font) <= width] + [1]
                )
                lines.append((kind, size, colour, longer[:fits]))
                longer = longer[fits:]
            line = longer
        lines.append((kind, size, colour, line))
    return lines


def _height(lines: Sequence[_Text]) -> int:
    return sum(round(size * 1.45) for _, size, _, _ in lines)


def _write(draw: Any, lines: Sequence[_Text], x: int, y: int) -> None:
    for kind, size, colour, text in lines:
        draw.text((x, y), text, fill=colour, font=_font(kind, size))
        y += round(size * 1.45)
