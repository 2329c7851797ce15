"""A run that was killed and resumed is the run that was not: every file of it, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acosp_seg import train
from prunelab.checkpoint import listed
from testing.killing import (
    Killer,
    Run,
    check_killed_again_and_again,
    check_killed_at_stages,
    check_killed_with_workers,
    kill_after_step,
)
from testing.runs import contents, tensors

pytestmark = pytest.mark.tiny

SHORT = ("epochs", "3", "batch_size", "6", "save_freq", "1", "print_freq", "1", "width", "4")
"""Six steps of three epochs; a checkpoint and a validation after each. Masks become hard before the last."""
KINDS = {
    "dense": ((), {"pruned": False}),
    "pruned": ((), {"pruned": True}),
    "faithful": ((), {"pruned": True, "preset": "faithful"}),
    "at the end": (("ending_epoch", "3"), {"pruned": True}),
    "refilled": (("refill_pruned", "True"), {"pruned": True}),
    "slim": (("slim_after_pruning", "True"), {"pruned": True}),
}


@pytest.fixture
def words(command: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a short run of a kind."""

    def build(folder: str, kind: str, *extra: str) -> list[str]:
        more, options = KINDS[kind]
        pairs = [word for word in extra if not word.startswith("--")]
        flags = [word for word in extra if word.startswith("--")]
        return command(tmp_path / folder, *flags, *SHORT, *more, *pairs, **options)

    return build


@pytest.fixture
def run_of(words: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Run]:
    """Gives the short runs of a kind, for the checks of `testing.killing`."""

    def build(kind: str, *extra: str) -> Run:
        def run(folder: str, resume: bool) -> Any:
            train.main(words(folder, kind, *extra, *(["--resume"] if resume else [])))
            return contents(tmp_path / folder)

        return run

    return build


@pytest.mark.parametrize(
    ("kind", "first", "every"),
    [
        # Kinds of run take turns, so that each stage is met by one of them; at night all meet all.
        ("pruned", 1, 19),
        ("faithful", 7, 19),
        ("at the end", 13, 19),
        *(pytest.param(kind, 1, 1, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_with_the_same_files(
    kind: str, first: int, every: int, killer: Killer, run_of: Callable[..., Run]
) -> None:
    check_killed_at_stages(killer, run_of(kind), first=first, every=every, least=60)


@pytest.mark.parametrize("kind", ["refilled", "slim", pytest.param("pruned", marks=pytest.mark.slow)])
def test_a_run_stopped_after_any_step_goes_on_with_the_same_weights(
    kind: str, tmp_path: Path, words: Callable[..., list[str]]
) -> None:
    train.main(words("whole", kind))
    for step in (4, 5):  # the last with soft masks, the first with hard ones
        folder = f"stopped {step}"
        train.main([*words(folder, kind), "max_steps", str(step)])
        assert [p.name for p in listed(tmp_path / folder / "checkpoints")][-1] == f"step-{step:06d}"
        train.main(words(folder, kind, "--resume"))
        assert tensors(tmp_path / folder) == tensors(tmp_path / "whole")


def test_a_run_killed_again_and_again_ends_with_the_same_files(
    killer: Killer, run_of: Callable[..., Run]
) -> None:
    check_killed_again_and_again(killer, run_of("pruned"), lambda start: 21 + start % 5 + start // 4)


def test_workers_change_nothing_also_across_a_kill(killer: Killer, run_of: Callable[..., Run]) -> None:
    check_killed_with_workers(killer, run_of("pruned"), run_of("pruned", "workers", "2"))


def test_a_finished_run_resumed_makes_no_step_and_changes_nothing(
    tmp_path: Path, words: Callable[..., list[str]]
) -> None:
    train.main(words("run", "faithful"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    expected = contents(tmp_path / "run")
    train.main(words("run", "faithful", "--resume"))
    assert contents(tmp_path / "run") == expected
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}


def test_naming_a_checkpoint_of_the_original_in_the_run_folder_goes_on_with_the_run(
    tmp_path: Path, words: Callable[..., list[str]]
) -> None:
    train.main(words("whole", "faithful"))
    train.main(words("run", "faithful", "max_steps", "5"))
    file = tmp_path / "run/train_epoch_1.pth"
    train.main(words("run", "faithful", "resume", str(file)))
    assert tensors(tmp_path / "run") == tensors(tmp_path / "whole")
    ours, theirs = contents(tmp_path / "run"), contents(tmp_path / "whole")
    assert ours["train_epoch_3.pth"] == theirs["train_epoch_3.pth"]


def test_a_signal_stops_a_run_with_a_checkpoint_and_nothing_is_lost(
    tmp_path: Path, words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main(words("whole", "pruned"))
    step, calls = train.steps.train_step, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # the first step with hard masks
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    monkeypatch.setattr(train.steps, "train_step", interrupted)
    train.main(words("stopped", "pruned"))
    assert not (tmp_path / "stopped/finished.json").exists()
    assert listed(tmp_path / "stopped/checkpoints")[-1].name == "step-000005"
    train.main(words("stopped", "pruned", "--resume"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_true_kills_leave_a_run_that_ends_with_the_same_files(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    long = ("epochs", "12", "ending_epoch", "6", "save_freq", "1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train.main(command(whole, *long, pruned=True))
    for start, wanted in enumerate((9, 21)):
        words = command(killed, *(("--resume",) if start else ()), *long, pruned=True)
        kill_after_step("acosp_seg.train", words, killed, wanted)
        assert not (killed / "finished.json").exists()
    train.main(command(killed, "--resume", *long, pruned=True))
    assert contents(killed) == contents(whole)
