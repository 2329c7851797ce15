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
def documented() -> Documented:
    return Documented(pytest.MonkeyPatch())


def test_the_list_names_every_kind_of_feature() -> None:
    assert {feature["status"] for feature in FEATURES} == {"available", "in part"}
    said = " ".join(f"{feature['claim']} {feature['command']}" for feature in FEATURES)
    for word in (
        *(f"phase{number}.sh" for number in range(1, 7)),
        *("demo.py", "data_generator.py", "test.py", "convert2onnx.py", "onnx2tensorrt.py", "fp16"),
        *("SacreEOS", "server", "Karpathy", "Ensemble", "TensorRT", "METEOR", "SPICE", "--num_accum"),
        *("--how_many_checkpoints", "--warmup", "--is_end_to_end", "--onnx_simplify", "--num_gpus"),
    ):
        assert word in said


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature["claim"])
def test_the_command_of_a_feature_is_understood(
    feature: dict[str, Any], documented: Documented, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(PROJECT)
    assert documented.understood(shlex.split(feature["command"]))
    assert not (tmp_path / "runs").exists()
