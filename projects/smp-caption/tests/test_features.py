"""The list of the original's features is true: what it says is there is understood, the rest is refused."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.doors import read_yaml
from prunelab.errors import UserError
from smp_caption import cli, train
from smp_caption.lowering import lower
from smp_caption.model import build
from smp_caption.pruner import mask_spec

PROJECT = Path(__file__).resolve().parents[1]
PREFIX = ["uv", "run", "--package", "smp-caption"]
FEATURES: list[dict[str, Any]] = [
    feature for group in read_yaml(PROJECT / "tests/features.yaml")["groups"] for feature in group["features"]
]
NOT_YET = "not yet available"
THERE = [feature for feature in FEATURES if feature["status"] != NOT_YET]
ABSENT = [feature for feature in FEATURES if feature["status"] == NOT_YET]


def arguments(feature: dict[str, Any]) -> tuple[str, list[str]]:
    """The script of a feature's command, and what follows."""
    words = shlex.split(feature["command"])
    assert words[: len(PREFIX)] == PREFIX
    return words[len(PREFIX)], words[len(PREFIX) + 1 :]


def refusal(words: list[str]) -> None:
    """What `train` checks of a configuration, and its model, before it reads any data."""
    cfg = lower(cli.parse_train(words))
    train._check_available(cfg)
    with torch.device("meta"):
        build(cfg.model, mask_spec(cfg.model, cfg.prune))


def test_the_list_names_every_kind_of_feature() -> None:
    assert {feature["status"] for feature in FEATURES} == {"available", "in part", NOT_YET}
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


@pytest.mark.parametrize("feature", THERE, ids=lambda feature: feature["claim"])
def test_what_is_there_is_understood(
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
    else:
        importlib.import_module(f"smp_caption.{script}").main([*words, "--dry-run"])
        assert capsys.readouterr().out
    if script == "train":
        refusal(words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("feature", ABSENT, ids=lambda feature: feature["claim"])
def test_what_is_not_yet_there_is_refused_in_one_line_that_says_so(feature: dict[str, Any]) -> None:
    script, words = arguments(feature)
    assert script == "train"
    with pytest.raises(UserError, match="is not available") as caught:
        refusal(words)
    assert "\n" not in str(caught.value)
