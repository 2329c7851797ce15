"""The list of the original's features is true: the command of every row does what it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from apt_vit.cli import ORIGINAL
from testing.documents import features

from .commands import PROJECT, Documented

EVERY = features(PROJECT)
FEATURES = [feature for feature in EVERY if feature["status"] != "not yet available"]


@pytest.fixture(scope="module")
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


def test_the_list_names_every_kind_of_feature() -> None:
    said = " ".join(f"{feature['claim']} {feature['command']}" for feature in EVERY)
    for word in (
        *("train.py", "infer.py", "CIFAR-10", "CIFAR-100", "data_utils.py", "TensorBoard", "72 in 3 parts"),
        *("Three streams", "rewarded", "less computing", "500 tokens", "Memory pools", "ViT-B_16"),
    ):
        assert word in said
    shown = {
        "seed",
        "img_size",
        "eval_batch_size",
        "weight_decay",
        "num_steps",
        "max_grad_norm",
        "loss_scale",
    }
    assert {name for name in ORIGINAL if f"--{name}" not in said} == shown  # as any trainer has them
    assert {f["claim"][:6] for f in EVERY if f["command"] == "none"} == {"Sequen", "Memory"}


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature["claim"])
def test_the_command_of_a_feature_is_understood(
    feature: dict[str, Any], documented: Documented, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(PROJECT)
    assert documented.understood(shlex.split(feature["command"]))
    assert not (tmp_path / "runs").exists()
