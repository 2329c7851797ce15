from __future__ import annotations

import json
import time
import types
from pathlib import Path

import pytest
import torch

from prunelab import bench
from prunelab.bench import Figure, Row, Skip, Times, compare, results_table, using_rounds
from prunelab.bench.__main__ import main as core_main
from prunelab.errors import UserError


def equal(a: object, b: object) -> bool:
    return a == b


def quick(name: str = "row", **options: object) -> Row:
    return compare(name, lambda: 1, lambda: 1, equal, least_seconds=0, **options)  # pyright: ignore


def made(ours: float, reference: float, **options: object) -> Row:
    sides = [Times(name=name, seconds=(s,) * 5) for name, s in (("ours", ours), ("reference", reference))]
    return Row(name="row", ours=sides[0], reference=sides[1], **options)  # pyright: ignore


def test_results_are_compared_before_times() -> None:
    calls: list[str] = []
    with pytest.raises(AssertionError, match="sum: the result of ours differs"):
        compare("sum", lambda: calls.append("ours"), lambda: calls.append("ref") or 1, equal)
    assert calls == ["ref", "ours"]


def test_a_check_may_raise_and_extra_sides_are_checked_too() -> None:
    def check(a: int, b: int) -> None:
        assert a == b, f"{a} is not {b}"

    with pytest.raises(AssertionError, match="3 is not 1"):
        compare("x", lambda: 1, lambda: 1, check, extra={"numpy": lambda: 3})


def test_sides_alternate_forwards_and_backwards() -> None:
    calls: list[str] = []

    def side(name: str):
        return lambda: calls.append(name)

    row = compare(
        "x", side("o"), side("r"), lambda a, b: None, extra={"numpy": side("n")}, rounds=6, least_seconds=0
    )
    assert "".join(calls[3:]) == "ornnro" * 3
    assert [len(s.seconds) for s in (row.ours, row.reference, *row.extra)] == [6, 6, 6]
    assert [s.name for s in row.extra] == ["numpy"]


def test_setup_runs_before_every_call_and_is_not_timed() -> None:
    made_things: list[list[int]] = []

    def setup() -> list[int]:
        time.sleep(0.01)
        made_things.append([])
        return made_things[-1]

    def use(thing: list[int]) -> int:
        thing.append(1)
        return len(thing)

    row = compare("x", use, use, equal, setup=setup, warmup=2)
    assert len(made_things) == 2 + 2 + 10
    assert row.ours.median < 0.005


def test_a_short_call_is_repeated_within_a_round() -> None:
    calls = [0]

    def count() -> None:
        calls[0] += 1

    row = compare("x", count, lambda: None, equal, least_seconds=0.001)
    assert calls[0] > 100
    assert row.ours.max < 0.001


def test_a_slower_reference_gives_a_larger_ratio() -> None:
    row = compare("x", lambda: time.sleep(0.001), lambda: time.sleep(0.01), equal, least_seconds=0)
    assert row.ratio > 2
    assert row.ours.min <= row.ours.median <= row.ours.max


def test_too_few_rounds_and_a_rate_without_work_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be 5 or more, not 4"):
        quick(rounds=4)
    with pytest.raises(ValueError, match="goal_rate needs work"):
        quick(goal_rate=1.0)


def test_rounds_of_the_command_line_reach_the_rows() -> None:
    with using_rounds(7):
        assert len(quick().ours.seconds) == 7
    assert len(quick().ours.seconds) == 5


def test_ratio_rate_and_goals_by_hand() -> None:
    row = made(0.5, 4.0, work=100, unit="captions", goal=8, goal_rate=201, goal_seconds=0.5)
    assert row.ratio == 8
    assert row.rate(row.ours) == 200
    assert row.goals() == [(">= 8x", True), (">= 201 captions/s", False), ("<= 0.5 s", True)]
    figure = Figure(name="size", ours=1_540_000, reference=8_700_000, at_most=1_550_000, at_least=2_000_000)
    assert figure.goals() == [("<= 1,550,000", True), (">= 2,000,000", False)]


