"""Check the Markdown that the repository tracks: links lead somewhere, generated tables are up to date.

A linked file must exist, a heading be named as forges spell it. Links to other sites are not followed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from check_files import tracked
from feature_table import stale_pages
from measure import stale_tables

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def anchors(text: str) -> set[str]:
    """The names by which links reach the headings of ``text``; a second one of the same name gets ``-1``."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain.replace("`", "")).strip())
        twin = 0
        unique = name
        while unique in found:
            twin += 1
            unique = f"{name}-{twin}"
        found.add(unique)
    return found


def broken_links(path: Path, root: Path) -> Iterator[str]:
    """One line for each link of a Markdown file that leads nowhere, or out of the repository."""
    text = path.read_text(encoding="utf-8")
    for target in LINK.findall(CODE.sub("", FENCE.sub("", text))):
        if ELSEWHERE.match(target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (path.parent / name).resolve() if name else path.resolve()
        if not file.is_relative_to(root.resolve()):
            yield f"{path}: link to {target} leaves the repository"
        elif not file.exists():
            yield f"{path}: link to {target}: no such file"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{path}: link to {target}: no such heading"


def main() -> int:
    """Print one line a problem and return 1 where there is one."""
    pages = [p for p in tracked(ROOT) if p.suffix == ".md" and "fixtures" not in p.parts]
    found = [problem for page in pages for problem in broken_links(page, ROOT)]
    found += [*stale_tables(), *stale_pages(ROOT)]
    print("\n".join(found) or f"{len(pages)} pages are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
