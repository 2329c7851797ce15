"""A run that was killed and resumed is the run that was not: every file of it, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expansionnet import job, train
from expansionnet.files.original import CheckpointName, checkpoints
from expansionnet.layout import KINDS
from prunelab.checkpoint import listed
from testing import runs
from testing.killing import (
    Killer,
    Run,
    check_killed_again_and_again,
    check_killed_at_stages,
    check_killed_with_workers,
    kill_after_step,
)
from testing.mistakes import snapshot

from .conftest import STILL, Command

pytestmark = pytest.mark.tiny

BRIEF = ("--max-len", "6", "--eval_every_iter")
SHORT = ("--num_epochs", "2", "--batch_size", "6", "--num_accum", "3", *BRIEF, "3")
"""Eight micro-batches of captions, four of pictures; checkpoints fall between updates as well."""


def contents(run: Path) -> dict[str, Any]:
    """All that a run leaves but the original's checkpoints, whose names hold the time."""
    return {name: value for name, value in runs.contents(run).items() if not name.startswith("saves/")}


def begin(kind: str, preset: str, finished: Callable[..., Path]) -> tuple[str, ...]:
    """What training by reward starts from."""
    if not kind.endswith("rf"):
        return ()
    body = finished(kind.replace("rf", "xe"), preset) / "best"
    return ("--partial_load", "True", "--body_save_path", str(body))


@pytest.fixture
def run_of(tmp_path: Path, command: Command, finished: Callable[..., Path]) -> Callable[..., Run]:
    """Gives the short runs of a kind, for the checks of `testing.killing`."""

    def build(kind: str = "xe", preset: str = "fixed", *extra: str) -> Run:
        start = begin(kind, preset, finished)

        def run(folder: str, resume: bool) -> Any:
            again = ["--resume"] if resume else []
            words = command(tmp_path / folder, *SHORT, *start, *extra, *again, kind=kind, preset=preset)
            train.main(words)
            left = contents(tmp_path / folder)
            if resume:  # at night there are many of them
                shutil.rmtree(tmp_path / folder)
            return left

        return run

    return build


