"""Write `docs/parity/P.md` from the features that P's original names: `feature_table.py P [--check]`.

The list stands in `projects/P/tests/features.yaml`, where P's own tests hold it against the code::

    title: Name of the paper
    intro: One paragraph.
    groups:
      - name: Models
        features:
          - claim: what the original's README says that it can do
            status: available               # or "in part", "not yet available"
            command: uv run --package P train --config config/a.yaml
            shown_by: [test_parity_models.py]   # files of the project's tests; for what is there
            note: what to know (may be left out)

Without P all projects that have such a list are meant. `--check` writes nothing and fails where a page is
stale; `tools/check_docs.py` looks at the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunelab.doors import read_yaml
from prunelab.errors import UserError, entry
from prunelab.util import atomic_write

ROOT = Path(__file__).resolve().parents[1]
LIST = "tests/features.yaml"
STATUSES = ("available", "in part", "not yet available")
FEATURE_KEYS = {"claim", "status", "command", "shown_by", "note"}


def read_features(folder: Path) -> dict[str, Any]:
    """Read a project's list and check its words.

    Args:
        folder: the project's folder.

    Raises:
        UserError: no list, a missing or unknown key, an unknown status, a claim twice, a test that is not
            there.
    """
    path = folder / LIST
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the features that the original names")
    content = read_yaml(path)
    if not isinstance(content, dict) or content.keys() != {"title", "intro", "groups"}:
        raise UserError(f"{path}: expected title, intro and groups")
    claims: set[str] = set()
    for feature in (f for group in content["groups"] for f in group["features"]):
        _check(feature, f"{path}: {feature.get('claim')!r}", folder / "tests")
        if feature["claim"] in claims:
            raise UserError(f"{path}: {feature['claim']!r} is there twice")
        claims.add(feature["claim"])
    return content


def _check(feature: Mapping[str, Any], where: str, tests: Path) -> None:
    if missing := {"claim", "status", "command"} - feature.keys():
        raise UserError(f"{where}: {sorted(missing)} must be given")
    if unknown := feature.keys() - FEATURE_KEYS:
        raise UserError(f"{where}: unknown key {sorted(unknown)}, expected {sorted(FEATURE_KEYS)}")
    if feature["status"] not in STATUSES:
        raise UserError(f"{where}: status is {feature['status']!r}, expected one of {', '.join(STATUSES)}")
    named = feature.get("shown_by", [])
    if bool(named) == (feature["status"] == "not yet available"):
        raise UserError(
            f"{where}: shown_by is {named}, expected tests for what is there and none for the rest"
        )
    if absent := [name for name in named if not (tests / name).is_file()]:
        raise UserError(f"{where}: shown_by names {absent}, which {tests} does not hold")


def page(name: str, content: Mapping[str, Any]) -> str:
    """The page of a project as Markdown."""
    every = [f["status"] for group in content["groups"] for f in group["features"]]
    counts = ", ".join(f"{every.count(status)} {status}" for status in STATUSES if status in every)
    lines = [
        f"# {name}: features of the original",
        "",
        f"<!-- made by tools/feature_table.py from projects/{name}/{LIST}: edit that file -->",
        "",
        " ".join(content["intro"].split()),
        "",
        f"Of {len(every)} features: {counts}.",
    ]
    for group in content["groups"]:
        lines += [
            "",
            f"## {group['name']}",
            "",
            "| feature | status | command | shown by |",
            "|---|---|---|---|",
        ]
        lines += [_row(name, feature) for feature in group["features"]]
    return "\n".join(lines) + "\n"


def _row(name: str, feature: Mapping[str, Any]) -> str:
    claim = feature["claim"] + (f"; {feature['note']}" if "note" in feature else "")
    tests = ", ".join(f"[{test}](../../projects/{name}/tests/{test})" for test in feature.get("shown_by", []))
    cells = (claim, feature["status"], f"`{feature['command']}`", tests or "–")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def place(root: Path, name: str) -> Path:
    """Where a project's page lies."""
    return root / "docs" / "parity" / f"{name}.md"


def listed(root: Path) -> list[str]:
    """The projects that have a list."""
    return sorted(path.parents[1].name for path in root.glob(f"projects/*/{LIST}"))


def stale_pages(root: Path) -> list[str]:
    """One line for each project whose page differs from its list, or whose list is wrong."""
    found = []
    for name in listed(root):
        try:
            text = page(name, read_features(root / "projects" / name))
        except UserError as error:
            found.append(str(error))
            continue
        target = place(root, name)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            found.append(f"{target}: differs from the project's {LIST}: feature_table.py {name}")
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(prog="feature_table.py", description="Write docs/parity/P.md.")
    parser.add_argument("projects", nargs="*", metavar="P", help="projects; none: all that have a list")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    root = options.root.resolve()
    if options.check:
        if stale := stale_pages(root):
            raise UserError("; ".join(stale))
        print("every page agrees with its list")
        return
    for name in options.projects or listed(root):
        text = page(name, read_features(root / "projects" / name))
        with atomic_write(place(root, name), "w") as file:
            file.write(text)
        print(f"wrote {place(root, name)}")


if __name__ == "__main__":
    main()
