"""Shared script names under a real uv: the real launcher in a small workspace of two throw-away projects."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "packages/core/src/prunelab"
PROJECTS = ("apple-seg", "pear-vit")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv"),
]


def write_member(folder: Path, name: str, dependencies: Sequence[str], scripts: str = "") -> Path:
    package = folder / "src" / name.replace("-", "_")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    wanted = ", ".join(f'"{d}"' for d in dependencies)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "0.1.0"\nrequires-python = ">=3.11"\n'
        f"dependencies = [{wanted}]\n{scripts}"
        "[tool.uv.sources]\nprunelab = { workspace = true }\n"
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    return package


@pytest.fixture(scope="module")
def orchard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of a core with the launcher alone, and two projects whose `train` prints its own name."""
    root = tmp_path_factory.mktemp("orchard")
    (root / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*", "projects/*"]\n')
    core = write_member(root / "packages/core", "prunelab", ["psutil"])
    for module in ("launch.py", "errors.py"):
        shutil.copy(CORE / module, core)
    scripts = '[project.scripts]\ntrain = "prunelab.launch:train"\n'
    for name in PROJECTS:
        package = write_member(root / "projects" / name, name, ["prunelab"], scripts)
        (package / "train.py").write_text(f"def main(argv=None):\n    print({name!r})\n")
    return root


def uv(
    orchard: Path, environment: dict[str, str], *arguments: str, folder: str = "."
) -> tuple[int, str, str]:
    ended = subprocess.run(
        ["uv", *arguments],
        cwd=orchard / folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, ended.stdout.strip(), ended.stderr.strip()


def started(orchard: Path, environment: dict[str, str], project: str) -> str:
    return uv(orchard, environment, "run", "--quiet", "--package", project, "train")[1]


@pytest.mark.parametrize("order", [PROJECTS, PROJECTS[::-1]])
def test_alternating_starts_are_right_in_both_orders(
    orchard: Path, outside: dict[str, str], order: Sequence[str]
) -> None:
    shutil.rmtree(orchard / ".venv", ignore_errors=True)
    wanted = [*order, *order, *order]
    assert [started(orchard, outside, project) for project in wanted] == wanted


def test_with_every_member_installed_the_named_one_starts_and_doubt_is_one_line(
    orchard: Path, outside: dict[str, str]
) -> None:
    code, _, errors = uv(orchard, outside, "sync", "--all-packages")
    assert code == 0, errors
    for project in PROJECTS:
        assert started(orchard, outside, project) == project
        inside = f"projects/{project}/src"
        assert uv(orchard, outside, "run", "--quiet", "train", folder=inside)[1] == project
        named = {**outside, "PRUNELAB_PROJECT": project}
        assert uv(orchard, named, "run", "--quiet", "train")[1] == project
    code, output, errors = uv(orchard, outside, "run", "--quiet", "train")
    assert (code, output) == (2, "")
    assert errors.count("\n") == 0
    assert "apple-seg, pear-vit" in errors


def test_twelve_starts_in_parallel_are_all_right(orchard: Path, outside: dict[str, str]) -> None:
    wanted = [*PROJECTS] * 6
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = list(pool.map(lambda project: started(orchard, outside, project), wanted))
    assert found == wanted
