"""What README, docs/weights.md and docs/expansionnet.md show can be typed, and the lines of Python run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from expansionnet.config import QuirkConfig
from expansionnet.lowering import FAITHFUL
from testing.documents import fences, last_column, lines_to_type

from .commands import PROJECT, README_COMMANDS, UV, Documented, words_of
from .small import captioner

DOCS = PROJECT.parents[1] / "docs"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (DOCS / "weights.md").read_text(encoding="utf-8")
PAGE = (DOCS / "expansionnet.md").read_text(encoding="utf-8")
INLINE = re.compile(r"`((?:uv run --package expansionnet|python (?:\w+/)?\w+\.py) [^`]+)`")
SETS = re.compile(r"^[A-Z]+=")


def commands() -> Iterator[list[str]]:
    """The words of every command of this project, in fences, tables and running text."""
    ours = WEIGHTS.partition("## expansionnet")[2].partition("\n## ")[0]
    texts = (README, ours, PAGE)
    for line in lines_to_type(texts, INLINE):
        words = [word for word in shlex.split(line, comments=True) if not SETS.match(word)]
        if words[:2] == ["uv", "run"] and words[2] in ("sh", "python"):
            words = words[2:]
        if words[: len(UV)] == UV or words[:1] in (["python"], ["sh"]):
            yield words


@pytest.fixture(scope="module")
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(words: list[str], documented: Documented) -> None:
    assert documented.understood(words)


def test_every_row_of_the_published_tables_is_there() -> None:
    rows = [row.split("|") for row in README.splitlines() if row.startswith("| ")]
    scores = {row[1].strip(): [cell.strip() for cell in row[2:-2]] for row in rows}
    assert scores["ensemble"] == ["83.5", "42.7", "30.6", "61.1", "143.7", "24.7"]
    assert scores["single (phase 6, or `rf_model.pth`)"] == ["82.8", "41.5", "30.3", "60.5", "140.4", "24.5"]
    assert scores["c40"] == ["96.9", "92.6", "85.0", "75.3", "40.1", "76.4", "140.8"]
    assert scores["c5"] == ["83.3", "68.8", "54.4", "42.1", "30.4", "60.8", "138.5"]
    assert scores["after phase 5"][4] == "about 139.5"
    single = next(row[-2].strip().strip("`") for row in rows if row[1].startswith(" single"))
    assert words_of(single) == words_of(README_COMMANDS["test"])
    assert len(list(commands())) > 25


def test_every_quirk_and_every_setting_of_the_preset_has_a_row_and_the_other_way_round() -> None:
    quirks = [f.name for f in fields(QuirkConfig)]
    assert last_column(README, "| quirk of the original") == quirks
    assert set(last_column(README, "| original (`faithful`)")) == FAITHFUL.keys()


def test_the_three_lines_of_python_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fences(README, "python")[0]
    assert len(lines.splitlines()) == 3
    captioner(end_to_end=True).save_pretrained(tmp_path / "runs/tour-001/rf/best")
    Image.new("RGB", (60, 40), (90, 120, 30)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    assert capsys.readouterr().out.endswith(".\n")
