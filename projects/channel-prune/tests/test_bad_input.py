"""Mistakes of a user: one line that names the thing, exit code 2, and nothing that was there is touched."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from channel_prune import job, train
from channel_prune import test as evaluation
from channel_prune.lowering import lower_values
from channel_prune.model.resnet_v2 import ResNetV2
from prunelab.checkpoint import listed, verify
from prunelab.util import read_json
from testing.killing import Killer
from testing.mistakes import Fails, begun, cut, fill_disk, snapshot

from .conftest import Finished, words

Values = Callable[..., dict[str, Any]]


@pytest.fixture
def own(values: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The values of a full training, with a copy of the data set that a test may damage."""
    data = shutil.copytree(values["data_dir"], tmp_path / "data")
    return values | {"data_dir": str(data), "output": str(tmp_path / "run")}


# Data


def test_a_missing_data_set_is_named(own: dict[str, Any], fails: Fails, tmp_path: Path) -> None:
    fails(
        train.main,
        words(own | {"data_dir": "/nowhere/cifar"}),
        "data_dir '/nowhere/cifar': no such folder, expected the pictures of cifar10",
    )
    shutil.rmtree(Path(own["data_dir"]) / "cifar-10-batches-bin")
    fails(train.main, words(own), "data: no CIFAR-10 in it")
    assert not begun(tmp_path / "run")


def test_a_damaged_data_set_is_named_before_anything_is_trained(
    own: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    file = Path(own["data_dir"]) / "cifar-10-batches-bin/data_batch_2.bin"
    whole = file.read_bytes()
    cut(file)
    fails(train.main, words(own), r"data_batch_2.bin: ")
    file.write_bytes(b"\x0b" + whole[1:])
    fails(train.main, words(own), r"data_batch_2.bin: .*0 to 9")
    assert not begun(tmp_path / "run")
    file.write_bytes(whole)
    train.main(words(own))  # the folder was left free


def test_a_batch_that_is_never_full_is_refused(own: dict[str, Any], fails: Fails, tmp_path: Path) -> None:
    fails(
        train.main,
        words(own | {"batch_size": 91}),
        "batch_size is 91 in each of 1 processes, but the training set has 90 pictures",
    )
    fails(train.main, words(own | {"nb_classes": 7}), "nb_classes is 7, expected 10: .*data has 10 classes")
    assert not begun(tmp_path / "run")


# Networks


def test_a_missing_full_network_is_told_with_what_to_do(
    pruning: Values, fails: Fails, tmp_path: Path
) -> None:
    more = pruning(tmp_path / "run") | {"save_path": str(tmp_path / "models/model.ckpt")}
    said = fails(train.main, words(more), "models: no full network there; train one with --learner=full-prec")
    assert "--weights" in said
    (tmp_path / "models").mkdir()
    fails(train.main, words(more), "models: no network there, expected a model folder, a run")
    assert not begun(tmp_path / "run/choose")


def test_a_network_of_another_size_is_told_with_its_first_difference(
    pruning: Values, fails: Fails, tmp_path: Path
) -> None:
    said = fails(
        train.main,
        words(pruning(tmp_path / "run", name="resnet_v2")),
        r"last: a network with name tiny, expected resnet_v2 as configured",
    )
    assert not begun(tmp_path / "run/choose"), said


def test_a_teacher_must_be_there(pruning: Values, fails: Fails, tmp_path: Path) -> None:
    more = pruning(tmp_path / "run") | {"enbl_dst": True, "learner": "full-prec"}
    more |= {"save_path": str(tmp_path / "models/model.ckpt")}
    fails(train.main, words(more), "models: no teacher there, which enbl_dst needs")
    assert not begun(tmp_path / "run")


@pytest.mark.parametrize("command", [train.main, evaluation.main])
def test_an_evaluation_of_nothing_is_refused(
    command: Callable[[list[str]], None], values: dict[str, Any], fails: Fails, tmp_path: Path
) -> None:
    more = values | {"exec_mode": "eval", "save_path": str(tmp_path / "models/model.ckpt")}
    fails(command, words(more), "models: no network there; expected a trained one, or --weights")


def test_a_warm_start_needs_a_choice(pruning: Values, fails: Fails, tmp_path: Path) -> None:
    more = pruning(tmp_path / "run", warm_start=True, save_path_ws=str(tmp_path / "ws/model.ckpt"))
    fails(train.main, words(more), "ws: no network there")
    assert not begun(tmp_path / "run/finetune")


# Ratios and names


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prune_ratio": 1}, r"prune_ratio is 1.0, expected 0 <= prune_ratio < 1"),
        ({"prune_ratio": -0.1}, r"prune_ratio is -0.1, expected 0 <="),
        ({"ratio_list": (0.5, 1.5)}, r"ratio_list\[1\] is 1.5, expected 0 <="),
        ({"ratio_list": (0.5, 0.5)}, "ratio_list has 2 ratios, expected 10, one for each of conv, stages"),
        ({"skip_op_names": "conv2d_77"}, "skip_op_names: 'conv2d_77' is in the name of no layer; they are"),
    ],
)
def test_a_ratio_or_a_name_that_fits_no_layer_is_refused(
    wrong: dict[str, Any], said: str, pruning: Values, fails: Fails, tmp_path: Path
) -> None:
    fails(train.main, words(pruning(tmp_path / "run") | wrong), said)
    assert not begun(tmp_path / "run/choose")


