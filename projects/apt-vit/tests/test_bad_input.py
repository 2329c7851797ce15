"""Mistakes of a user: one line that names the thing, exit code 2, and nothing that was there is touched."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_vit import job, train
from apt_vit import test as evaluation
from apt_vit.lowering import lower_values
from prunelab.checkpoint import listed, verify
from testing.mistakes import Fails, begun, cut, fill_disk, snapshot

from .conftest import Finished, words

Values = Callable[..., dict[str, Any]]


@pytest.fixture
def own(valued: Values, tmp_path: Path) -> dict[str, Any]:
    """The values of a run, with a copy of the data set that a test may damage."""
    values = valued(tmp_path / "run")
    return values | {"data_dir": str(shutil.copytree(values["data_dir"], tmp_path / "data"))}


# Data


def test_a_missing_data_set_is_named(own: dict[str, Any], fails: Fails, tmp_path: Path) -> None:
    shutil.rmtree(Path(own["data_dir"]))
    fails(train.main, words(own), "data_dir '.*data': no CIFAR-10 in it, expected")
    fails(
        train.main, words(own | {"dataset": "folder", "num_classes": 2}), "data_dir '.*data': no such folder"
    )
    assert not begun(tmp_path / "run")


def test_a_damaged_data_set_is_named_before_anything_is_trained(
    own: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    file = next(Path(own["data_dir"]).rglob("data_batch_2*"))
    cut(file)
    fails(train.main, words(own), rf"{file.name}: ")
    assert not begun(tmp_path / "run")


def test_classes_and_sizes_that_do_not_fit_are_told(
    own: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    fails(train.main, words(own | {"num_classes": 7}), "num_classes is 7, expected 10")
    fails(train.main, words(own | {"img_size": (18, 18)}), r"img_size is \(18, 18\), expected multiples of")
    fails(
        train.main, words(own | {"clip_layers": (0, 9)}), r"clip_layers is \(0, 9\), expected blocks 0 to 3"
    )
    assert not begun(tmp_path / "run")


# Batches


def test_a_batch_too_small_or_too_large_for_single_actions_is_refused(
    own: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    small = own | {"train_batch_size": 3, "explore_within_batch": True}
    fails(train.main, words(small), "micro-batch of 1 picture, expected at least 2")
    fails(train.main, words(own | {"train_batch_size": 2}), "expected at least the 3 gradient_accumulation")
    assert not begun(tmp_path / "run")


def test_updates_that_never_come_are_refused(own: dict[str, Any], fails: Fails, tmp_path: Path) -> None:
    never = own | {"train_batch_size": 90, "carry_leftovers": True}
    fails(train.main, words(never), "an epoch has 2 micro-batches.*: with carry_leftovers no update is ever")
    assert not begun(tmp_path / "run")


# Networks


def test_weights_that_are_missing_or_of_another_network_are_told(
    own: dict[str, Any], finished: Finished, fails: Fails, tmp_path: Path
) -> None:
    fails(train.main, words(own | {"pretrained_dir": str(tmp_path / "no.npz")}), r"no.npz: no ")
    wider = own | {"hidden_size": 32, "pretrained_dir": str(finished() / "last")}
    fails(train.main, words(wider), r"last: weights of another model: .*cls_token 1x1x16 .* 1x1x32")
    file = tmp_path / "half.bin"
    shutil.copy(finished("faithful") / "1_apt_checkpoint.bin", file)
    cut(file)
    fails(train.main, words(own | {"pretrained_dir": str(file)}), "half.bin: ")
    assert not begun(tmp_path / "run")


def test_an_evaluation_of_nothing_is_refused(fails: Fails, tmp_path: Path) -> None:
    fails(evaluation.main, ["--model", str(tmp_path)], "no network in it, expected a model folder, a run")


# Runs


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(
    preset: str, valued: Values, finished: Finished, fails: Fails
) -> None:
    before = snapshot(finished(preset))
    fails(train.main, words(valued(finished(preset), preset)), r"already holds a run .*expected --resume")
    assert snapshot(finished(preset)) == before


def test_generated_data_do_not_touch_a_folder_that_holds_a_run(
    valued: Values, finished: Finished, fails: Fails
) -> None:
    line = words(valued(finished(), data_dir="nowhere"))
    fails(train.main, [*line, "--fake-data"], "already holds a run")
    assert not (finished() / "fake_data").exists()


def test_a_checkpoint_of_another_network_is_told(
    valued: Values, finished: Finished, fails: Fails, tmp_path: Path
) -> None:
    run = shutil.copytree(finished(), tmp_path / "run")
    more = valued(run, hidden_size=32, resume=True, num_steps=9)
    before = snapshot(run / "checkpoints")
    fails(
        train.main, words(more), r"checkpoint's model is of another model: shapes: .* is \(.*16.*, expected"
    )
    assert snapshot(run / "checkpoints") == before


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    valued: Values, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train.train(lower_values(valued(run, max_steps=3)), quiet=True)
    (step,) = {path.name for path in listed(run / "checkpoints")[-1:]}
    with monkeypatch.context() as patch:
        fill_disk(patch, at=1)
        fails(train.main, words(valued(run, resume=True)), "No space left on device")
    kept = listed(run / "checkpoints")
    assert kept[-1].name == step
    assert verify(kept[-1]) is None
    train.main(words(valued(run, resume=True)))
    assert (run / "finished.json").is_file()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(
    valued: Values, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train.train(lower_values(valued(run, max_steps=3)), quiet=True)
    before = snapshot(run / "checkpoints", run / "last")
    with monkeypatch.context() as patch:
        patch.setattr(job, "on_device", lambda x, *_, **__: torch.full_like(x, float("nan")))
        said = fails(train.main, words(valued(run, resume=True)), r"gradient is nan in \d+ of \d+ parameters")
    kept = re.search(r"the batch is kept in (\S+)", said)
    assert kept is not None
    assert (Path(kept[1]) / "tensors.safetensors").is_file()
    assert snapshot(run / "checkpoints", run / "last") == before
    train.main(words(valued(run, resume=True)))
    assert (run / "finished.json").is_file()
