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

from prunelab import checkpoint
from prunelab.checkpoint import listed
from prunelab.util import atomic_write
from smp_caption import finish, train
from smp_caption.files import original
from testing import runs
from testing.killing import Killed, Killer, kill_after_step
from testing.mistakes import Fails

pytestmark = pytest.mark.tiny

SHORT = ("--max_epochs", "2", "--batch_size", "6", "--save_checkpoint_every", "3", "--max_seq_length", "5")
"""Four steps, two validations with checkpoints: in the middle of the second epoch and at the end."""


def contents(run: Path) -> dict[str, Any]:
    """All that a run leaves, to be compared with what another one left."""
    return runs.contents(run, {"optimizer_": moments, original.CONFIG: settings})


def settings(path: Path) -> dict[str, Any]:
    """The original's configuration without the time at which the run began."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "datetime"}


def moments(path: Path) -> tuple[Any, dict[int, dict[str, Any]]]:
    """What is in an optimiser's file; its bytes also tell which names were one object in memory."""
    content = torch.load(path, weights_only=True)
    state = {
        number: {name: (value.dtype, value.tolist()) for name, value in of_one.items()}
        for number, of_one in content["state"].items()
    }
    return content["param_groups"], state


def copied(source: Path, target: Path, **_: object) -> None:
    """Stands for packing: a file that is a function of the weights, written in one go."""
    with atomic_write(target) as file:
        file.write((source / "model.safetensors").read_bytes())


GRADUAL = ("--max_epochs", "4", "--prune_type", "mag_grad_uniform", "--prune_gradual_frequency", "1")
"""Eight steps, of which the 3rd and the 4th prune: after a checkpoint, and before the next."""
BY_REWARD = ("--scst_start_epoch", "1", "--scst_num_samples", "2")
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "dense": ({"preset": "faithful"}, ()),
    "supermask": ({"model": "ort", "pruned": True, "preset": "faithful"}, ()),
    "gradual": ({"model": "acort", "pruned": True}, (*GRADUAL, "--max_seq_length", "7")),
    "snip": ({"pruned": True}, ("--prune_type", "snip", "--prune_snip_grad_accum", "2")),
    "rewards": ({"model": "transformer"}, BY_REWARD),
}
"""What a kind of run is, and its words besides `SHORT`."""
CHOSEN = {"dense": 31, "supermask": 26, "gradual": 37, "snip": 17, "rewards": 19}
"""By default a run is killed at each stage whose number is a multiple of this."""


@pytest.mark.parametrize(
    ("kind", "every"),
    [*CHOSEN.items(), *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS)],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_with_the_same_files(
    kind: str,
    every: int,
    killer: Killer,
    tmp_path: Path,
    command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finish, "pack", copied)  # packing is half the time of so short a run
    settings, extra = KINDS[kind]

    def words(folder: str, *more: str) -> list[str]:
        return command(tmp_path / folder, *SHORT, *extra, *more, **settings)

    train.main(words("whole"))
    expected, stages = contents(tmp_path / "whole"), killer.count
    assert stages > 60
    for at in range(every, stages + 1, every):
        killer.arm(at)
        with pytest.raises(killer.Killed):
            train.main(words(str(at)))
        killer.arm(0)
        train.main(words(str(at), "--resume"))
        assert contents(tmp_path / str(at)) == expected, f"killed at stage {at} of {stages}"


