"""A run of ours goes on from a checkpoint of the original: its next losses are the recorded ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from expansionnet.config import DataConfig, RunOptions
from expansionnet.files.original import CheckpointName
from expansionnet.train import train
from testing.parity import Folder, of_kind

from .recorded import beside
from .recorded_training import config


@pytest.mark.parity
@of_kind("train_xe")
def test_a_run_goes_on_from_the_recorded_checkpoint_under_its_own_name(
    folder: Folder, tmp_path: Path
) -> None:
    facts, resume = folder.facts, folder.json("resume*.json")
    saves = tmp_path / "saves"
    saves.mkdir()
    name = facts["original_checkpoint_file_name"]
    assert CheckpointName.parse(name) is not None
    shutil.copy(folder.file(facts["checkpoint"]), saves / name)
    recorded = config(folder)
    first, count = resume["start_iteration"], facts["num_resume_iterations"]
    cfg = replace(
        recorded,
        optim=replace(recorded.optim, num_epochs=first + count),  # enough in any case
        data=DataConfig(
            captions_path=str(beside(folder, facts["dataset"])),
            images_path=str(folder.path),
            features_path=str(beside(folder, facts["features_file"])),
            dict_min_occurrences=facts["min_occurrences"],
            batch_size=folder.json("expected*.json")["args"]["batch_size"],
            workers=0,
        ),
        run=RunOptions(
            output=str(tmp_path / "run"),
            save_path=str(saves),
            preset="faithful",
            device="cpu",
            print_every_iter=1,
            max_steps=first + count,
        ),
    )
    train(cfg)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "train/loss" in line]
    assert len(found) == count
    for line, (it, loss, rate) in zip(found, resume["iteration_loss_lr"], strict=True):
        assert line["step"] == it + 1
        assert line["train/loss"] == pytest.approx(loss, abs=folder.tolerance["loss_abs"])
        assert line["train/learning_rate"] == pytest.approx(rate, rel=folder.tolerance["lr_rel"])
