"""What README, docs/weights.md and docs/apt-vit.md show can be typed, and the lines of Python run."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from apt_vit import build
from apt_vit.classifier import Classifier
from apt_vit.config import QuirkConfig
from apt_vit.lowering import FAITHFUL, lower_values
from apt_vit.preprocess import preprocess_of
from apt_vit.tokens.macs import lengths_of, macs_of
from testing.documents import fences, last_column, lines_to_type

from .commands import PROJECT, SHIMS, UV, Documented

DOCS = PROJECT.parents[1] / "docs"
README = (PROJECT / "README.md").read_text(encoding="utf-8")
WEIGHTS = (DOCS / "weights.md").read_text(encoding="utf-8")
PAGE = (DOCS / "apt-vit.md").read_text(encoding="utf-8")
INLINE = re.compile(r"`((?:uv run --package apt-vit|sh scripts/\w+\.sh) [^`]+)`")
PLACEHOLDERS = ("FILE", "FILE...", "FOLDER", "MODEL")


def commands() -> Iterator[list[str]]:
    """The words of every command of this project, in fences, tables and running text."""
    ours = WEIGHTS.partition("## apt-vit")[2].partition("\n## ")[0]
    texts = (README, ours, PAGE)
    for line in lines_to_type(texts, INLINE):
        words = shlex.split(line, comments=True)
        if words[:3] == ["uv", "run", "python3"]:
            words = words[2:]
        known = words[: len(UV)] == UV or any(word in ("sh", "sbatch", "python3") for word in words[:2])
        if known and not any(word in PLACEHOLDERS for word in words):
            yield words


@pytest.fixture(scope="module")
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_understood(words: list[str], documented: Documented) -> None:
    assert documented.understood(words)


def test_the_commands_of_the_originals_readme_are_there() -> None:
    shims = [words[1] for words in commands() if words[0] == "python3"]
    assert shims == list(SHIMS)
    assert len(list(commands())) > 20


def test_every_row_of_the_published_table_has_its_score_and_a_command() -> None:
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in README.splitlines() if "CIFAR-10" in row
    ]
    table = {(row[0], row[1]): (float(row[2]), row[3].strip("`")) for row in rows if len(row) == 4}
    assert {key: score for key, (score, _) in table.items()} == {
        ("CIFAR-100", "ViT"): 92.3,
        ("CIFAR-100", "APT (pruning)"): 92.6,
        ("CIFAR-100", "APT (no pruning)"): 93.03,
        ("CIFAR-10", "ViT"): 99.08,
        ("CIFAR-10", "APT (pruning)"): 98.93,
        ("CIFAR-10", "APT (no pruning)"): 98.92,
    }
    written = [shlex.split(command) for _, command in table.values()]
    assert all(words in list(commands()) for words in written)


def test_the_table_of_multiply_adds_is_what_they_are() -> None:
    cfg = lower_values({"dataset": "cifar100"}).model
    table = README.partition("| tokens kept behind")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+), (\d+), (\d+).*?\| ([\d.]+) % \| ([\d.]+) % \|$", table, re.MULTILINE)
    assert len(rows) == 6
    dense = macs_of(cfg, lengths_of(cfg), "none")
    for *counts, written, folded in rows:
        lengths = lengths_of(cfg, dict(zip(cfg.clip_layers, map(int, counts), strict=True)))
        found = [100 * macs_of(cfg, lengths, form) / dense for form in ("plain", "folded")]
        assert [f"{share:.1f}" for share in found] == [written, folded]


def test_every_quirk_and_every_setting_of_the_preset_has_a_row_and_the_other_way_round() -> None:
    quirks = [f.name for f in fields(QuirkConfig)]
    assert last_column(README, "| quirk of the original") == quirks
    assert set(last_column(README, "| original (`faithful`)")) == FAITHFUL.keys()


def test_the_passes_run_from_python_as_shown() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(fences(README, "python")[1], names)
    found = names["found"]
    assert found.logits.shape == (4, 5)
    assert found.counts.tolist() == [[46, 32, 22]] * 4


def test_the_three_lines_of_python_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fences(README, "python")[0]
    assert len(lines.splitlines()) == 3
    cfg = lower_values({"dataset": "tiny"})
    model = build("tiny")
    classifier = Classifier(
        model=model.eval(), preprocess=preprocess_of(cfg), class_names=tuple("abcdefghij")
    )
    classifier.save_pretrained(tmp_path / "runs/tour-001/run/best")
    Image.new("RGB", (60, 40), (90, 120, 30)).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    found = ast.literal_eval(capsys.readouterr().out)
    assert len(found) == 5
    assert 0 < found[0][1] <= 1


SMALL = "--model_type tiny --num-workers 0 --device cpu --train_batch_size 8"
SHORT = {"2000": "4", "100": "2", "--preset": f"{SMALL} --preset"}
"""What makes the training of the section on own data quick; its network starts from nothing."""


@pytest.mark.slow
@pytest.mark.tiny
@pytest.mark.usefixtures("alone")
def test_ones_own_pictures_go_through_all_commands_as_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (split, kind) in enumerate(product(("train", "val"), ("cat", "dog"))):
        for picture in range(8):
            path = tmp_path / "pets" / split / kind / f"{picture}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 50), (30 * number, 20 * picture, 200 - 30 * number)).save(path)
    Image.new("RGB", (60, 40), (90, 120, 30)).save(tmp_path / "my_cat.jpg")
    ran = []
    for words in commands():
        if words[: len(UV)] != UV or "runs/pets" not in words:
            continue
        program, *rest = words[len(UV) :]
        if program == "train":
            rest = " ".join(SHORT.get(word, word) for word in rest).split()
        else:
            rest += ["--device", "cpu"] if program == "demo" else []
            rest += ["--num-workers", "0"] if program in ("test", "infer") else []
        importlib.import_module(f"apt_vit.{program}").main(rest)
        ran.append(program)
    assert set(ran) == {"train", "test", "demo", "infer", "export"}
    assert len(ran) >= 8
    assert (tmp_path / "runs/pets/best.onnx").is_file()
    assert (tmp_path / "1_pets_checkpoint.bin").is_file()
    assert list((tmp_path / "demo").glob("*.png"))
    assert "第2层形状" in capsys.readouterr().out
