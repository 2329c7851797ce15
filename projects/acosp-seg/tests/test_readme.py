"""What README and docs/weights.md show can be typed: commands are understood, the lines of Python run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from acosp_seg.config import ModelConfig, QuirkConfig
from acosp_seg.model import build
from acosp_seg.recognise import config_of
from acosp_seg.segmenter import Segmenter
from testing.documents import fences, last_column, lines_to_type

from .commands import PROJECT, Documented

README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (PROJECT.parents[1] / "docs/weights.md").read_text(encoding="utf-8")
INLINE = re.compile(r"`((?:uv run --package acosp-seg|sh tool/|python tool/\w+\.py -)[^`]+)`")
STARTS = (["uv", "run", "--package", "acosp-seg"], ["sh"], ["python"])
PLACEHOLDERS = ("DATASET", "NAME", "SPARSITY")
SCORE = re.compile(r"^\| (\S+( \S+)?) \| (\S+), (\S+) \| .*\d\d\.\d\d.* \| `sh (\S+) (.+)` \|$", re.MULTILINE)


def commands() -> Iterator[list[str]]:
    """The words of every command of this project, in fences, tables and running text."""
    ours = WEIGHTS.partition("## acosp-seg")[2].partition("\n## ")[0]
    for line in lines_to_type((README, ours), INLINE):
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z]+=", words[0]):
            words.pop(0)
        known = any(words[: len(start)] == start for start in STARTS) and "torch.distributed.run" not in words
        if known and not any(word in PLACEHOLDERS for word in words):
            yield words


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Documented:
    return Documented(tmp_path_factory.mktemp("study"), pytest.MonkeyPatch())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(
    words: list[str], documented: Documented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    assert documented.understood(words)


def test_every_row_of_the_papers_tables_has_a_command() -> None:
    rows = [found.groups() for found in SCORE.finditer(README)]
    assert len(rows) == 30
    assert len({row[-2:] for row in rows}) == 30
    assert len(list(commands())) > 45


def test_every_quirk_has_a_row_and_every_row_a_quirk() -> None:
    assert last_column(README, "| quirk of the original") == [f.name for f in fields(QuirkConfig)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a tour leaves it, with an untrained network, and a picture."""
    torch.manual_seed(0)
    cfg = config_of(ModelConfig(arch="segnet", layers=None, classes=11, width=8))
    Segmenter(model=build(cfg.model), config=cfg).save_pretrained(tmp_path / "runs/tour-001/compact")
    Image.new("RGB", (60, 40), (90, 120, 30)).save(tmp_path / "street.jpg")
    return tmp_path


def test_the_lines_of_python_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, library = fences(README, "python")
    assert len(ours.splitlines()) == 3
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(ours, names)
    with Image.open(folder / "overlay.png") as found:
        assert min(found.size) >= 40
    segmenter = names["m"]
    assert isinstance(segmenter, Segmenter)
    assert segmenter.segment("street.jpg").shape == (40, 60)
    torch.manual_seed(0)
    exec(library, names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert isinstance(model.conv1, torch.nn.Conv2d)
    assert model.layer1[0].conv1[1].mask.sum() == 32