@pytest.mark.filterwarnings("default")
def test_a_layer_keeps_a_channel_whatever_the_ratio_and_says_so(
    pruning: Values, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.train(lower_values(pruning(tmp_path / "run", prune_ratio=0.99, max_steps=1)))
    told = capsys.readouterr().out
    assert "warning: stages.0.0.conv1: a ratio of 0.99 would leave 0 of 4 channels; 1 stay" in told
    records = read_json(tmp_path / "run/choose/choice.json")["records"]
    assert {len(record["kept"]) for record in records[1:]} == {1}


def test_a_network_that_cannot_be_followed_is_pruned_but_not_made_slim_and_told_where(
    pruning: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = ResNetV2.forward

    def branching(self: ResNetV2, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x if x.sum() > -1e9 else -x)

    monkeypatch.setattr(ResNetV2, "forward", branching)
    run = train.train(lower_values(pruning(tmp_path / "run", max_steps=1)))
    told = capsys.readouterr().out
    assert re.search(r"warning: ResNetV2.*values of a tensor.*; channels get weights of zero, but no", told)
    assert re.search(r"no slim network: ResNetV2", told)
    assert not (run / "slim").exists()
    assert [row["model"] for row in read_json(run / "summary.json")["rows"]][-1] == "pruned"


# Runs


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(
    pruning: Values, pruned: Finished, full: Finished, values: dict[str, Any], fails: Fails
) -> None:
    before = snapshot(pruned(), full())
    fails(train.main, words(pruning(pruned())), r"choose: already holds a run .*expected --resume or another")
    fails(train.main, words(values | {"output": str(full())}), "run: already holds a run .*expected --resume")
    assert snapshot(pruned(), full()) == before


def test_an_interrupted_choice_is_not_begun_anew_unasked(
    pruning: Values, full: Finished, killer: Killer, fails: Fails, tmp_path: Path
) -> None:
    full()
    more = pruning(tmp_path / "run")
    killer.arm(25)
    with pytest.raises(killer.Killed):
        train.train(lower_values(more), quiet=True)
    killer.arm(0)
    once = tmp_path / "run/choose/once"
    assert list(once.glob("layer*"))
    before = snapshot(once)
    fails(train.main, words(more), r"choose: already holds a run \(once\); expected --resume")
    assert snapshot(once) == before
    train.main(words(more | {"resume": True}))
    assert (tmp_path / "run/slim/config.json").is_file()


def test_a_checkpoint_of_another_network_is_told(
    values: dict[str, Any], full: Finished, fails: Fails, tmp_path: Path
) -> None:
    shutil.copytree(full(), tmp_path / "run")
    more = values | {"width_divisor": 4, "output": str(tmp_path / "run"), "resume": True, "nb_iters": 9}
    before = snapshot(tmp_path / "run/checkpoints")
    fails(train.main, words(more), r"checkpoint's model is of another model: shapes: conv.weight is \(4, 3")
    assert snapshot(tmp_path / "run/checkpoints") == before


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    pruning: Values, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    more = pruning(run)
    train.train(lower_values(more | {"max_steps": 2}), quiet=True)
    with monkeypatch.context() as patch:
        fill_disk(patch, at=1)
        fails(train.main, words(more | {"resume": True}), "No space left on device")
    kept = listed(run / "finetune/checkpoints")
    assert [path.name for path in kept] == ["step-000002"]
    assert verify(kept[0]) is None
    train.main(words(more | {"resume": True}))
    assert (run / "finetune/finished.json").is_file()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(
    pruning: Values, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    more = pruning(run)
    train.train(lower_values(more | {"max_steps": 3}), quiet=True)
    before = snapshot(run / "finetune/checkpoints", run / "finetune/last")
    with monkeypatch.context() as patch:
        patch.setattr(job, "on_device", lambda x, *_, **__: x.fill_(float("nan")))
        said = fails(train.main, words(more | {"resume": True}), r"gradient is nan in \d+ of \d+ parameters")
    kept = re.search(r"the batch is kept in (\S+)", said)
    assert kept is not None
    assert (Path(kept[1]) / "tensors.safetensors").is_file()
    assert snapshot(run / "finetune/checkpoints", run / "finetune/last") == before
    train.main(words(more | {"resume": True}))
    assert (run / "finetune/finished.json").is_file()
