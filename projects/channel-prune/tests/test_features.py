"""The list of the original's features is true: the command of every row does what it says."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from testing.documents import features

from .commands import PROJECT, Documented

FEATURES = features(PROJECT)
FLAGS = (
    *("cpr_save_path", "cpr_save_path_eval", "cpr_save_path_ws", "cpr_prune_ratio", "cpr_skip_frst_layer"),
    *("cpr_skip_last_layer", "cpr_skip_op_names", "cpr_nb_smpls", "cpr_nb_crops_per_smpl"),
    *("cpr_ista_lrn_rate", "cpr_ista_nb_iters", "cpr_lstsq_lrn_rate", "cpr_lstsq_nb_iters", "cpr_warm_start"),
)
"""The original's README lists these as all of its learner's."""


@pytest.fixture(scope="module")
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


def test_the_list_names_every_flag_and_every_kind_of_feature() -> None:
    assert {feature["status"] for feature in FEATURES} == {"available", "in part"}
    said = " ".join(f"{feature['claim']} {feature['command']}" for feature in FEATURES)
    for word in (
        *FLAGS,
        *("ResNet-20", "ResNet-18", "MobileNet-v1", "SSD-VGG16", "CIFAR-10", "ILSVRC-12", "Pascal VOC 07+12"),
        *("Local", "Docker", "Seven", "distillation", "reinforcement", "TensorFlow Lite", "FLOPs"),
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
