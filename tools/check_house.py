"""The rules of the house that no other tool knows: budgets, names, import rules, tests, registrations.

`check_house.py [--root DIR]` prints one line a problem and ends with code 1 where there is one. What breaks a
rule on purpose stands in `EXCEPTIONS` with its reason; an exception that excuses nothing is a problem itself.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import os
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_LINES = 500
FUNCTION_LINES = 80
TRAIN_LINES = 250
MAIN_LINES = 15  # main() of train.py: parse, lower, go

# (path or glob, rule) -> why this one is better so
EXCEPTIONS: dict[tuple[str, str], str] = {
    (
        "packages/core/src/prunelab/util.py",
        "file-name",
    ): "the one small catch-all, for foreign files and safe writing",
}

CATCH_ALLS = {"util", "utils", "misc", "helper", "helpers", "common", "stuff", "tools"}
SKIPPED_FOLDERS = {"__pycache__", "node_modules", "build", "dist", "runs"}
LAUNCHER = "prunelab.launch"
EXPECTED_SCRIPTS = ("train", "test", "demo")
DOORS = {"prunelab.config", "prunelab.doors", "prunelab.errors"}
# Modules of a project that say what is wanted and do nothing; a large config is several files.
CONFIG_FLOOR = {"config", "layout", "lowering", "options"}
# Named sizes as ConfigDicts: beside the config, though they need ml-collections.
CONFIG_DICTS = "configs"
# Modules of a project that start work; nothing below them may import them.
ENTRIES = {
    *("train", "test", "demo", "infer", "prune", "export", "extract", "convert"),
    *("prepare", "compare", "data_generator", "bench"),
}
FLOOR_WORK = {"steps", "evaluate", "pruner", "data", "model"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One broken rule at one place."""

    path: str
    """Relative to the root, with forward slashes."""
    rule: str
    """The rule's short name, as in `EXCEPTIONS`."""
    text: str
    """What is wrong and what was expected."""

    def __str__(self) -> str:
        return f"{self.path}: {self.text} [{self.rule}]"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A folder of the workspace with a package in it."""

    folder: Path
    table: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's name."""
        return str(self.table.get("project", {}).get("name", self.folder.name))

    @property
    def package(self) -> str:
        """The name to import."""
        return self.name.replace("-", "_")

    @property
    def scripts(self) -> dict[str, str]:
        """Script name to its ``module:function``."""
        return dict(self.table.get("project", {}).get("scripts", {}))

    @property
    def source(self) -> Path:
        """The folder of the package."""
        return self.folder / "src" / self.package


def members(root: Path) -> list[Member]:
    """Every folder of ``packages/`` and ``projects/`` that has a ``pyproject.toml``."""
    found = sorted(p for room in ("packages", "projects") for p in root.glob(f"{room}/*/pyproject.toml"))
    return [Member(folder=p.parent, table=tomllib.loads(p.read_text(encoding="utf-8"))) for p in found]


def python_files(root: Path) -> list[Path]:
    """Every Python file of the workspace, sorted."""
    found = [p for p in root.glob("*.py") if p.is_file()]
    for room in ("packages", "projects", "tools", "tests"):
        for folder, folders, names in os.walk(root / room):
            folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(".")]
            found += [Path(folder, n) for n in names if n.endswith(".py")]
    return sorted(found)


# --- one file ---


def check_file(root: Path, path: Path) -> Iterator[Problem]:
    """Budgets, name and, by where the file lies, import-time effects or assertions."""
    relative = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=relative)
    in_tests = "tests" in path.relative_to(root).parts
    if path.stem in CATCH_ALLS:
        yield Problem(path=relative, rule="file-name", text=f"{path.stem!r} says nothing: name what is in it")
    yield from _budgets(relative, path.name, text, tree)
    if in_tests:
        yield from _assertions(relative, tree)
    elif "src" in path.parts or relative.startswith("tools/"):
        yield from _import_time_effects(relative, tree)


