"""Two runs are compared value by value and step by step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def write_run(folder: Path, *lines: dict[str, object]) -> str:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_the_table_says_how_much_two_runs_differ_and_since_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import compare_runs

    a = write_run(
        tmp_path / "a", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 0.5}
    )
    b = write_run(tmp_path / "b", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.25, "time": 7})
    compare_runs.main([a, b, "--plot", str(tmp_path / "plots" / "curves.png")])
    rows = capsys.readouterr().out.splitlines()
    assert "| loss | 0.5 | 1.25 | 0.25 | 2 | 2 | 1 |" in rows
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_same_runs_may_differ_in_time_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import compare_runs

    a = write_run(tmp_path / "a", {"step": 1, "loss": float("nan"), "seconds": 1.0, "tag": "x"})
    b = write_run(tmp_path / "b", {"step": 1, "loss": float("nan"), "seconds": 2.0, "tag": "y"})
    compare_runs.main([a, b, "--same"])
    assert "the runs are the same" in capsys.readouterr().out


@pytest.mark.parametrize("other", [{"step": 1, "loss": 1.0000001}, {"step": 2, "loss": 1.0}, {"step": 1}])
def test_a_different_value_or_step_is_not_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, object]
) -> None:
    import compare_runs

    a = write_run(tmp_path / "a", {"step": 1, "loss": 1.0})
    with pytest.raises(SystemExit) as end:
        compare_runs.main([a, write_run(tmp_path / "b", other), "--same"])
    assert end.value.code == 2
    assert "differ in loss" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "no json\n", '{"loss": 1}\n', "[1]\n"])
def test_a_folder_without_readable_metrics_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    import compare_runs

    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(SystemExit) as end:
        compare_runs.main([str(tmp_path), str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
