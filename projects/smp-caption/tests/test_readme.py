"""What README and docs/weights.md show can be typed: commands are understood, the lines of Python run."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from smp_caption import cli
from smp_caption.captioner import Captioner
from smp_caption.config import ModelConfig
from smp_caption.features.extractor import ShapeExtractor
from smp_caption.model import build

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (PROJECT.parents[1] / "docs/weights.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(uv run --package smp-caption [^`]+)`")
SCRIPTS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
PREFIX = ["uv", "run", "--package", "smp-caption"]
SIZE = 16
"""Numbers of a region's feature."""


def lines() -> list[str]:
    """Lines of the shell in both pages."""
    bodies = [
        body for text in (README, WEIGHTS) for language, body in FENCE.findall(text) if language == "sh"
    ]
    return "".join(bodies).replace("\\\n", " ").splitlines()


def commands() -> Iterator[list[str]]:
    """The words behind `uv run --package smp-caption` of every command, in fences and tables."""
    for line in lines() + INLINE.findall(FENCE.sub("", README)):
        words = shlex.split(line, comments=True)
        if words[: len(PREFIX)] == PREFIX:
            yield words[len(PREFIX) :]


def module_of(script: str) -> str:
    """The module and function behind a script: ``smp_caption.train:main``."""
    target = SCRIPTS[script]
    return f"smp_caption.{script}:main" if target.startswith("prunelab.launch") else target


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    script, rest = words[0], words[1:]
    if script == "convert":
        assert cli.parse_convert(rest).source == rest[0]
    elif script == "export":
        assert cli.parse_export(rest).model == rest[0]
    else:
        module, _, function = module_of(script).partition(":")
        getattr(importlib.import_module(module), function)([*rest, "--dry-run"])
        assert capsys.readouterr().out


def test_the_number_of_commands() -> None:
    assert len(list(commands())) > 20


def test_every_command_runs_in_the_environment_of_uv() -> None:
    bodies = "".join(body for language, body in FENCE.findall(README) if language == "sh")
    for line in bodies.replace("\\\n", " ").splitlines():
        assert line.startswith(("uv run ", "first=$(uv run "))


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("uv run python scripts/")])
def test_programs_of_the_original_are_understood(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line, comments=True)[3:]
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run"])
    runpy.run_path(str(PROJECT / words[0]), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_launch_files_are_called_with_configurations_that_are_there() -> None:
    called = [line for line in lines() if line.startswith(("uv run sh ", "uv run sbatch ", "first="))]
    assert len(called) == 5
    for line in called:
        for word in re.findall(r"(?:config|scripts)/\S+", line):
            assert (PROJECT / word.rstrip(")")).is_file()


def test_every_row_of_the_tables_leads_to_its_configuration_with_its_score() -> None:
    linked = {place: text for text, place in re.findall(r"\[([^\]]+)\]\((config/[^)]+)\)", README)}
    folders = ("up_down", "ort", "acort")
    rows = [path for name in folders for path in sorted((PROJECT / "config" / name).glob("*.yaml"))]
    assert set(linked) == {str(path.relative_to(PROJECT)) for path in rows}
    scored = 0
    for path in rows:
        score = re.search(r"^# Expected: CIDEr ([0-9.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if score is not None:
            assert linked[str(path.relative_to(PROJECT))] == score[1]
            scored += 1
    assert scored > 50


@pytest.fixture
def run(tmp_path: Path, finished: Callable[[str, str], Path]) -> Path:
    """A folder as a tour leaves it, with an untrained captioner of pictures, and a picture."""
    tokenizer = Captioner.from_pretrained(finished("dense", "fixed") / "best").tokenizer
    config = ModelConfig(
        caption_model="up_down_lstm_prune",
        vocab_size=len(tokenizer),
        rnn_size=8,
        input_encoding_size=8,
        att_hid_size=4,
        att_feat_size=SIZE,
        fc_feat_size=SIZE,
    )
    model = build(config)
    mask = next(layer.mask_spec for layer in model.modules() if hasattr(layer, "mask_spec"))
    captioner = Captioner(model=model, config=config, tokenizer=tokenizer, mask=mask)
    captioner = replace(captioner, extractor=ShapeExtractor(SIZE))
    captioner.save_pretrained(tmp_path / "runs/tour-001/pruned/best")
    Image.new("RGB", (40, 30), (180, 20, 20)).save(tmp_path / "cat.jpg")
    return tmp_path


def test_the_lines_of_python_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = [body for language, body in FENCE.findall(README) if language == "python"]
    assert [len(body.splitlines()) for body in code] == [3]
    monkeypatch.chdir(run)
    names: dict[str, object] = {}
    exec(code[0], names)
    assert capsys.readouterr().out.endswith("\n")
    captioner = names["m"]
    assert isinstance(captioner, Captioner)
    assert captioner.caption(["cat.jpg"]) == [captioner.caption("cat.jpg")]
