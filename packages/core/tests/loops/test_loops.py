"""The five kinds of training step that the papers need: killed everywhere, resumed, compared bit for bit."""

import runpy
from pathlib import Path

import pytest
import torch

from prunelab.run import RunConfig

FILES = sorted(Path(__file__).parent.glob("loop_*.py"))
LOOPS = {path.stem: runpy.run_path(str(path))["train"] for path in FILES}


def config(folder: Path, resume: bool = False) -> RunConfig:
    return RunConfig(
        dir=folder, seed=5, resume=resume, device="cpu", log_every="2 steps", tensorboard=False, quiet=True
    )


def figures(folder: Path) -> list[str]:
    """The JSON lines without the time, which no two runs share."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split('"seconds"')[0] + line.split(",", 4)[-1] for line in lines]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_killed_at_any_stage_and_resumed_ends_with_the_same_bits(name, killer, tmp_path):
    expected = LOOPS[name](config(tmp_path / "whole"))
    expected_figures = figures(tmp_path / "whole")
    stages = killer.count
    assert stages > 30
    for at in range(1, stages + 1):
        folder = tmp_path / str(at)
        killer.arm(at)
        with pytest.raises(killer.Killed):
            LOOPS[name](config(folder))
        killer.arm(0)
        assert same(LOOPS[name](config(folder, resume=True)), expected), f"killed at stage {at} of {stages}"
        assert figures(folder) == expected_figures, f"killed at stage {at} of {stages}"


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_killed_again_and_again_ends_with_the_same_bits(name, killer, tmp_path):
    expected = LOOPS[name](config(tmp_path / "whole"))
    for start in range(1, 400):
        killer.arm(13 + start % 5 + start // 20)
        try:
            result = LOOPS[name](config(tmp_path / "killed", resume=True))
        except killer.Killed:
            continue
        break
    assert start > 1
    assert same(result, expected)


@pytest.mark.parametrize("name", LOOPS)
def test_a_finished_loop_resumed_makes_no_step_and_gives_the_final_state(name, tmp_path):
    expected = LOOPS[name](config(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*.json")}
    assert same(LOOPS[name](config(tmp_path, resume=True)), expected)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*.json")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_toy_loop_has_at_most_forty_lines(path):
    assert len(path.read_text().splitlines()) <= 40