def test_the_table_shows_every_side() -> None:
    row = made(0.5, 4.0, work=100, unit="captions", goal=8, note="2 threads")
    text = results_table([row, Figure(name="size", ours=10, reference=20, unit="bytes")]).plain()
    lines = text.splitlines()
    assert " ".join(lines[2].split()) == "row ours 500 ms 500 ms 500 ms 200 captions - >= 8x yes"
    assert " ".join(lines[3].split()) == "reference 4.00 s 4.00 s 4.00 s 25 captions 8.00"
    assert " ".join(lines[4].split()) == "size ours 10 bytes -"
    assert " ".join(lines[5].split()) == "reference 20 bytes 2.00"
    assert lines[6] == "row: 2 threads"
    text = results_table(
        [Figure(name="first use", ours=3.6341, unit="s"), Figure(name="f", ours=0.12345)]
    ).plain()
    assert "3.63 s" in text
    assert "0.1235 bytes" in text


def test_the_command_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> Row:
        raise Skip("PRUNELAB_DATA is not set")

    rows = {
        "one": lambda: quick("one", work=2, goal=0.0001),
        "two": lambda: [quick("two a"), Figure(name="two b", ours=3)],
        "absent": absent,
    }
    results = bench.main("bench", rows, ["--rounds", "6", "--json", str(tmp_path / "b.json")])  # pyright: ignore
    assert [result.name for result in results] == ["one", "two a", "two b"]
    out = capsys.readouterr().out
    assert "absent: not measured: PRUNELAB_DATA is not set" in out
    assert "two b" in out
    assert "torch" in out
    written = json.loads((tmp_path / "b.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["one", "two a", "two b"]
    assert len(written["rows"][0]["sides"][1]["seconds"]) == 6
    assert written["skipped"] == {"absent": "PRUNELAB_DATA is not set"}


def test_the_table_is_written_as_plain_data_one_mapping_a_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = made(0.5, 4.0, work=100, unit="captions", goal=8, note="2 threads")
    rows = {"row": lambda: [row, Figure(name="size", ours=10, reference=20)]}
    bench.main("b", rows, ["--json-table", str(tmp_path / "t.json")])
    assert "2 threads" in capsys.readouterr().out
    ours, reference, size, other = json.loads((tmp_path / "t.json").read_text())
    assert ours == {
        "what": "row",
        "side": "ours",
        "min": "500 ms",
        "median": "500 ms",
        "max": "500 ms",
        "rate": "200 captions",
        "goal": ">= 8x",
        "reached": "yes",
        "note": "2 threads",
    }
    assert (reference["what"], reference["ratio"], "goal" in reference) == ("row", 8.0, False)
    assert size == {"what": "size", "side": "ours", "median": "10 bytes"}
    assert other == {"what": "size", "side": "reference", "median": "20 bytes", "ratio": 2.0}


def test_rows_are_chosen_by_name_and_unknown_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {name: lambda name=name: quick(name) for name in ("cider_d", "cider", "store")}
    assert [row.name for row in bench.main("b", rows, ["cider*"])] == ["cider_d", "cider"]
    with pytest.raises(UserError, match="no row is called 'sture': did you mean store"):
        bench.main("b", rows, ["sture"])
    with pytest.raises(UserError, match="--rounds 2: expected 5 or more"):
        bench.main("b", rows, ["--rounds", "2"])
    capsys.readouterr()
    assert bench.main("b", rows, ["--list"]) == []
    assert capsys.readouterr().out.split() == ["cider_d", "cider", "store"]


def test_threads_are_set_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        bench.main("b", {}, ["--threads", "3"])
        assert "threads 3" in capsys.readouterr().out
        with pytest.raises(UserError, match="--threads 0: expected 1 or more"):
            bench.main("b", {}, ["--threads", "0"])
    finally:
        torch.set_num_threads(threads)


def test_rows_of_a_package_are_found_by_module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "somebench"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "rows_b.py").write_text("ROWS = {'b': len}")
    (folder / "rows_a.py").write_text("ROWS = {'a': len}")
    (folder / "other.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    package = types.ModuleType("somebench")
    package.__path__ = [str(folder)]
    assert list(bench.discover(package)) == ["a", "b"]
    (folder / "rows_c.py").write_text("ROWS = {'a': len}")
    with pytest.raises(ValueError, match="the row 'a' of rows_c exists twice"):
        bench.discover(package)


def test_the_core_lists_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    core_main(["--list"])
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names))
    with pytest.raises(SystemExit) as stop:
        core_main(["no-such-row"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no row is called 'no-such-row'")
