"""Which project do the scripts that several projects share start?"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from prunelab import launch
from prunelab.errors import UserError

UV = "/usr/bin/uv"


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, no uv above, a folder of no project, and two projects installed."""
    monkeypatch.delenv(launch.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "ancestor_commands", list)
    monkeypatch.setattr(launch, "installed_projects", lambda script: ["apple-seg", "pear-vit"])


def uv_above(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(launch, "ancestor_commands", lambda: [["bash"], [UV, "run", *arguments], ["init"]])


def write_project(folder: Path, name: str, target: str = "prunelab.launch:train") -> Path:
    folder.mkdir(parents=True)
    text = f'[project]\nname = "{name}"\n[project.scripts]\ntrain = "{target}"\n'
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_the_variable_wins_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.ENVIRONMENT_VARIABLE, "Pear_ViT")
    uv_above(monkeypatch, "--package", "apple-seg", "train")
    assert launch.which_project("train") == "pear-vit"


def test_uv_run_wins_over_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(write_project(tmp_path / "apple", "apple-seg"))
    uv_above(monkeypatch, "--package", "pear-vit", "train")
    assert launch.which_project("train") == "pear-vit"


def test_the_folder_counts_from_anywhere_inside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside = write_project(tmp_path / "apple", "apple-seg") / "config" / "deep"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    uv_above(monkeypatch, "train")
    assert launch.which_project("train") == "apple-seg"


def test_a_folder_of_something_else_says_nothing(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "outer", "pear-vit") / "inner"
    write_project(folder, "foreign", target="foreign.train:main")
    assert launch.project_of_folder(folder, "train") == "pear-vit"
    (folder / "pyproject.toml").write_text("not toml at all [")
    assert launch.project_of_folder(folder, "train") == "pear-vit"
    assert launch.project_of_folder(folder, "demo") is None


def test_the_only_one_installed_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "installed_projects", lambda script: ["apple-seg"])
    assert launch.which_project("train") == "apple-seg"


def test_doubt_is_one_line_that_lists_the_ways() -> None:
    with pytest.raises(UserError, match="apple-seg, pear-vit") as doubt:
        launch.which_project("train")
    for way in ("uv run --package NAME train", "PRUNELAB_PROJECT=NAME", "folder"):
        assert way in str(doubt.value)


def test_a_named_project_that_is_not_installed_is_never_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "installed_projects", lambda script: ["apple-seg"])
    monkeypatch.chdir(write_project(tmp_path / "plum", "plum-net"))
    with pytest.raises(UserError, match=r"the working directory says 'plum-net'.*expected one of apple-seg"):
        launch.which_project("train")
    uv_above(monkeypatch, "--package=prunelab", "train")
    with pytest.raises(UserError, match="`uv run --package` says 'prunelab'"):
        launch.which_project("train")
    monkeypatch.setenv(launch.ENVIRONMENT_VARIABLE, "kiwi")
    with pytest.raises(UserError, match="PRUNELAB_PROJECT says 'kiwi'"):
        launch.which_project("train")


def test_no_project_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "installed_projects", lambda script: [])
    with pytest.raises(UserError, match="no installed project declares the script 'train'"):
        launch.which_project("train")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--package", "a", "train"], "a"),
        (["--package=a", "train"], "a"),
        (["--frozen", "--package", "a", "train", "--package", "b"], "a"),
        (["--with", "rich", "--package", "a", "python", "x.py"], "a"),
        (["--directory=projects/a", "train", "--package", "b"], None),
        (["train", "--package", "b"], None),
        (["--frozen", "/x/bin/train", "--package", "b"], None),
        (["--frozen", "sh", "run.sh", "--package", "b"], None),
        (["--", "train", "--package", "b"], None),
        (["--package"], None),
        ([], None),
    ],
)
def test_package_is_read_among_uvs_own_options_only(arguments: list[str], expected: str | None) -> None:
    assert launch.package_of_uv_run([[UV, "--quiet", "run", *arguments]], "train") == expected


def test_only_the_nearest_uv_run_counts() -> None:
    near, far = [UV, "run", "train"], [UV, "run", "--package", "a", "make"]
    assert launch.package_of_uv_run([[], ["sh"], near, far], "train") is None
    assert launch.package_of_uv_run([["sh"], [UV, "sync", "--package", "b"], far], "train") == "a"
    assert launch.package_of_uv_run([["uv.exe", "run", "--package", "c", "train"]], "train") == "c"


def test_a_script_starts_main_of_its_project(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    module = ModuleType("pear_vit.fine_tune")
    module.__dict__["main"] = lambda: started.append("pear-vit")
    monkeypatch.setitem(sys.modules, "pear_vit", ModuleType("pear_vit"))
    monkeypatch.setitem(sys.modules, "pear_vit.fine_tune", module)
    monkeypatch.setenv(launch.ENVIRONMENT_VARIABLE, "pear-vit")
    launch.__getattr__("fine-tune")()
    assert started == ["pear-vit"]


def test_doubt_ends_with_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        launch.__getattr__("train")()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_private_names_are_no_scripts() -> None:
    with pytest.raises(AttributeError, match="_train"):
        launch.__getattr__("_train")


def test_installed_projects_are_those_whose_script_leads_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    for name, target in {"Plum_Net": "prunelab.launch:train", "foreign": "foreign.train:main"}.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\ntrain = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = launch.installed_projects("train")
    assert "plum-net" in found
    assert "foreign" not in found


def test_a_script_with_a_dash_is_the_function_with_an_underscore(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Entry points name a function, so ``data-generator`` comes here as ``data_generator``."""
    monkeypatch.undo()
    info = tmp_path / "plum_net-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plum-net\nVersion: 1.0\n")
    line = "data-generator = prunelab.launch:data_generator"
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "plum"
    folder.mkdir()
    text = (
        '[project]\nname = "plum-net"\n[project.scripts]\ndata-generator = "prunelab.launch:data_generator"\n'
    )
    (folder / "pyproject.toml").write_text(text)
    for script in ("data_generator", "data-generator"):
        assert "plum-net" in launch.installed_projects(script)
        assert launch.project_of_folder(folder, script) == "plum-net"
        command = [UV, "run", "--verbose", "data-generator", "--package", "other"]
        assert launch.package_of_uv_run([command], script) is None


def test_ancestors_are_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    commands = list(launch.ancestor_commands())
    assert commands
    assert all(isinstance(word, str) for command in commands for word in command)
