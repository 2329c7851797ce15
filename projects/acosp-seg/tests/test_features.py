"""The list of the original's features is true: the command of every row does what it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from testing.documents import features

from .commands import PROJECT, Documented

FEATURES = features(PROJECT)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Documented:
    return Documented(tmp_path_factory.mktemp("study"), pytest.MonkeyPatch())


def test_the_list_names_every_kind_of_feature() -> None:
    assert {feature["status"] for feature in FEATURES} == {"available"}
    said = " ".join(f"{feature['claim']} {feature['command']}" for feature in FEATURES)
    for word in (
        *("SoftTopKPruner", "update_mask_layers", "soft_to_hard_k", "unprunable", "pip"),
        *("PSPNet50", "SegNet", "ResNet18", "ade20k", "voc2012", "cityscapes", "camvid", "Cifar10"),
        *("train.sh", "test.sh", "GPU", "tensorboardX", "Visual", "IoU", "16 times", "Performance"),
    ):
        assert word in said


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature["claim"])
def test_the_command_of_a_feature_is_understood(
    feature: dict[str, Any], documented: Documented, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(PROJECT)
    assert documented.understood(shlex.split(feature["command"]))
    assert not (tmp_path / "runs").exists()
