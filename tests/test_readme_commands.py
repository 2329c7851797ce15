"""The commands that READMEs show can be typed.

Fences are marked `sh run`, `sh needs-data` or `sh needs-gpu`. Those of the first kind are run here: in this
process, with `--dry-run` where a project's script would work for minutes; and, marked slow, as they stand in
a fresh copy of the workspace.
"""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", *(p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("p*/*/README.md")))]
FENCE = re.compile(r"^```(\S*)[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = {"run", "needs-data", "needs-gpu"}
GET_UV = "pip install uv && "


def fences(readme: str) -> Iterator[tuple[str, str, str]]:
    """The language, mark and body of each fence."""
    for found in FENCE.finditer((ROOT / readme).read_text(encoding="utf-8")):
        yield found[1], found[2].strip(), found[3]


def commands(body: str) -> list[list[str]]:
    """The words of each command of a fence, without comments, line continuations and the way to get uv."""
    lines = body.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix(GET_UV), comments=True) for line in lines]
    return [w for w in words if w]


def runnable() -> list[tuple[str, list[str]]]:
    return [
        (readme, words)
        for readme in READMES
        for language, mark, body in fences(readme)
        if language == "sh" and mark == "run"
        for words in commands(body)
    ]


def scripts() -> dict[str, set[str]]:
    """The scripts of each member."""
    tables = [tomllib.loads(p.read_text("utf-8"))["project"] for p in ROOT.glob("p*/*/pyproject.toml")]
    return {table["name"]: set(table.get("scripts", {})) for table in tables}


@pytest.mark.parametrize("readme", READMES)
def test_every_shell_fence_says_whether_it_can_be_run(readme: str) -> None:
    for language, mark, body in fences(readme):
        assert language not in {"bash", "shell", "console"}, f"{readme}: expected ```sh and a mark\n{body}"
        if language == "sh":
            assert mark in MARKS, f"{readme}: mark {mark!r}, expected one of {sorted(MARKS)}\n{body}"


def test_the_first_command_installs_uv_and_starts_the_tour_and_the_second_tests() -> None:
    shell = [body.strip() for language, _, body in fences("README.md") if language == "sh"]
    assert shell[0] == f"{GET_UV}uv run --package smp-caption train"
    assert shell[1] == "uv run pytest"


@pytest.mark.parametrize(("readme", "words"), runnable(), ids=lambda value: str(value)[:60])
def test_a_command_of_a_readme_is_understood(
    readme: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words[:2] == ["uv", "run"], f"{readme}: a test cannot run {' '.join(words)!r}"
    rest = words[2:]
    package = "prunelab"
    if rest[0] == "--package":
        package, rest = rest[1], rest[2:]
    program, arguments = rest[0], rest[1:]
    if program == "pytest":
        assert set(arguments) <= {
            "-m",
            "parity",
            "tiny",
            "slow",
            *(p for p in arguments if (ROOT / p).exists()),
        }
    elif program == "python" and arguments[0].startswith("tools/"):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(arguments[0], run_name="__main__")
        assert end.value.code in {0, None}
    elif package == "prunelab":
        assert program in scripts()[package], f"{readme}: {package} has no script {program!r}"
        with pytest.raises(SystemExit) as end:
            importlib.import_module("prunelab.cli").main([arguments[0], "--help"])
        assert end.value.code == 0
    else:
        assert program in scripts()[package], f"{readme}: {package} has no script {program!r}"
        main = importlib.import_module(f"{package.replace('-', '_')}.{program.replace('-', '_')}").main
        main([*arguments, "--dry-run"])
        assert capsys.readouterr().out, "a dry run says what it would do"
        assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
@pytest.mark.parametrize("readme", READMES)
def test_the_commands_of_a_readme_run_one_after_the_other(
    readme: str, workspace: Path, outside: dict[str, str]
) -> None:
    bodies = [b for language, mark, b in fences(readme) if (language, mark) == ("sh", "run")]
    # The suite that this test belongs to is only collected.
    environment = {**outside, "PYTEST_ADDOPTS": "--collect-only -q", "CI": os.environ.get("CI", "true")}
    for body in bodies:
        text = body if shutil.which("pip", path=outside["PATH"]) else body.replace(GET_UV, "")
        ended = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=workspace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{body}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
