"""The list of the original's features is true: every command in it is understood and builds its model."""

from __future__ import annotations

import importlib
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.doors import read_yaml
from smp_caption import cli
from smp_caption.lowering import lower
from smp_caption.model import build
from smp_caption.pruner import mask_spec

PROJECT = Path(__file__).resolve().parents[1]
PREFIX = ["uv", "run", "--package", "smp-caption"]
FEATURES: list[dict[str, Any]] = [
    feature for group in read_yaml(PROJECT / "tests/features.yaml")["groups"] for feature in group["features"]
]


def arguments(feature: dict[str, Any]) -> tuple[str, list[str]]:
    """The script of a feature's command, and what follows."""
    words = shlex.split(feature["command"])
    assert words[: len(PREFIX)] == PREFIX
    return words[len(PREFIX)], words[len(PREFIX) + 1 :]


def module_of(script: str) -> str:
    """The module and function behind a script: ``smp_caption.train:main``."""
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    target = scripts[script]
    return f"smp_caption.{script.replace('-', '_')}:main" if target.startswith("prunelab.launch") else target


def builds(words: list[str]) -> None:
    """Whether the network of a command line can be built."""
    cfg = lower(cli.parse_train(words))
    with torch.device("meta"):
        network = build(cfg.model, mask_spec(cfg.model, cfg.prune))
    assert sum(p.numel() for p in network.parameters()) > 1e6


def test_the_list_names_every_kind_of_feature() -> None:
    assert {feature["status"] for feature in FEATURES} == {"available"}
    said = " ".join(feature["claim"] for feature in FEATURES)
    for word in (
        "Up-Down",
        "ORT",
        "ACORT",
        "SMP",
        "SNIP",
        "Lottery",
        "Gradual",
        "One-shot",
        "baseline",
        "BLEU",
    ):
        assert word in said
    for word in (
        "cached",
        "cache_min_free_ram",
        "Incremental",
        "metrics",
        "Radix",
        "BPE",
        "MS-COCO",
        "Flickr",
    ):
        assert word in said


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature["claim"])
def test_commands_of_features_are_understood(
    feature: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    script, words = arguments(feature)
    if "--config" in words:
        at = words.index("--config") + 1
        words[at] = str(PROJECT / words[at])
    monkeypatch.chdir(tmp_path)
    if script == "convert":
        options = cli.parse_convert(words)
        assert (options.source, options.destination) == tuple(words)
    elif script == "export":
        assert cli.parse_export(words).model == words[0]
    else:
        module, _, function = module_of(script).partition(":")
        getattr(importlib.import_module(module), function)([*words, "--dry-run"])
        assert capsys.readouterr().out
    if script == "train":
        builds(words)
    assert list(tmp_path.iterdir()) == []