@pytest.mark.parametrize(
    ("kind", "preset", "first", "every"),
    [
        # Four runs share the stages of the day between them; at night all meet all.
        *((kind, ("fixed", "faithful")[turn % 2], 1 + 5 * turn, 23) for turn, kind in enumerate(KINDS)),
        *(pytest.param(k, p, 1, 1, marks=pytest.mark.slow) for k in KINDS for p in ("fixed", "faithful")),
    ],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_with_the_same_files(
    kind: str, preset: str, first: int, every: int, killer: Killer, run_of: Callable[..., Run]
) -> None:
    check_killed_at_stages(killer, run_of(kind, preset), first=first, every=every, least=40)


def test_a_run_killed_again_and_again_ends_with_the_same_files(
    killer: Killer, run_of: Callable[..., Run]
) -> None:
    check_killed_again_and_again(killer, run_of(), lambda start: 22 + start % 5 + start // 2)


def test_workers_change_nothing_also_across_a_kill(killer: Killer, run_of: Callable[..., Run]) -> None:
    two, one = (run_of("xe", "fixed", "--workers", count) for count in "21")
    check_killed_with_workers(killer, run_of(), two, resumed=one)


def test_a_finished_run_resumed_makes_no_step_and_changes_nothing(tmp_path: Path, command: Command) -> None:
    train.main(command(tmp_path / "run", *SHORT))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    expected = contents(tmp_path / "run")
    train.main(command(tmp_path / "run", *SHORT, "--resume"))
    assert contents(tmp_path / "run") == expected
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}


def test_a_resumed_run_needs_neither_the_weights_nor_the_captions_that_its_words_came_from(
    tmp_path: Path, command: Command, finished: Callable[..., Path]
) -> None:
    body = tmp_path / "body"
    shutil.copytree(finished("xe") / "best", body)
    start = ("--partial_load", "True", "--body_save_path", str(body))
    train.main(command(tmp_path / "whole", *SHORT, *start, kind="rf"))
    train.main(command(tmp_path / "run", *SHORT, *start, "--max-steps", "2", kind="rf"))
    shutil.rmtree(body)
    train.main(command(tmp_path / "run", *SHORT, *start, "--resume", kind="rf"))
    assert runs.tensors(tmp_path / "run") == runs.tensors(tmp_path / "whole")


def test_validating_more_often_does_not_change_the_weights(tmp_path: Path, command: Command) -> None:
    states = []
    for every in ("1", "100"):
        run = tmp_path / every
        train.main(command(run, *SHORT, "--eval_every_iter", every))
        states.append(runs.tensors(run))
    assert states[0] == states[1]


def test_a_signal_stops_a_run_with_a_checkpoint_and_nothing_is_lost(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main(command(tmp_path / "whole", *SHORT))
    step, calls = train.steps.xe_step, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(train.steps, "xe_step", interrupted)
    train.main(command(tmp_path / "stopped", *SHORT))
    assert [path.name for path in listed(tmp_path / "stopped/checkpoints")] == ["step-000002"]
    train.main(command(tmp_path / "stopped", *SHORT, "--resume"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_two_true_kills_leave_a_run_that_ends_with_the_same_files(
    tmp_path: Path, command: Command, finished: Callable[..., Path]
) -> None:
    start = ("--num_epochs", "12", "--num_accum", "4", *BRIEF, "6", *begin("rf", "fixed", finished))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train.main(command(whole, *start, kind="rf"))
    for number, wanted in enumerate((6, 18)):
        words = command(killed, *start, *(("--resume",) if number else ()), kind="rf")
        kill_after_step("expansionnet.train", words, killed, wanted)
        assert not (killed / "finished.json").exists()
    train.main(command(killed, *start, "--resume", kind="rf"))
    assert contents(killed) == contents(whole)


# ---------------------------------------------------------------------------------------- the original's rule


def test_under_faithful_an_unfinished_run_goes_on_without_a_flag(
    killer: Killer, tmp_path: Path, command: Command, fails: Any
) -> None:
    train.main(command(tmp_path / "whole", *SHORT, preset="faithful"))
    killer.arm(killer.count - 12)
    with pytest.raises(killer.Killed):
        train.main(command(tmp_path / "killed", *SHORT, preset="faithful"))
    killer.arm(0)
    train.main(command(tmp_path / "killed", *SHORT, preset="faithful"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    before = snapshot(tmp_path / "killed")
    fails(train.main, command(tmp_path / "killed", *SHORT, preset="faithful"), "already holds a run")
    assert snapshot(tmp_path / "killed") == before


def saved(run: Path) -> Path:
    """The one checkpoint of the original that a run has left."""
    [file] = checkpoints(run / "saves")
    return file


def test_the_originals_checkpoint_is_gone_on_from_with_all_its_state(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without dropout, since a checkpoint of the original has no random state.
    options = (*SHORT, *STILL.split(), "--how_many_checkpoints", "9", "--optim_type", "radam")
    monkeypatch.setattr(job.Job, "minutes_since_saved", lambda self: 1e9)
    train.main(command(tmp_path / "whole", *options, preset="faithful"))
    files = checkpoints(tmp_path / "whole/saves")
    names = [CheckpointName.parse(file.name) for file in files]
    assert {(name.epoch, name.batch) for name in names if name} <= {(0, 3), (0, 4), (1, 2), (1, 4)}
    middle = next(file for file, name in zip(files, names, strict=True) if name and name.epoch == 0)
    (tmp_path / "run/saves").mkdir(parents=True)
    shutil.copy(middle, tmp_path / "run/saves")
    train.main(command(tmp_path / "run", *options, preset="faithful"))
    assert "goes on from" in (tmp_path / "run/log.txt").read_text()
    ends = [torch.load(checkpoints(tmp_path / run / "saves")[-1]) for run in ("whole", "run")]
    assert ends[0]["scheduler_state_dict"] == ends[1]["scheduler_state_dict"]
    assert ends[0]["data_loader_state_dict"] == ends[1]["data_loader_state_dict"]
    for name, value in ends[0]["model_state_dict"].items():
        torch.testing.assert_close(ends[1]["model_state_dict"][name], value)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    name = CheckpointName.parse(middle.name)
    assert name is not None
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(name.batch + 1, 9))


def test_after_cross_entropy_training_by_reward_takes_the_newest_checkpoints_weights_alone(
    tmp_path: Path, command: Command, finished: Callable[..., Path]
) -> None:
    (tmp_path / "run/saves").mkdir(parents=True)
    shutil.copy(saved(finished("xe", "faithful")), tmp_path / "run/saves")
    train.main(command(tmp_path / "run", "--max-steps", "1", "--lr", "1e-9", kind="rf", preset="faithful"))
    log = (tmp_path / "run/log.txt").read_text()
    assert "it was trained by cross entropy" in log
    assert "step 1/1" in log
    ours = torch.load(checkpoints(tmp_path / "run/saves")[-1])["model_state_dict"]
    theirs = torch.load(saved(finished("xe", "faithful")))["model_state_dict"]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)


def test_another_batch_size_begins_the_data_anew(
    tmp_path: Path, command: Command, finished: Callable[..., Path]
) -> None:
    (tmp_path / "run/saves").mkdir(parents=True)
    shutil.copy(saved(finished("xe", "faithful")), tmp_path / "run/saves")
    words = ("--batch_size", "6", "--max-steps", "1")
    train.main(command(tmp_path / "run", *words, preset="faithful"))
    assert "its batches are of 4 samples, here of 6" in (tmp_path / "run/log.txt").read_text()