@pytest.mark.parametrize(
    ("kind", "stage", "number"),
    [
        ("snip", "step", 1),  # masks were made from gradients, and nothing is saved yet
        ("gradual", "border", 4),  # masks were made anew after the last checkpoint
        ("rewards", "epoch", 2),  # cross entropy is over
        ("rewards", "step", 4),  # inside of the epoch of rewards
    ],
)
def test_a_run_killed_where_it_has_just_changed_and_resumed_ends_with_the_same_files(
    kind: str,
    stage: str,
    number: int,
    tmp_path: Path,
    command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, extra = KINDS[kind]
    seen: list[str] = []

    def kill(reached: str) -> None:
        seen.append(reached)
        if seen.count(stage) == number:
            raise Killed(reached)

    train.main(command(tmp_path / "whole", *SHORT, *extra, **settings))
    monkeypatch.setattr(checkpoint, "watchers", [kill])
    with pytest.raises(Killed):
        train.main(command(tmp_path / "killed", *SHORT, *extra, **settings))
    monkeypatch.undo()
    train.main(command(tmp_path / "killed", *SHORT, *extra, "--resume", **settings))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_run_killed_again_and_again_ends_with_the_same_files(
    killer: Killer, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    train.main(command(tmp_path / "whole", *SHORT, pruned=True))
    for start in range(1, 60):
        killer.arm(22 + start % 5 + start // 4)
        try:
            train.main(command(tmp_path / "killed", *SHORT, "--resume", pruned=True))
        except killer.Killed:
            continue
        break
    assert 2 < start < 59
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_workers_change_nothing_also_across_a_kill(
    killer: Killer, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    workers = ("--num_workers", "2")
    settings, snip = KINDS["snip"]  # whose first batches are read before training as well
    train.main(command(tmp_path / "whole", *SHORT, *snip, **settings))
    expected, stages = contents(tmp_path / "whole"), killer.count
    for at in (7, stages // 2):
        killer.arm(at)
        # Not pytest.raises: what it keeps of the exception would keep the loader's workers alive, too.
        try:
            train.main(command(tmp_path / str(at), *SHORT, *snip, *workers, **settings))
        except killer.Killed:
            killer.arm(0)
        assert killer.at == 0
        train.main(command(tmp_path / str(at), *SHORT, *snip, *workers, "--resume", **settings))
        assert contents(tmp_path / str(at)) == expected


def test_a_finished_run_resumed_makes_no_step_and_changes_nothing(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    train.main(command(tmp_path / "run", *SHORT))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    expected = contents(tmp_path / "run")
    train.main(command(tmp_path / "run", *SHORT, "--resume"))
    assert contents(tmp_path / "run") == expected
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}


@pytest.mark.parametrize("at", [3, 12])
def test_a_run_that_starts_from_another_starts_from_it_once_more_after_a_kill(
    at: int,
    killer: Killer,
    tmp_path: Path,
    command: Callable[..., list[str]],
    finished: Callable[[str, str], Path],
) -> None:
    begin = ("--start_from", str(finished("dense", "fixed")), "--max_seq_length", "9")
    train.main(command(tmp_path / "whole", *SHORT, *begin, pruned=True))
    killer.arm(at)
    with pytest.raises(killer.Killed):
        train.main(command(tmp_path / "killed", *SHORT, *begin, pruned=True))
    killer.arm(0)
    assert not listed(tmp_path / "killed/checkpoints")
    train.main(command(tmp_path / "killed", *SHORT, *begin, "--resume", pruned=True))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_validating_more_often_does_not_change_the_weights(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    states = []
    for every in ("1", "4"):
        run = tmp_path / every
        train.main(command(run, *SHORT, "--save_checkpoint_every", every, pruned=True))
        states.append(runs.tensors(run))
    assert states[0] == states[1]


def test_a_signal_stops_a_run_with_a_checkpoint_and_nothing_is_lost(
    tmp_path: Path, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main(command(tmp_path / "whole", *SHORT, pruned=True))
    step, calls = train.steps.train_step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    monkeypatch.setattr(train.steps, "train_step", interrupted)
    train.main(command(tmp_path / "stopped", *SHORT, pruned=True))
    assert not (tmp_path / "stopped/test_beam_2").exists()
    assert [path.name for path in listed(tmp_path / "stopped/checkpoints")] == ["step-000002"]
    train.main(command(tmp_path / "stopped", *SHORT, "--resume", pruned=True))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_pruned_run_resumed_with_another_length_or_weight_is_refused(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train.main(command(run, *SHORT, "--max-steps", "3", pruned=True))
    before = contents(run)
    capsys.readouterr()
    for flag, value, said in (
        ("--max_epochs", "3", "max_step 4, this one with 6"),
        ("--prune_supermask_sparsity_weight", "7", "weight 100.0, this one with 7.0"),
    ):
        with pytest.raises(SystemExit) as stop:
            train.main(command(run, *SHORT, flag, value, "--resume", pruned=True))
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"the saved run prunes with {said}" in error
    assert contents(run) == before


# The original's own flag


def copied_run(source: Path, target: Path, *patterns: str) -> Path:
    """A folder with some of a run's files."""
    target.mkdir()
    for path in (path for pattern in patterns for path in source.glob(pattern)):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target / path.name)
    return target


@pytest.mark.parametrize("pruned", [False, True])
def test_resume_training_goes_on_with_a_run_of_ours_in_another_folder_or_in_its_own(
    pruned: bool, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    def words(folder: str, *extra: str) -> list[str]:
        return command(tmp_path / folder, *SHORT, *extra, pruned=pruned)

    train.main(words("whole"))
    train.main(words("part", "--max-steps", "3"))
    part = str(tmp_path / "part")
    train.main(words("elsewhere", "--start_from", part, "--resume_training"))
    assert runs.tensors(tmp_path / "elsewhere") == runs.tensors(tmp_path / "whole")
    assert next(line["step"] for line in runs.figures(tmp_path / "elsewhere/metrics.jsonl")) == 4
    train.main(words("part", "--start_from", part, "--resume_training"))
    assert runs.tensors(tmp_path / "part") == runs.tensors(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_resume_training_goes_on_with_a_run_of_the_original_where_its_moments_end(
    kind: str, tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = kind == "pruned"

    def words(folder: str, *extra: str) -> list[str]:
        return command(tmp_path / folder, *extra, pruned=pruned, preset="faithful")

    train.main(words("whole", "--max-steps", "14"))
    train.main(words("part", "--max-steps", "13", "--save_checkpoint_every", "13"))
    files = ("model_*.pth", "optimizer_*.pth", "config.json", "tokenizer")
    theirs = copied_run(tmp_path / "part", tmp_path / "theirs", *files)
    train.main(words("run", "--start_from", str(theirs), "--resume_training", "--max-steps", "14"))
    assert "going on after step 13 of 48" in capsys.readouterr().out
    (whole,), (line,) = (
        [line for line in runs.figures(tmp_path / name / "metrics.jsonl") if line.get("train/loss")][-1:]
        for name in ("whole", "run")
    )
    same = ("step", "epoch", "updates", "train/learning_rate", "sparsity_loss/anneal_rate")
    assert [line.get(name) for name in same] == [whole.get(name) for name in same]
    then, now = (
        torch.load(tmp_path / name / original.OPTIMIZER_LAST, weights_only=True) for name in ("part", "run")
    )
    assert {float(state["step"]) for state in now["state"].values()} == {14}
    # A second moment is a mean that forgets a thousandth of itself in a step.
    assert all(
        bool((state["exp_avg_sq"] >= 0.99 * then["state"][i]["exp_avg_sq"]).all())
        for i, state in now["state"].items()
    )
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert [config[name] for name in ("model_restored", "optimizer_restored", "resume_training")] == [
        True
    ] * 3
    # Without moments nothing tells how far the run was.
    alone = copied_run(tmp_path / "part", tmp_path / "alone", "last", "model_last.pth", "config.json")
    train.main(words("fresh", "--start_from", str(alone), "--resume_training", "--max-steps", "1"))
    said = f"warning: {alone / 'optimizer_last.pth'} is not there: the optimiser begins anew"
    assert said in capsys.readouterr().out


def test_resume_training_of_a_finished_run_is_refused(
    tmp_path: Path, command: Callable[..., list[str]], fails: Fails
) -> None:
    source = tmp_path / "done"
    train.main(command(source, *SHORT, preset="faithful"))
    theirs = copied_run(source, tmp_path / "theirs", "*.pth", "config.json", "tokenizer")
    for start, made in ((source, "made 4 of 4 steps"), (theirs, "made 4 updates of 4")):
        words = command(tmp_path / "run", *SHORT, "--start_from", str(start), "--resume_training")
        fails(train.main, words, f"{made}, so that resume_training leaves nothing to do: .* max_epochs")


# True kills


@pytest.mark.slow
def test_two_true_kills_leave_a_run_that_ends_with_the_same_files(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    long = ("--max_epochs", "20", "--save_checkpoint_every", "6")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train.main(command(whole, *long, pruned=True))
    for start, wanted in enumerate((6, 24)):
        words = command(killed, *long, *(("--resume",) if start else ()), pruned=True)
        kill_after_step("smp_caption.train", words, killed, wanted)
        assert not (killed / "finished.json").exists()
    train.main(command(killed, *long, "--resume", pruned=True))
    assert contents(killed) == contents(whole)
