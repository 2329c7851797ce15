"""What README and docs/weights.md show can be typed: commands are understood, the lines of Python run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from channel_prune.config import QuirkConfig
from channel_prune.files.saved import Saved
from channel_prune.lowering import FAITHFUL, lower_values
from channel_prune.model import build
from channel_prune.preprocess import preprocess_of
from testing.documents import fences, last_column, lines_to_type

from .commands import LAUNCHERS, PROJECT, UV, Documented

README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (PROJECT.parents[1] / "docs/weights.md").read_text(encoding="utf-8")
INLINE = re.compile(r"`((?:uv run --package channel-prune|\./scripts/)[^`]+)`")
SCORE = re.compile(
    r"^\| (0\.\d) \| (\d\d\.\d\d) % \| (\w+) \| (\d\d\.\d\d.*) \| `(\S+) (.+)` \|$", re.MULTILINE
)
PLACEHOLDERS = ("MODEL", "FOLDER", "FILE")


def commands() -> Iterator[list[str]]:
    """The words of every command of this project, in fences, tables and running text."""
    ours = WEIGHTS.partition("## channel-prune")[2].partition("\n## ")[0]
    for line in lines_to_type((README, ours), INLINE):
        words = shlex.split(line, comments=True)
        known = words[: len(UV)] == UV or (words and Path(words[0]).name in LAUNCHERS)
        if known and not any(word in PLACEHOLDERS for word in words):
            yield words


@pytest.fixture(scope="module")
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(
    words: list[str], documented: Documented, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ratios.txt").write_text("0, 0.5, 0.5\n")
    assert documented.understood(words)


def test_every_row_of_the_published_tables_has_a_command() -> None:
    rows = [found.groups() for found in SCORE.finditer(README)]
    assert len(rows) == 12 + 8
    assert len({row[-1] for row in rows}) == len(rows)
    for ratio, _, kind, _, script, rest in rows:
        words = rest.split()
        assert script == "./scripts/run_local.sh"
        assert {"--learner=chn-pruned-rmt", f"--cpr_prune_ratio={ratio}"} <= set(words)
        assert ("--enbl_dst" in words) == (kind == "yes")
        assert ("--cpr_skip_op_names=multibox_head" in words) == (kind == "backbone")
    assert len(list(commands())) > 40


def test_every_quirk_and_every_setting_of_the_preset_has_a_row_and_the_other_way_round() -> None:
    quirks = [f.name for f in fields(QuirkConfig)]
    assert last_column(README, "| quirk of the original") == quirks
    assert set(last_column(README, "| original (`faithful`)")) == FAITHFUL.keys()


def test_pruning_from_python_runs_as_shown() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    small = fences(README, "python")[1].replace("64, 64", "32, 32").replace("v2()", "v2(width_mult=0.25)")
    exec(small, names)
    slim, batches = names["slim"], names["batches"]
    assert isinstance(slim, nn.Module)
    count = sum(parameter.numel() for parameter in slim.parameters())
    assert count < sum(parameter.numel() for parameter in names["model"].parameters())
    with torch.no_grad():
        assert slim.eval()(batches[0]).shape == (8, 1000)


def test_the_three_lines_of_python_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fences(README, "python")[0]
    assert len(lines.splitlines()) == 3
    cfg = lower_values({"name": "tiny"})
    saved = Saved(
        model=build(cfg.net), net=cfg.net, preprocess=preprocess_of(cfg), classes=tuple("abcdefghij")
    )
    saved.save(tmp_path / "runs/tour-001/pruned/slim")
    Image.new("RGB", (60, 40), (90, 120, 30)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    found = ast.literal_eval(capsys.readouterr().out)
    assert len(found) == 5
    assert 0 < found[0][1] <= 1
