"""Measurements are kept with what they came from, and tables come from what was kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

README = "# apple\n\n<!-- measured:begin size -->\nold\n<!-- measured:end size -->\nend\n"
PLAN = """
measurements:
  - name: small
    commands:
      - >-
        python write.py {out} t.json '{"a": [1, {"b": 2.5}]}'
    preset: fixed
    seed: 3
    labels: {model: small}
    figures: {score: "{out}/t.json:a.1.b"}
  - name: large
    commands:
      - >-
        python fail.py {out} rows.json '[{"model": "x", "score": 1}, {"model": "y"}]'
    preset: faithful
    seed: 3
    data: pears
    rows: "{out}/rows.json"
tables:
  - name: size
    from: [small, large]
    columns:
      - {title: model, key: model}
      - {title: score, key: score, format: .2f}
"""
WRITE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
(folder / sys.argv[2]).write_text(sys.argv[3])
"""


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, in a workspace of one project."""
    import measure

    folder = tmp_path / "projects" / "apple"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(README)
    (folder / "measured.yaml").write_text(PLAN)
    (folder / "write.py").write_text(WRITE)
    (folder / "fail.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "_git", lambda *arguments: "abc1234" if arguments[0] == "rev-parse" else "")
    monkeypatch.delenv("PRUNELAB_DATA", raising=False)
    monkeypatch.delenv("PRUNELAB_RUNS", raising=False)
    return measure


def test_a_measurement_is_kept_and_fills_the_table(measure: ModuleType, tmp_path: Path) -> None:
    measure.main(["apple", "--only", "small"])
    kept = json.loads((tmp_path / "projects/apple/results/small.json").read_text())
    assert kept["figures"] == {"score": 2.5}
    assert (kept["preset"], kept["seed"], kept["commit"]) == ("fixed", 3, "abc1234")
    assert "cores" in kept["machine"]
    assert str(tmp_path) not in json.dumps(kept), "a result names no folder of this machine"
    readme = (tmp_path / "projects/apple/README.md").read_text()
    assert "| small | 2.50 |" in readme
    assert "preset fixed, seed 3" in readme
    assert "large" not in readme, "what was not run is not printed"
    assert readme.endswith("<!-- measured:end size -->\nend\n")
    assert measure.stale_tables() == []


def test_a_table_without_results_says_so_and_a_stale_one_is_found(
    measure: ModuleType, tmp_path: Path
) -> None:
    assert "measure.py apple --tables" in measure.stale_tables()[0]
    measure.main(["apple", "--tables"])
    assert "Not measured yet." in (tmp_path / "projects/apple/README.md").read_text()
    assert measure.stale_tables() == []


def test_rows_of_a_file_become_rows_of_the_table(measure: ModuleType, tmp_path: Path) -> None:
    plan = PLAN.replace("fail.py", "write.py").replace("    data: pears\n", "")
    (tmp_path / "projects/apple/measured.yaml").write_text(plan)
    measure.main(["apple", "--only", "large"])
    readme = (tmp_path / "projects/apple/README.md").read_text()
    assert "| x | 1.00 |\n| y | – |" in readme


def test_rows_may_lie_inside_a_file_and_sizes_are_short(measure: ModuleType, tmp_path: Path) -> None:
    plan = (
        PLAN.replace("fail.py", "write.py")
        .replace("    data: pears\n", "")
        .replace('rows.json"', 'rows.json:in"')
    )
    plan = plan.replace('\'[{"model": "x", "score": 1}', '\'{"in": [{"model": "x|z", "score": 105745}')
    plan = plan.replace('{"model": "y"}]\'', '{"model": "y"}]}\'').replace("format: .2f", "format: bytes")
    (tmp_path / "projects/apple/measured.yaml").write_text(plan)
    measure.main(["apple", "--only", "large"])
    assert "| x\\|z | 106 kB |\n| y | – |" in (tmp_path / "projects/apple/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "old", "new", "says"),
    [
        (["--only", "large"], "", "", "set PRUNELAB_DATA"),
        (["--only", "large"], "    data: pears\n", "", "ended with code 3"),
        (["--only", "other"], "", "", "expected some of small, large"),
        (["--tables"], "seed: 3\n    labels", "sead: 3\n    labels", "unknown key ['sead']"),
        (["--tables"], "from: [small", "from: [tiny", "asks for ['tiny']"),
        (["--tables"], "name: large", "name: small", "there twice"),
        (["--only", "small"], "a.1.b", "a.7.b", "no value 'a.7.b'"),
        (["--only", "small"], "t.json:a", "u.json:a", "no such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    measure: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    old: str,
    new: str,
    says: str,
) -> None:
    (tmp_path / "projects/apple/measured.yaml").write_text(PLAN.replace(old, new) if old else PLAN)
    with pytest.raises(SystemExit) as end:
        measure.main(["apple", *arguments])
    assert end.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "projects/apple/results").exists()


def test_an_earlier_run_is_replaced_only_on_demand(
    measure: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    measure.main(["apple", "--only", "small"])
    with pytest.raises(SystemExit):
        measure.main(["apple", "--only", "small"])
    assert "--again" in capsys.readouterr().err
    measure.main(["apple", "--only", "small", "--again"])
    assert "kept" in capsys.readouterr().out


def test_a_result_of_other_commands_is_refused(measure: ModuleType, tmp_path: Path) -> None:
    measure.main(["apple", "--only", "small"])
    plan = tmp_path / "projects/apple/measured.yaml"
    plan.write_text(plan.read_text().replace("2.5", "9.5"))
    assert "came from other commands" in measure.stale_tables()[0]


def test_the_last_line_of_a_log_that_has_the_figure_counts(measure: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "test/a.b": 1}\n{"step": 2, "test/a.b": 2}\n{"step": 3}\n')
    assert measure.read_figure(f"{log}:test/a.b") == 2
