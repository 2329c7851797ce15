"""Make the skeleton of a project and register it everywhere: `new_project.py NAME [--title TEXT]`.

What it makes trains on generated data from the first minute and passes every check; what is the paper's then
takes its place, file by file (docs/add-a-paper.md).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prunelab.errors import UserError, entry

ROOT = Path(__file__).resolve().parents[1]
SKELETON = Path(__file__).resolve().parent / "skeleton"


def make(root: Path, name: str, title: str) -> list[Path]:
    """Write the project below ``root`` and register it; returns the new files.

    Raises:
        UserError: the name cannot be one, the folder is there, or the root has no place to register in.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name == "prunelab":
        raise UserError(f"{name!r} cannot be a project's name: expected words of a-z and 0-9 joined by '-'")
    package = name.replace("-", "_")
    folder = root / "projects" / name
    if folder.exists():
        raise UserError(f"{folder} is there already: expected a new name")
    registered = {
        path: edit(root, path, name, title) for path in ("README.md", "CHANGELOG.md", "docs/README.md")
    }
    registered["pyproject.toml"] = with_contracts((root / "pyproject.toml").read_text("utf-8"), package)
    texts = {root / path: text for path, text in registered.items()}
    new = {}
    for template in sorted(SKELETON.rglob("*.tmpl")):
        text = template.read_text("utf-8")
        for word, value in {"name": name, "package": package, "title": title}.items():
            text = text.replace("{{" + word + "}}", value)
        new[place(root, folder, package, template.relative_to(SKELETON))] = text
    for path, text in {**new, **texts}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # How imports sort and lines break depends on the name.
    for command in (["check", "--select", "I", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", str(folder)], cwd=root, check=True)
    return sorted(new)


def place(root: Path, folder: Path, package: str, template: Path) -> Path:
    """Where a file of the skeleton goes."""
    room, *rest = template.with_suffix("").parts
    if room == "root":
        name = folder.name
        return {"workflow.yml": root / f".github/workflows/{name}.yml", "page.md": root / f"docs/{name}.md"}[
            rest[0]
        ]
    if room == "src":
        return folder.joinpath("src", package, *rest)
    return folder.joinpath(room, *rest)


def with_contracts(text: str, package: str) -> str:
    """The root's ``pyproject.toml`` with the package in every list of import-linter that names projects.

    Raises:
        UserError: one of the lists is not there.
    """
    for key in ("root_packages", "forbidden_modules", "modules", "containers"):
        # The first list of this name is the one of projects.
        text, count = re.subn(rf"(?m)^({key} = \[[^\]]*)\]", rf'\1, "{package}"]', text, count=1)
        if not count:
            raise UserError(f"pyproject.toml: found no list {key!r} among the import contracts")
    parsers = r'(?m)^(source_modules = \["\w+\.cli"[^\]]*)\]'
    text, count = re.subn(parsers, rf'\1, "{package}.cli", "{package}.config"]', text, count=1)
    if not count:
        raise UserError("pyproject.toml: found no list of the projects' parsers among the import contracts")
    return text


def edit(root: Path, path: str, name: str, title: str) -> str:
    """The text of a file of the root with its line about the project.

    Raises:
        UserError: the place for the line is not found.
    """
    anchor, line = {
        "README.md": (
            r"(?m)^\| \[[^\]]+\]\(projects/[^\n]*\n(?!\| \[)",
            f"| [{name}](projects/{name}/README.md) | {title} | |\n",
        ),
        "CHANGELOG.md": (r"(?m)^## [^\n]*\n(?:(?!^## )[^\n]*\n)*", f"\n### {name}\n- First version.\n"),
        "docs/README.md": (r"(?m)^One page a project:\n\n(?:- [^\n]*\n)*", f"- [{name}]({name}.md)\n"),
    }[path]
    text = (root / path).read_text("utf-8")
    found = re.search(anchor, text)
    if not found:
        raise UserError(f"{path}: found no place for a line about {name}")
    return text[: found.end()] + line + text[found.end() :]


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Make a project."""
    parser = argparse.ArgumentParser(prog="new_project.py", description="Make the skeleton of a project.")
    parser.add_argument("name", help="the distribution's name, e.g. smp-caption")
    parser.add_argument("--title", default="A paper about pruning", help="one line about the paper")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    for path in make(options.root.resolve(), options.name, options.title.rstrip(".")):
        print(f"wrote {path}")
    print(f"next: uv run --package {options.name} train, then docs/add-a-paper.md")


if __name__ == "__main__":
    main()
