"""The house's own rules find what breaks them, and the house keeps them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def house() -> ModuleType:
    import check_house

    return check_house


def problems(house: ModuleType, root: Path, name: str, text: str) -> list[str]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [p.rule for p in house.check_file(root, path)]


def test_the_house_is_in_order(house: ModuleType) -> None:
    assert [str(p) for p in house.check(ROOT)] == []


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("tools/long.py", "x = 1\n" * 501, ["file-lines"]),
        ("tools/fits.py", "x = 1\n" * 500, []),
        ("projects/p/src/p/train.py", "x = 1\n" * 251, ["file-lines"]),
        ("tools/wide.py", "def f():\n" + "    x = 1\n" * 80, ["function-lines"]),
        ("projects/p/src/p/train.py", "def main():\n" + "    x = 1\n" * 15, ["function-lines"]),
        ("tools/fit.py", "def f():\n" + "    x = 1\n" * 79, []),
        ("projects/p/src/p/utils.py", "", ["file-name"]),
        ("projects/p/src/p/work.py", "import x\nx.start()\n", ["import-effect"]),
        ("projects/p/src/p/table.py", "class A(B): ...\nA.add(1)\n", []),
        ("tools/start.py", 'if __name__ == "__main__":\n    main()\n', []),
        ("tests/test_a.py", "def test_a():\n    print(1)\n", ["assertion"]),
        ("tests/test_b.py", "def test_b():\n    with pytest.raises(E):\n        f()\n", []),
        ("tests/test_c.py", "def test_c():\n    torch.testing.assert_close(a, b)\n", []),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(
    house: ModuleType, tmp_path: Path, name: str, text: str, rules: list[str]
) -> None:
    assert problems(house, tmp_path, name, text) == rules


@pytest.mark.parametrize(
    ("floor", "line", "allowed"),
    [
        ("config", "import json", True),
        ("config", "from prunelab.doors import word_bool", True),
        ("config", "import torch", False),
        ("config", "from apple.cli import parse", False),
        ("cli", "from apple.config import Config", True),
        ("cli", "from apple import config, __version__", True),
        ("cli", "from apple.data import load", False),
        ("cli", "def f():\n    from apple import steps", False),
        ("steps", "from apple.config import Config", True),
        ("steps", "from apple.train import train", False),
        ("steps", "from .cli import parse", False),
        ("steps", "if TYPE_CHECKING:\n    from apple.train import train", True),
        ("train", "from apple.cli import parse", True),
        ("train", "from pear.model import Net", False),
    ],
)
def test_a_project_imports_only_what_its_floor_may(
    house: ModuleType, tmp_path: Path, floor: str, line: str, allowed: bool
) -> None:
    for name in ("apple", "pear"):
        source = tmp_path / "projects" / name / "src" / name
        source.mkdir(parents=True)
        (source.parents[1] / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    (tmp_path / f"projects/apple/src/apple/{floor}.py").write_text(f"{line}\n")
    apple = house.members(tmp_path)[0]
    found = list(house.check_project_imports(tmp_path, apple))
    assert bool(found) != allowed


def test_a_script_of_two_members_must_lead_to_the_launcher(house: ModuleType, tmp_path: Path) -> None:
    for name, target in {"apple": "apple.train:main", "pear": "prunelab.launch:trane"}.items():
        folder = tmp_path / "projects" / name
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\n[project.scripts]\ntrain = "{target}"\nown = "x:y"\n'.replace(
                "own", f"own-{name}"
            )
        )
    members = house.members(tmp_path)
    found = [p.text for p in house.check_scripts(tmp_path, members)]
    assert [text.split(",")[0] for text in found] == [
        "script 'train' is declared by pear too: it must be prunelab.launch:train",
        "script 'train' leads to prunelab.launch:trane",
        "script 'train' has no module pear.train",
    ]


def test_a_script_with_a_dash_leads_to_a_function_and_a_module_with_underscores(
    house: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "projects/apple"
    (folder / "src/apple").mkdir(parents=True)
    (folder / "src/apple/cut_up.py").touch()
    text = '[project]\nname = "apple"\n[project.scripts]\ncut-up = "prunelab.launch:cut_up"\n'
    (folder / "pyproject.toml").write_text(text)
    assert not list(house.check_scripts(tmp_path, house.members(tmp_path)))


@pytest.mark.parametrize(
    ("path", "removed", "says"),
    [
        ("CHANGELOG.md", "### smp-caption", "CHANGELOG.md"),
        ("README.md", "(projects/smp-caption/README.md)", "README.md"),
        ("docs/README.md", "(smp-caption.md)", "docs/README.md"),
        (".github/workflows/smp-caption.yml", "projects/smp-caption/**", "smp-caption.yml"),
        ("pyproject.toml", '\ncontainers = ["smp_caption", ', "layers contract"),
        ("pyproject.toml", '\nmodules = ["smp_caption", ', "independence contract"),
        ("pyproject.toml", ', "projects/*"', "workspace member"),
        ("projects/smp-caption/pyproject.toml", 'demo = "prunelab.launch:demo"', "no script 'demo'"),
    ],
)
def test_a_missing_registration_is_found(
    house: ModuleType, workspace: Path, path: str, removed: str, says: str
) -> None:
    file = workspace / path
    text = file.read_text()
    assert removed in text
    head, bracket, _ = removed.rpartition("[")  # of a list the name alone goes, and the list stays
    file.write_text(text.replace(removed, head + bracket))
    project = next(m for m in house.members(workspace) if m.name == "smp-caption")
    found = list(house.check_registrations(workspace, project))
    assert any(says in str(p) for p in found)


def test_an_exception_that_excuses_nothing_is_a_problem(
    house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/a.py").write_text("x = 1\n" * 501)
    (tmp_path / "tools/b.py").write_text("x = 1\n")
    excused = {("tools/a.py", "file-lines"): "a table", ("tools/b.py", "file-lines"): "was long once"}
    monkeypatch.setattr(house, "EXCEPTIONS", excused)
    found = house.check(tmp_path)
    assert [(p.path, p.rule) for p in found] == [("tools/b.py", "file-lines")]
    assert "remove it" in found[0].text
