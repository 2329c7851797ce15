"""The real entries on the embedded data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apt_vit.demo import main as demo
from apt_vit.test import main as evaluate
from apt_vit.train import main as train


@pytest.mark.tiny
def test_the_tour_beats_the_constant_answer_and_its_model_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--output", str(tmp_path / "run"), "--device", "cpu"]
    train(folder)
    constant, trained = json.loads((tmp_path / "run" / "table.json").read_text())
    assert trained["accuracy"] > constant["accuracy"] + 0.3
    capsys.readouterr()
    evaluate(folder)
    assert "accuracy" in capsys.readouterr().out
    demo(folder)
    assert capsys.readouterr().out.count("ring") == 4


@pytest.mark.tiny
def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "run"), "--max-steps", "3", "--device", "cpu"]
    train(arguments)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(SystemExit) as end:
        train(arguments)
    assert end.value.code == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
