"""A run that was killed and resumed is the run that was not: every file of it, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channel_prune import train
from channel_prune.lowering import lower_values
from testing.killing import (
    Killer,
    Run,
    check_killed_again_and_again,
    check_killed_at_stages,
    check_killed_with_workers,
    kill_after_step,
)
from testing.runs import contents

from .conftest import Build, Finished, words

pytestmark = pytest.mark.tiny

Values = Callable[..., dict[str, Any]]
KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"preset": "fixed"},
    "faithful": {"preset": "faithful", "enbl_dst": True},
    "l1, all positions": {"selection": "l1", "positions": "all", "recalibrate": 0},
    "full": {"learner": "full-prec"},
    "slim": {"slim_before_finetune": True},
}
SHORT: dict[str, Any] = {"nb_iters": 4, "nb_smpls": 16, "recalibrate": 16}
"""Four steps, a checkpoint and an evaluation after each second one."""


def plain(path: Path) -> Any:
    """A JSON file without what was timed."""
    return untimed(json.loads(path.read_text(encoding="utf-8")))


def untimed(value: Any) -> Any:
    if isinstance(value, list):
        return [untimed(one) for one in value]
    if isinstance(value, dict):
        timed = ("seconds", "ms / picture", "time", "output")
        return {name: untimed(one) for name, one in value.items() if name not in timed}
    return value


def left(run: Path) -> dict[str, Any]:
    """All that a run leaves but for times."""
    return contents(run, {"summary.json": plain, "choose/choice.json": plain, "choose/once/": once})


def once(path: Path) -> Any:
    """A kept result of one-off work: its tensors, and its plain data without what was timed."""
    if path.suffix == ".safetensors":
        return path.read_bytes()
    return plain(path) if path.name == "state.json" else None


@pytest.fixture
def run(full: Finished, pruning: Values, tmp_path: Path) -> Callable[..., Path]:
    """Runs a kind in a folder of the test's own."""
    full()  # made before stages are counted

    def start(folder: str, kind: str, **more: Any) -> Path:
        values = pruning(tmp_path / folder, **(KINDS[kind] | SHORT | more))
        return train.train(lower_values(values), quiet=True)

    return start


def run_of(run: Callable[..., Path], kind: str, **more: Any) -> Run:
    """Runs of one kind, for the checks of `testing.killing`."""
    return lambda folder, resume: left(run(folder, kind, **more, **({"resume": True} if resume else {})))


@pytest.mark.parametrize(
    ("kind", "first", "every"),
    [
        # Kinds of run take turns, so that each stage is met by one of them; at night all meet all.
        ("fixed", 1, 31),
        ("faithful", 16, 31),
        ("slim", 46, 100),  # between two steps of its own kind of fine-tuning
        *(pytest.param(kind, 1, 1, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_with_the_same_files(
    kind: str, first: int, every: int, killer: Killer, run: Callable[..., Path]
) -> None:
    check_killed_at_stages(killer, run_of(run, kind), first=first, every=every, least=40)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_files(
    killer: Killer, run: Callable[..., Path]
) -> None:
    check_killed_again_and_again(
        killer, run_of(run, "fixed"), lambda start: 13 + start % 5 + 2 * start, least=3
    )


def test_layers_that_were_done_are_not_done_again(
    killer: Killer, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole", "fixed")
    folder = tmp_path / "killed"
    once_folder, at = folder / "choose" / "once", 0
    while len(list(once_folder.glob("layer*"))) < 5:  # between two layers, somewhere in the middle
        at += 2
        killer.arm(at)
        with pytest.raises(killer.Killed):
            run("killed", "fixed", resume=True)
    killer.arm(0)
    before = {path.name: path.stat().st_mtime_ns for path in once_folder.glob("layer*")}
    run("killed", "fixed", resume=True)
    after = {path.name: path.stat().st_mtime_ns for path in once_folder.glob("layer*")}
    assert before.items() <= after.items()
    assert len(after) == 10
    assert left(folder) == left(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["fixed", "full"])
def test_a_finished_run_resumed_makes_no_step_and_changes_nothing(
    kind: str, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = left(run("run", kind))
    monkeypatch.setattr(train, "choose", None)
    monkeypatch.setattr(train.steps, "classify_step", None)
    assert left(run("run", kind, resume=True)) == expected


@pytest.mark.parametrize("stage", ["choosing", "fine-tuning"])
def test_a_signal_stops_a_run_and_nothing_is_lost(
    stage: str, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = left(run("whole", "fixed"))
    tell, step, calls = train.finish.tell_layer, train.steps.classify_step, []

    def interrupted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return work(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if stage == "choosing":
            patch.setattr(train.finish, "tell_layer", interrupted(tell))
        else:
            patch.setattr(train.steps, "classify_step", interrupted(step))
        run("stopped", "fixed")
    folder = tmp_path / "stopped"
    assert (folder / "choose/finished.json").exists() == (stage == "fine-tuning")
    assert (folder / "finetune").exists() == (stage == "fine-tuning")
    assert not (folder / "slim").exists()
    assert left(run("stopped", "fixed", resume=True)) == expected


def test_workers_change_nothing_also_across_a_kill(killer: Killer, run: Callable[..., Path]) -> None:
    check_killed_with_workers(killer, run_of(run, "fixed"), run_of(run, "fixed", workers=1), share=0.75)


@pytest.mark.slow
def test_two_true_kills_leave_a_run_that_ends_with_the_same_files(
    build: Build, pruning: Values, tmp_path: Path
) -> None:
    long = {"nb_iters": 60, "save_step": 10}
    train.train(build(tmp_path / "whole", **long), quiet=True)
    killed = tmp_path / "killed"
    for start, step in enumerate((20, 40)):
        line = words(pruning(killed, **long, resume=bool(start)))
        kill_after_step("channel_prune.train", line, killed / "finetune", step)
    train.train(build(killed, resume=True, **long), quiet=True)
    assert left(killed) == left(tmp_path / "whole")
