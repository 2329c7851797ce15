"""What is compared of two runs, and how runs are ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from testing.killing import (
    Killer,
    Run,
    check_killed_again_and_again,
    check_killed_at_stages,
    check_killed_with_workers,
    kill_after_step,
)
from testing.runs import contents, newest_step, tensors, two_ranks


def write_run(folder: Path, weight: float, *, time: float) -> Path:
    """A run's folder: log, figures, a picture, and a checkpoint of step 7."""
    from safetensors.torch import save_file

    step = folder / "checkpoints/step-000007"
    step.mkdir(parents=True)
    save_file({"w": torch.tensor([weight])}, step / "tensors.safetensors")
    state = {"run": {"clock": time, "marks": {"log.txt": time}, "epoch": 1}}
    (step / "state.json").write_text(json.dumps(state))
    (step / "manifest.json").write_text("{}")
    (folder / "log.txt").write_text(f"begun at {time}")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": time, "loss": 0.5}) + "\n")
    (folder / "one.png").write_bytes(b"picture")
    return folder


def test_two_runs_are_equal_but_for_their_times(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", 1.0, time=3)
    second = write_run(tmp_path / "second", 1.0, time=4)
    assert contents(first) == contents(second)
    assert set(contents(first)) == {"metrics.jsonl", "one.png", "checkpoints"}
    assert tensors(first) == tensors(second)
    assert newest_step(first) == 7
    assert newest_step(tmp_path) == 0


def test_another_weight_or_file_or_figure_makes_runs_differ(tmp_path: Path) -> None:
    one = contents(write_run(tmp_path / "one", 1.0, time=3))
    other = write_run(tmp_path / "other", 2.0, time=3)
    assert contents(other) != one
    assert tensors(other) != tensors(tmp_path / "one")
    more = write_run(tmp_path / "more", 1.0, time=3)
    (more / "two.png").write_bytes(b"x")
    assert contents(more) != one
    assert contents(more, {"two.": lambda path: path.stat().st_size})["two.png"] == 1


def test_a_killer_ends_its_process_at_the_stage_it_is_told(killer: Killer, tmp_path: Path) -> None:
    def work() -> None:
        killer.tick("a step")
        (tmp_path / "a").write_text("new")
        os.replace(tmp_path / "a", tmp_path / "b")

    work()
    assert killer.count == 3
    for at, left in ((1, None), (2, "a"), (3, "b")):
        (tmp_path / "b").unlink(missing_ok=True)
        killer.arm(at)
        with pytest.raises(killer.Killed):
            work()
        assert [name for name in ("a", "b") if (tmp_path / name).exists()] == ([left] if left else [])
        (tmp_path / "a").unlink(missing_ok=True)


def counting(killer: Killer, folder: Path, *, keeps: bool = True) -> Run:
    """Runs of nine steps that leave their number; without ``keeps`` they begin anew each time."""

    def run(name: str, resume: bool) -> int:
        file = folder / f"{name}.txt"
        done = int(file.read_text()) if resume and file.exists() else 0
        for step in range(done if keeps else 0, 9):
            killer.tick("a step")
            file.write_text(str(step + 1))
        return int(file.read_text()) + (0 if keeps else done)

    return run


def test_runs_that_go_on_pass_every_check_of_kills(killer: Killer, tmp_path: Path) -> None:
    run = counting(killer, tmp_path)
    check_killed_at_stages(killer, run, first=1, every=2, least=8)
    check_killed_again_and_again(killer, counting(killer, tmp_path), lambda _: 2)
    (tmp_path / "killed.txt").unlink()
    check_killed_with_workers(killer, run, run, share=0.7)


def test_runs_that_forget_and_runs_that_are_too_short_or_never_end_are_refused(
    killer: Killer, tmp_path: Path
) -> None:
    run = counting(killer, tmp_path, keeps=False)
    with pytest.raises(AssertionError, match="killed at stage 5 of 9"):
        check_killed_at_stages(killer, run, first=5, every=9, least=8)
    with pytest.raises(AssertionError):
        check_killed_at_stages(killer, run, first=1, every=1, least=9)
    with pytest.raises(AssertionError, match="no start came to an end"):
        check_killed_again_and_again(killer, run, lambda _: 2)
    with pytest.raises(AssertionError):
        check_killed_with_workers(killer, run, run)


def test_a_process_that_ends_before_it_is_killed_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No module named no_such_module"):
        kill_after_step("no_such_module", [], tmp_path, 1)


def test_ranks_that_fail_are_told_with_their_last_words(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os; raise SystemExit(f'rank {os.environ[\"RANK\"]} is ill')")
    with pytest.raises(AssertionError, match=r"(?s)rank 0 is ill.*rank 1 is ill"):
        two_ranks(script, tmp_path)
