"""The skeleton of a sixth project passes every check from its first minute."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def make(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/new_project.py", *arguments, "--root", str(workspace)]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def test_a_new_project_breaks_no_rule_and_is_registered(workspace: Path) -> None:
    import check_docs
    import check_files
    import check_house

    before = {str(p) for p in check_house.check(workspace)}
    made = make(workspace, "plum-net", "--title", "Plums, pruned.")
    assert made.returncode == 0, made.stderr
    assert "uv run --package plum-net train" in made.stdout
    assert {str(p) for p in check_house.check(workspace)} - before == set()
    new = subprocess.run(
        ["git", "ls-files", "--others", "--modified", "--exclude-standard"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"projects/plum-net/src/plum_net/train.py", "docs/plum-net.md", "pyproject.toml"} <= set(new)
    assert '"plum_net.cli", "plum_net.config"]' in (workspace / "pyproject.toml").read_text()
    for name in new:
        path = workspace / name
        assert list(check_files.problems(path)) == []
        assert "{{" not in path.read_text().replace("${{", "")
        if path.suffix == ".md":
            assert list(check_docs.broken_links(path, workspace)) == []
    for command in (["format", "--check"], ["check"]):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "projects/plum-net"],
            cwd=workspace,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", ["Plum", "plum_net", "prunelab", "-plum", "smp-caption"])
def test_a_name_that_cannot_be_one_changes_nothing(workspace: Path, name: str) -> None:
    ended = make(workspace, "--", name) if name.startswith("-") else make(workspace, name)
    assert ended.returncode == 2
    changed = ["git", "status", "--porcelain", "--untracked-files=all"]
    status = subprocess.run(changed, cwd=workspace, capture_output=True, text=True, check=True).stdout
    assert all(line.startswith("A  ") for line in status.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_a_new_project_passes_its_tests_and_every_check_in_an_environment_of_its_own(
    workspace: Path, outside: dict[str, str]
) -> None:
    assert make(workspace, "plum-net").returncode == 0
    subprocess.run(["git", "add", "--all"], cwd=workspace, check=True)
    member = ["projects/plum-net/src", "--config", "projects/plum-net/pyproject.toml"]
    for command in (
        ["pytest", "-q", "projects/plum-net"],
        ["ruff", "check", "projects/plum-net"],
        ["ruff", "format", "--check", "projects/plum-net"],
        ["basedpyright", "projects/plum-net"],
        ["lint-imports"],
        ["deptry", *member],
        ["python", "tools/check_house.py"],
        ["python", "tools/check_docs.py"],
        ["train", "--version"],
    ):
        package = ["--package", "plum-net"] if command[0] == "train" else []
        ended = subprocess.run(
            ["uv", "run", "--quiet", *package, *command],
            cwd=workspace,
            env=outside,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
