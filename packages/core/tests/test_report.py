from __future__ import annotations

import base64
import io
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from prunelab.errors import UserError
from prunelab.flops import count
from prunelab.report import Latency, Table, flops_table, gallery, latency, result_table
from prunelab.util import human_bytes


def tour() -> Table:
    return result_table(
        "Tour [tiny]",
        ["model", "CIDEr", "parameters", "size"],
        [
            {"model": "constant | best", "CIDEr": 61.234},
            {"model": "dense [a]", "CIDEr": 111.3, "parameters": 53_500_000, "size": 212_600_000},
            ("pruned", 109.25, 480_000, 1_550_000),
        ],
        formats={"CIDEr": ".1f", "size": human_bytes},
        notes=["preset: fixed"],
    )


def test_plain_tables_are_aligned_and_absent_cells_are_dashes() -> None:
    assert tour().plain().splitlines() == [
        "Tour [tiny]",
        "model            CIDEr  parameters     size",
        "---------------  -----  ----------  -------",
        "constant | best   61.2           -        -",
        "dense [a]        111.3  53,500,000   213 MB",
        "pruned           109.2     480,000  1.55 MB",
        "preset: fixed",
    ]


def test_markdown_tables_align_numbers_and_escape_bars() -> None:
    assert tour().markdown().splitlines() == [
        "| model | CIDEr | parameters | size |",
        "| --- | ---: | ---: | ---: |",
        "| constant \\| best | 61.2 | - | - |",
        "| dense [a] | 111.3 | 53,500,000 | 213 MB |",
        "| pruned | 109.2 | 480,000 | 1.55 MB |",
        "",
        "preset: fixed",
    ]


def test_a_file_gets_plain_text_and_a_terminal_a_drawn_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file, terminal = io.StringIO(), Terminal()
    tour().print(file)
    assert file.getvalue() == tour().plain() + "\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    tour().print(terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "dense [a]" in text
    assert "Tour [tiny]" in text
    assert "preset: fixed" in text
    assert "┃" in text
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    tour().print(dumb)
    assert dumb.getvalue() == file.getvalue()


def test_numbers_without_a_format_are_short() -> None:
    table = result_table("", ["a"], [[0.123456], [1234567.8], [12], [float("nan")], [None]])
    assert [row[0] for row in table.texts()] == ["0.1235", "1,234,568", "12", "nan", "-"]
    assert table.plain().splitlines()[0].strip() == "a"


def test_rows_that_do_not_fit_the_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 columns .* but a row of 1"):
        result_table("", ["a", "b"], [[1]])
    with pytest.raises(ValueError, match=r"a row has \['c'\]"):
        result_table("", ["a", "b"], [{"c": 1}])
    with pytest.raises(ValueError, match=r"formats for columns \['c'\]"):
        result_table("", ["a"], [], formats={"c": ".1f"})


def test_an_empty_table_is_a_header() -> None:
    assert result_table("", ["a", "b"], []).plain().splitlines() == ["a  b", "-  -"]


def test_costs_of_submodules_as_a_table() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Linear(10, 30, bias=False), nn.ReLU()), nn.Linear(30, 10, bias=False)
    )
    with torch.no_grad():
        model[1].weight[:5] = 0
    rows = flops_table(count(model, torch.rand(2, 10)), depth=1).texts()
    assert rows == [
        ["all", "Sequential", "600", "450", "1.20 k", "100.0", "75.0"],
        ["0", "Sequential", "300", "300", "600", "50.0", "100.0"],
        ["1", "Linear", "300", "150", "600", "50.0", "50.0"],
    ]
    assert [row[0] for row in flops_table(count(model, torch.rand(2, 10))).texts()] == [
        "all",
        "0",
        "0.0",
        "0.1",
        "1",
    ]


def test_latency_counts_calls_and_gives_up_in_time() -> None:
    calls: list[int] = []
    found = latency(lambda: calls.append(1), calls=10, warmup=2)
    assert (len(calls), found.calls) == (12, 10)
    assert 0 < found.median <= found.slow < 0.1
    assert latency(lambda: time.sleep(0.01), calls=100, warmup=0, most_seconds=0.03).calls < 10
    assert latency(lambda: None, warmup=0, most_seconds=0).calls == 1
    assert str(Latency(median=0.0123, slow=0.02, calls=5)) == "12.3 ms (90 % within 20.0 ms, 5 calls)"


