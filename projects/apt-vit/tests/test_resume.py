"""A run that was killed and resumed is the run that was not: every file of it, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_vit import job, train
from apt_vit.lowering import lower_values
from prunelab.checkpoint import listed
from testing.killing import (
    Killer,
    Run,
    check_killed_again_and_again,
    check_killed_at_stages,
    check_killed_with_workers,
    kill_after_step,
)
from testing.runs import contents

from .conftest import words

pytestmark = pytest.mark.tiny

Values = Callable[..., dict[str, Any]]
KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"preset": "fixed", "save_every": 2},
    "faithful": {"preset": "faithful", "clip_layers": (0, 2, 5)},
    "drops": {
        "preset": "fixed",
        "keep_rate": 0.7,
        "dropout_rate": 0.0,
        "keep_penalty": 0.1,
        "plain_loss": 0.5,
    },
    "plain": {"preset": "fixed", "method": "plain"},
    "random": {"preset": "fixed", "method": "random", "keep_rate": 0.6},
}
SHORT: dict[str, Any] = {"num_steps": 5}
"""An epoch has 3 updates, or 4: a second one begins."""


def untimed(path: Path) -> Any:
    """A table without what was timed."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for row in content["rows"]:
        row.pop("ms / picture", None)
    return content


def left(run: Path) -> dict[str, Any]:
    """All that a run leaves but for times."""
    return contents(run, {"summary.json": untimed})


@pytest.fixture
def run(valued: Values, tmp_path: Path) -> Callable[..., Path]:
    """Runs a kind in a folder of the test's own."""

    def start(folder: str, kind: str, **more: Any) -> Path:
        values = valued(tmp_path / folder, **(SHORT | KINDS[kind] | more))
        return train.train(lower_values(values), quiet=True)

    return start


def run_of(run: Callable[..., Path], kind: str, **more: Any) -> Run:
    """Runs of one kind, for the checks of `testing.killing`."""
    return lambda folder, resume: left(run(folder, kind, **more, **({"resume": True} if resume else {})))


@pytest.mark.parametrize(
    ("kind", "first", "every"),
    [
        # Kinds of run take turns, so that each stage is met by one of them; at night all meet all.
        ("fixed", 1, 19),
        ("faithful", 2, 27),
        ("drops", 5, 41),
        *(pytest.param(kind, 1, 1, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_a_run_killed_at_any_stage_and_resumed_ends_with_the_same_files(
    kind: str, first: int, every: int, killer: Killer, run: Callable[..., Path]
) -> None:
    check_killed_at_stages(killer, run_of(run, kind), first=first, every=every, least=30)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_files(
    killer: Killer, run: Callable[..., Path]
) -> None:
    check_killed_again_and_again(
        killer, run_of(run, "fixed"), lambda start: 9 + start % 5 + 2 * start, least=2
    )


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_a_signal_inside_accumulation_keeps_the_gradients_and_nothing_is_lost(
    preset: str, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under ``faithful`` micro-batch 14 is the first of an epoch, whose leftover from the one before waits.
    expected = left(run("whole", preset))
    at = 14 if preset == "faithful" else 8
    step, calls = job.train_step, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(job, "train_step", interrupted)
        run("stopped", preset)
    folder = tmp_path / "stopped"
    newest = listed(folder / "checkpoints")[-1]
    assert newest.name == f"step-{at:06d}"
    assert not (folder / "finished.json").exists()
    state = json.loads((newest / "state.json").read_text())
    assert state["run"]["count"]["step"] == at
    assert "gradients" in (newest / "structure.json").read_text() + json.dumps(state)
    assert left(run("stopped", preset, resume=True)) == expected


@pytest.mark.parametrize("kind", ["fixed", "faithful"])
def test_a_finished_run_resumed_makes_no_step_and_changes_nothing(
    kind: str, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = left(run("run", kind))
    monkeypatch.setattr(job, "train_step", None)
    assert left(run("run", kind, resume=True)) == expected


def test_updates_may_be_few_and_more_may_follow(run: Callable[..., Path]) -> None:
    expected = left(run("whole", "fixed"))
    folder = run("short", "fixed", max_steps=3)
    assert json.loads((folder / "finished.json").read_text())["updates"] == 3
    found = left(run("short", "fixed", resume=True))
    for name in expected:
        if "checkpoints" not in name and name != "metrics.jsonl":
            assert found[name] == expected[name], name
    assert found["checkpoints"][:2] == expected["checkpoints"][:2]


def test_weights_to_start_from_are_not_needed_to_go_on(run: Callable[..., Path], tmp_path: Path) -> None:
    first = run("first", "fixed")
    start = tmp_path / "start.bin"
    from apt_vit.classifier import Classifier

    torch.save(Classifier.from_pretrained(first / "last").model.state_dict(), start)
    expected = left(run("whole", "fixed", pretrained_dir=str(start)))
    run("cut", "fixed", pretrained_dir=str(start), max_steps=2)
    start.unlink()
    found = left(run("cut", "fixed", pretrained_dir=str(start), resume=True))
    assert found["last/model.safetensors"] == expected["last/model.safetensors"]


def test_workers_change_nothing_also_across_a_kill(killer: Killer, run: Callable[..., Path]) -> None:
    check_killed_with_workers(killer, run_of(run, "fixed"), run_of(run, "fixed", num_workers=1), share=0.75)


@pytest.mark.slow
def test_two_true_kills_leave_a_run_that_ends_with_the_same_files(valued: Values, tmp_path: Path) -> None:
    long = {"num_steps": 60, "save_every": 5, "eval_every": 20}
    train.train(lower_values(valued(tmp_path / "whole", "faithful", **long)), quiet=True)
    killed = tmp_path / "killed"
    for start, step in enumerate((60, 130)):
        line = words(valued(killed, "faithful", **long, resume=bool(start)))
        kill_after_step("apt_vit.train", line, killed, step)
    train.train(lower_values(valued(killed, "faithful", **long, resume=True)), quiet=True)
    assert left(killed) == left(tmp_path / "whole")