def _budgets(relative: str, name: str, text: str, tree: ast.Module) -> Iterator[Problem]:
    lines = text.count("\n")
    limit = TRAIN_LINES if name == "train.py" else FILE_LINES
    if lines > limit:
        yield Problem(path=relative, rule="file-lines", text=f"{lines} lines, at most {limit}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = MAIN_LINES if (name, node.name) == ("train.py", "main") else FUNCTION_LINES
            if length > limit:
                text = f"{node.name}() has {length} lines, at most {limit}"
                yield Problem(path=relative, rule="function-lines", text=text)


def _import_time_effects(relative: str, tree: ast.Module) -> Iterator[Problem]:
    """Calls and loops at the top of a module, but for a call that completes a class of the same module."""
    own_classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if is_call and ast.unparse(node).partition(".")[0] in own_classes:
            continue
        if is_call or isinstance(node, ast.For | ast.While | ast.With):
            text = f"line {node.lineno} does work when the module is imported"
            yield Problem(path=relative, rule="import-effect", text=text)


def _assertions(relative: str, tree: ast.Module) -> Iterator[Problem]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not _asserts(node):
            yield Problem(path=relative, rule="assertion", text=f"{node.name}() asserts nothing")


def _asserts(function: ast.FunctionDef) -> bool:
    """Whether it asserts, expects an error, or calls something whose name says that it checks."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if re.match(r"(raises|warns|fail|assert|check|expect)", name.lstrip("_")):
                return True
    return False


# --- import rules of a project ---


def imported_modules(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """The line and absolute dotted name of each import in ``path``, also inside functions.

    Imports for annotations alone (``if TYPE_CHECKING:``) are left out. ``from a import b`` gives ``a.b``: b
    may be a module or a name of a, the text alone does not say.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"{package}.{base}".rstrip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def check_project_imports(root: Path, member: Member) -> Iterator[Problem]:
    """``cli`` and ``config`` stay light, work imports no entry and no parser, nobody a sister."""
    own = member.package
    sisters = {m.package for m in members(root) if m.folder.parent.name == "projects"} - {own}
    for path in sorted(member.source.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        floor = path.relative_to(member.source).parts[0].removesuffix(".py")
        for line, name in imported_modules(path, own):
            if reason := _import_problem(own, floor, name, sisters):
                text = f"line {line} imports {name}: {reason}"
                yield Problem(path=relative, rule="import", text=text)


def _import_problem(own: str, floor: str, name: str, sisters: set[str]) -> str | None:
    top = name.partition(".")[0]
    inside = name.split(".")[1] if top == own and "." in name else None
    if top in sisters:
        return "a project imports no other project"
    if floor in CONFIG_FLOOR | {"cli"}:
        light = top in sys.stdlib_module_names or any(name == d or name.startswith(f"{d}.") for d in DOORS)
        # `from package import config` names the module last; the package itself gives its version and name.
        ours = top == own and (
            inside is None or inside.startswith("__") or inside in CONFIG_FLOOR | {CONFIG_DICTS}
        )
        if not light and not ours:
            allowed = ", ".join([*sorted(CONFIG_FLOOR), "the standard library", *sorted(DOORS)])
            return f"{floor} imports only {allowed}"
    if floor in FLOOR_WORK and inside in ENTRIES | {"cli"}:
        return f"{floor} stands below the entries and the parser"
    return None


# --- registrations ---


def check_scripts(root: Path, everyone: Sequence[Member]) -> Iterator[Problem]:
    """A script name of several members leads to the launcher and on to a module that is there."""
    owners: dict[str, list[Member]] = defaultdict(list)
    for member in everyone:
        for script in member.scripts:
            owners[script].append(member)
    for member in everyone:
        relative = (member.folder / "pyproject.toml").relative_to(root).as_posix()
        for script, target in member.scripts.items():
            module, _, function = target.partition(":")
            name = script.replace("-", "_")  # entry points name functions
            if module != LAUNCHER:
                if len(owners[script]) > 1:
                    others = ", ".join(m.name for m in owners[script] if m is not member)
                    text = f"script {script!r} is declared by {others} too: it must be {LAUNCHER}:{name}"
                    yield Problem(path=relative, rule="scripts", text=text)
                continue
            if function != name:
                text = f"script {script!r} leads to {target}, expected {LAUNCHER}:{name}"
                yield Problem(path=relative, rule="scripts", text=text)
            if not (member.source / f"{name}.py").is_file():
                text = f"script {script!r} has no module {member.package}.{name}"
                yield Problem(path=relative, rule="scripts", text=text)


def check_registrations(root: Path, member: Member) -> Iterator[Problem]:
    """Whether a project is known everywhere where a project must be known."""
    name, relative = member.name, member.folder.relative_to(root).as_posix()

    def missing(path: str, text: str) -> Problem:
        return Problem(path=path, rule="registration", text=f"{text} (project {name})")

    if name != member.folder.name:
        yield missing(f"{relative}/pyproject.toml", f"[project].name is {name!r}, expected the folder's name")
    if not (member.source / "__init__.py").is_file():
        yield missing(relative, f"has no package src/{member.package}")
    for script in EXPECTED_SCRIPTS:
        if script not in member.scripts:
            yield missing(f"{relative}/pyproject.toml", f"declares no script {script!r}")
    for needed in ("README.md", "measured.yaml", "tests"):
        if not (member.folder / needed).exists():
            yield missing(relative, f"has no {needed}")
    yield from _in_root_table(root, member, missing)
    yield from _in_documents(root, member, missing)


def _in_root_table(root: Path, member: Member, missing: Any) -> Iterator[Problem]:
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    relative = member.folder.relative_to(root).as_posix()
    globs = table["uv"]["workspace"]["members"]
    if not any(fnmatch.fnmatch(relative, g) for g in globs):
        yield missing("pyproject.toml", "is no workspace member")
    linter = table["importlinter"]
    if member.package not in linter["root_packages"]:
        yield missing("pyproject.toml", "is not among import-linter's root_packages")
    wanted = {
        ("forbidden", "forbidden_modules"): "core may import it",
        ("independence", "modules"): "other projects may import it",
        ("layers", "containers"): "its floors are not stated",
    }
    for (kind, key), consequence in wanted.items():
        lists = [c.get(key, []) for c in linter["contracts"] if c["type"] == kind]
        if not any(member.package in names for names in lists):
            yield missing("pyproject.toml", f"no {kind} contract names {member.package}: {consequence}")


def _in_documents(root: Path, member: Member, missing: Any) -> Iterator[Problem]:
    name, relative = member.name, member.folder.relative_to(root).as_posix()
    workflow = f".github/workflows/{name}.yml"
    expected = {
        workflow: rf"paths:[\s\S]*{re.escape(relative)}/\*\*",
        f"docs/{name}.md": rf"{re.escape(name)}",
        "docs/README.md": rf"\({re.escape(name)}\.md\)",
        "CHANGELOG.md": rf"(?m)^### {re.escape(name)}\n- ",
        "README.md": rf"(?m)^\|.*\({re.escape(relative)}(/README\.md)?/?\)",
    }
    for path, pattern in expected.items():
        file = root / path
        if not file.is_file():
            yield missing(path, "is not there")
        elif not re.search(pattern, file.read_text(encoding="utf-8")):
            yield missing(path, f"does not name the project (looked for {pattern})")


# --- all ---


def check(root: Path) -> list[Problem]:
    """Every problem below ``root`` that no exception excuses, and every exception without a problem."""
    everyone = members(root)
    found = [p for path in python_files(root) for p in check_file(root, path)]
    found += check_scripts(root, everyone)
    for member in everyone:
        if member.folder.parent.name == "projects":
            found += [*check_project_imports(root, member), *check_registrations(root, member)]
    used = {key for key in EXCEPTIONS for p in found if _excuses(key, p)}
    stale = [
        Problem(path=path, rule=rule, text="this exception excuses nothing any more: remove it")
        for path, rule in EXCEPTIONS.keys() - used
        if (root / path).exists()
    ]
    return [p for p in found if not any(_excuses(key, p) for key in used)] + stale


def _excuses(key: tuple[str, str], problem: Problem) -> bool:
    path, rule = key
    return rule == problem.rule and fnmatch.fnmatch(problem.path, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the problems; 0 where there is none."""
    parser = argparse.ArgumentParser(prog="check_house.py", description="Check the rules of the house.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    root = parser.parse_args(argv).root.resolve()
    found = check(root)
    for problem in found:
        print(problem)
    if not found:
        print(f"the house is in order: {len(python_files(root))} Python files, {len(members(root))} members")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