class Page(HTMLParser):
    """Collects pictures and text of a page, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for name, mode, size, colour in (
        ("wide.jpg", "RGB", (900, 300), "red"),
        ("tall.png", "RGBA", (50, 200), (0, 0, 255, 0)),
        ("grey.png", "L", (40, 40), 90),
        ("palette.gif", "P", (40, 40), 3),
    ):
        paths.append(tmp_path / name)
        Image.new(mode, size, colour).save(paths[-1])  # pyright: ignore
    return paths


def test_the_page_holds_all_pictures_and_texts_and_needs_nothing_else(
    tmp_path: Path, pictures: list[Path]
) -> None:
    items: list[Any] = [
        (
            pictures[0],
            ['a "red" <b>thing</b> & more', ("dense", "1 < 2")],
            {"CIDEr": 1.23456, "n": 3, "x": None},
        ),
        (str(pictures[1]), [("truth", "blue")]),
        (Image.new("RGB", (30, 20), "green"), []),
        *[(path, ["x"]) for path in pictures[2:]],
    ]
    gallery(items, tmp_path / "out" / "page.html", title="A <title> & more", intro="Intro é")
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.images) == 5
    assert "src=" not in text.replace('src="data:image/jpeg;base64,', "")
    assert "http" not in text
    assert "<b>thing</b>" not in text
    for wanted in (
        'a "red" <b>thing</b> & more',
        "1 < 2",
        "A <title> & more",
        "Intro é",
        "CIDEr 1.235",
        "n 3",
        "x -",
    ):
        assert wanted in page.text, wanted
    assert page.images[0]["alt"] == 'a "red" <b>thing</b> & more'
    assert page.images[1]["alt"] == "blue"
    decoded = [Image.open(io.BytesIO(base64.b64decode(i["src"].partition(",")[2]))) for i in page.images]
    assert decoded[0].size == (560, 187) == (int(page.images[0]["width"]), int(page.images[0]["height"]))
    assert decoded[1].getpixel((5, 5)) == (255, 255, 255)  # what is transparent is white
    assert "prefers-color-scheme: dark" in text


def test_the_sheet_shows_every_picture(tmp_path: Path, pictures: list[Path]) -> None:
    items = [(path, ["two words " * 20, "longword" * 30], {"CIDEr": 1.2}) for path in pictures]
    gallery(items, tmp_path / "p.html", tmp_path / "p.png", title="Sheet")
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width == 2 * 340 + 20
        assert sheet.height > 2 * 240
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24) or []}
        assert (90, 90, 90) in colours
        assert any(r > 250 and g < 5 and b < 5 for r, g, b in colours)
    gallery(items * 3, tmp_path / "q.html", tmp_path / "q.png", title="Sheet", most_in_png=1)
    with Image.open(tmp_path / "q.png") as small:
        assert small.width == 360
    gallery([], tmp_path / "r.html", tmp_path / "r.png", title="Nothing")
    assert Page((tmp_path / "r.html").read_text()).images == []


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    gallery([(tmp_path / "turned.jpg", [])], tmp_path / "p.html", title="T")
    image = Page((tmp_path / "p.html").read_text()).images[0]
    assert (image["width"], image["height"]) == ("20", "40")


def test_a_missing_or_broken_picture_is_named_and_nothing_is_written(
    tmp_path: Path, pictures: list[Path]
) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg: not a readable picture: No such file"):
        gallery([(tmp_path / "gone.jpg", [])], tmp_path / "p.html", title="T")
    pictures[0].write_bytes(pictures[0].read_bytes()[:-200])
    with pytest.raises(UserError, match=r"wide\.jpg: not a readable picture: image file is truncated"):
        gallery([(pictures[0], [])], tmp_path / "p.html", title="T")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.jpg: not a readable picture: cannot identify"):
        gallery([(tmp_path / "text.jpg", [])], tmp_path / "p.html", title="T")
    assert not (tmp_path / "p.html").exists()
