"""What README and docs/weights.md show can be typed: commands are understood, the lines of Python run."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from smp_caption import cli, train
from smp_caption.captioner import Captioner
from smp_caption.config import ModelConfig
from smp_caption.extractor import ShapeExtractor
from smp_caption.lowering import lower
from smp_caption.model import build

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (PROJECT.parents[1] / "docs/weights.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(uv run --package smp-caption [^`]+)`")
PREFIX = ["uv", "run", "--package", "smp-caption"]
SIZE = 16
"""Numbers of a region's feature."""


def commands() -> Iterator[list[str]]:
    """The words behind `uv run --package smp-caption` of every command, in fences and tables."""
    bodies = [
        body for text in (README, WEIGHTS) for language, body in FENCE.findall(text) if language == "sh"
    ]
    lines = "".join(bodies).replace("\\\n", " ").splitlines()
    for line in lines + INLINE.findall(FENCE.sub("", README)):
        words = shlex.split(line, comments=True)
        if words[: len(PREFIX)] == PREFIX:
            yield words[len(PREFIX) :]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    script, rest = words[0], words[1:]
    if script == "train":
        cfg = lower(cli.parse_train(rest))
        train._check_available(cfg)
    elif script == "convert":
        assert cli.parse_convert(rest).source == rest[0]
    elif script == "export":
        assert cli.parse_export(rest).model == rest[0]
    else:
        importlib.import_module(f"smp_caption.{script}").main([*rest, "--dry-run"])
        assert capsys.readouterr().out


def test_the_number_of_commands() -> None:
    assert len(list(commands())) > 20


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
