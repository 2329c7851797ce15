"""Checkpoint files of the original: names, content, which of them remain, and how a run goes on from one."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from datetime import datetime, timedelta
from numbers import Number
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expansionnet.config import OptimConfig
from expansionnet.files import original
from expansionnet.files.original import CheckpointName, LoaderState, find_newest, write_checkpoint
from expansionnet.learning import schedules
from expansionnet.learning.schedules import make_schedule
from expansionnet.model import ExpansionNet, build
from expansionnet.steps import make_optimizer
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

from ..recorded import load_model
from ..small import captioner, same

OPTIM = OptimConfig(optim_type="radam", lr=1e-2, warmup_iters=2)
STOOD = LoaderState(epoch=1, batch=3, batch_size=6, seeds=(0.25, 0.5))


def trained(model: ExpansionNet, updates: int = 7) -> tuple[Any, Any]:
    """Optimiser and schedule after some updates of a model."""
    optimizer = make_optimizer(model, OPTIM)
    schedule = make_schedule(optimizer, OPTIM, batches_per_epoch=4)
    for _ in range(updates):
        schedule.step()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return optimizer, schedule


def write(folder: Path, model: ExpansionNet, **options: Any) -> Path:
    known: dict[str, Any] = {"reinforce": False, "keep": 3}
    return write_checkpoint(folder, model, *trained(model), options.pop("loader", STOOD), **known | options)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint_2024-01-31-09:05:07_epoch2it12bs6_xe_.pth",
        "checkpoint_2024-01-31-09-05-07_epoch2it12bs6_rf_.pth",
    ],
)
def test_names_are_read_with_colons_and_written_with_hyphens(name: str) -> None:
    found = CheckpointName.parse(name)
    assert found is not None
    assert found.written == datetime(2024, 1, 31, 9, 5, 7)
    assert (found.epoch, found.batch, found.batch_size, found.kind) == (2, 12, 6, name[-7:-5])
    assert str(found) == name.replace(":", "-")
    assert CheckpointName.parse(str(found)) == found


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint_.pth",
        "checkpoint_best_of_all_my_runs_.pth",
        "checkpoint_2024-13-31-09-05-07_epoch2it12bs6_xe_.pth",
        "checkpoint_2024-01-31-09-05-07_epoch2it12bs6_xe_.pth.tmp",
        "checkpoint_2024-01-31-09-05-07_epoch2it12_xe_.pth",
        "phase2_2024-01-31-09-05-07_epoch2it12bs6_xe_.pth",
    ],
)
def test_foreign_names_are_no_checkpoints(name: str, tmp_path: Path) -> None:
    assert CheckpointName.parse(name) is None
    (tmp_path / name).write_bytes(b"")
    assert find_newest(tmp_path) is None


def test_the_newest_is_told_by_the_time_in_its_name(tmp_path: Path) -> None:
    names = [
        "checkpoint_2024-02-01-00:00:00_epoch0it1bs6_xe_.pth",
        "checkpoint_2024-01-31-23-59-59_epoch9it9bs6_rf_.pth",
        "checkpoint_2023-12-31-23-59-59_epoch9it9bs6_xe_.pth",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert find_newest(tmp_path) == tmp_path / names[0]
    assert [file.name for file in original.checkpoints(tmp_path)] == names[::-1]
    assert find_newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("keep", [1, 2])
def test_as_many_checkpoints_remain_as_are_wanted(keep: int, tmp_path: Path) -> None:
    model, start = captioner().model, datetime(2024, 1, 1)
    (tmp_path / "checkpoint_mine.pth").write_bytes(b"")
    for name in range(4):  # more than the original would ever delete
        when = start - timedelta(days=name + 1)
        old = CheckpointName(written=when, epoch=0, batch=name, batch_size=6, kind="xe")
        (tmp_path / str(old)).write_bytes(b"")
    other = CheckpointName(written=start - timedelta(days=9), epoch=0, batch=1, batch_size=6, kind="rf")
    (tmp_path / str(other)).write_bytes(b"")
    written = [write(tmp_path, model, keep=keep, written=start + timedelta(seconds=n)) for n in range(2)]
    first, *kept = original.checkpoints(tmp_path)
    assert first.name == str(other)  # of another phase
    assert kept[-1] == written[-1]
    assert len(kept) == keep
    assert (tmp_path / "checkpoint_mine.pth").is_file()


@pytest.mark.parametrize("end_to_end", [False, True])
def test_a_run_goes_on_with_all_that_was_written(end_to_end: bool, tmp_path: Path) -> None:
    model = captioner(end_to_end=end_to_end).model
    optimizer, schedule = trained(model)
    path = write_checkpoint(tmp_path, model, optimizer, schedule, STOOD, reinforce=True, keep=1)
    fresh = build(model.cfg)
    found = original.resume(path, fresh, reinforce=True, batch_size=6, optim_type="radam")
    assert same(fresh, model)
    assert found.loader == STOOD
    assert found.loader.micro_batches(10) == 13
    assert found.optimizer is not None
    assert found.schedule is not None
    again = make_optimizer(fresh, OPTIM)
    again.load_state_dict(found.optimizer)
    for place, state in optimizer.state_dict()["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(again.state_dict()["state"][place][k]))
            for k, v in state.items()
        )
    assert found.schedule["count"] == schedule.count
    assert "epoch 1, 3 batches" in found.line


@pytest.mark.parametrize(
    ("written", "batch_size", "reason"),
    [("xe", 6, "it was trained by cross entropy"), ("rf", 5, "its batches are of 6 samples, here of 5")],
)
def test_another_training_begins_anew_with_the_weights(
    written: str, batch_size: int, reason: str, tmp_path: Path
) -> None:
    model = captioner().model
    path = write(tmp_path, model, reinforce=written == "rf")
    fresh = build(model.cfg)
    found = original.resume(path, fresh, reinforce=True, batch_size=batch_size, optim_type="radam")
    assert same(fresh, model)
    assert found.optimizer is None
    assert found.schedule is None
    assert found.loader == LoaderState(batch_size=batch_size, seeds=STOOD.seeds)
    assert reason in found.line


def test_what_cannot_be_gone_on_from_is_one_line(tmp_path: Path) -> None:
    model = captioner().model
    original.write_model(tmp_path / "rf_model.pth", model)
    with pytest.raises(
        UserError, match=r"rf_model.pth: weights of the original: .* expected a checkpoint to go"
    ):
        original.resume(tmp_path / "rf_model.pth", model, reinforce=False, batch_size=6, optim_type="radam")
    path = write(tmp_path, model)
    with pytest.raises(UserError, match=r"weights of another model: .*vocab_linear.weight"):
        original.resume(
            path, captioner(vocab_size=9).model, reinforce=False, batch_size=6, optim_type="radam"
        )
    for key, message in (
        (original.LOADER, "expected epoch_it"),
        (original.OPTIMIZER, "not what the original"),
    ):
        content = torch.load(path, weights_only=True)
        torch.save(content | {key: {"epoch_it": 1, "param_groups": 3}}, tmp_path / "odd.pth")
        with pytest.raises(UserError, match=message):
            original.resume(tmp_path / "odd.pth", model, reinforce=False, batch_size=6, optim_type="radam")
    with pytest.raises(UserError, match="optim_type is adam, expected radam, with which"):
        original.resume(path, model, reinforce=False, batch_size=6, optim_type="adam")
    content = torch.load(path, weights_only=True)
    content[original.OPTIMIZER]["param_groups"][0]["params"].pop()
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"the optimiser has .* parameters, 0 of them of other shapes"):
        original.resume(tmp_path / "odd.pth", model, reinforce=False, batch_size=6, optim_type="radam")


# -------------------------------------------------------------------------------------------------- recorded


def alike(ours: Any, theirs: Any, where: str = "") -> None:
    """The same types, keys and their order, shapes, and all that is no weight."""
    if isinstance(theirs, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
    elif isinstance(theirs, dict | OrderedDict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            alike(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs), where
        assert len(ours) == len(theirs), where
        for place, value in enumerate(theirs):
            alike(ours[place], value, f"{where}[{place}]")
    elif isinstance(theirs, Number):
        assert ours == pytest.approx(theirs), where
    else:
        assert ours == theirs, where


@pytest.mark.parity
@of_kind("train_xe")
def test_a_recorded_checkpoint_is_read_and_written_as_it_was(folder: Folder, tmp_path: Path) -> None:
    facts, args = folder.facts, folder.json("expected.json")["args"]
    name, resume = facts["original_checkpoint_file_name"], folder.json("resume.json")
    shutil.copy(folder.path / facts["checkpoint"], tmp_path / name)
    recorded = folder.weights(facts["checkpoint"])
    path = find_newest(tmp_path)
    assert path == tmp_path / name
    model = load_model(folder, facts["initial"])
    found = original.resume(
        path, model, reinforce=False, batch_size=args["batch_size"], optim_type=facts["optimizer"]["type"]
    )
    assert found.optimizer is not None
    assert found.schedule is not None
    per_epoch = folder.json("expected.json")["num_batches"]
    assert found.loader.micro_batches(per_epoch) == resume["start_iteration"]
    named = CheckpointName.parse(name)
    assert named is not None
    assert (named.epoch, named.batch) == (found.loader.epoch, found.loader.batch)
    assert (named.batch_size, named.kind) == (found.loader.batch_size, resume["info"][1])
    keys = ("lr", "min_lr", "warmup_iters", "anneal_coeff", "anneal_every_epoch")
    cfg = OptimConfig(
        optim_type=facts["optimizer"]["type"],
        sched_type=facts["sched_type"],
        **{key: args[key] for key in keys},
    )
    optimizer = make_optimizer(model, cfg)
    optimizer.load_state_dict(found.optimizer)
    schedule = make_schedule(optimizer, cfg, per_epoch)
    schedule.load_state_dict(found.schedule)
    written = write_checkpoint(
        tmp_path / "out", model, optimizer, schedule, found.loader, reinforce=False, keep=1
    )
    ours = torch.load(written, weights_only=True)
    alike(ours, recorded)
    for key, value in recorded["model_state_dict"].items():
        assert torch.equal(ours["model_state_dict"][key], value)
    assert schedules.to_original(schedule) == ours["scheduler_state_dict"]


@pytest.mark.parity
@of_kind("e2e_tiny")
def test_a_recorded_end_to_end_state_is_written_with_its_constants(folder: Folder, tmp_path: Path) -> None:
    recorded = folder.weights(folder.facts["files"]["checkpoint"])["model_state_dict"]
    original.write_model(tmp_path / "model.pth", load_model(folder))
    ours = torch.load(tmp_path / "model.pth", weights_only=True)["model_state_dict"]
    assert list(ours) == list(recorded)
    for name, value in recorded.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value)
