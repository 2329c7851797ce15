"""What tests read of a project's documents: fences, tables, the list of the original's features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunelab.doors import read_yaml

FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fence of a page: its language, and its body."""


def fences(text: str, language: str) -> list[str]:
    """The bodies of a page's fences of a language, in their order."""
    return [body for named, body in FENCE.findall(text) if named == language]


def lines_to_type(texts: Sequence[str], inline: re.Pattern[str]) -> list[str]:
    """The lines of all shell fences of some pages, then what running text and tables show of commands.

    Args:
        texts: the pages.
        inline: a pattern with one group, the command.
    """
    bodies = "".join(body for text in texts for body in fences(text, "sh"))
    shown = [command for text in texts for command in inline.findall(FENCE.sub("", text))]
    return bodies.replace("\\\n", " ").splitlines() + shown


def last_column(text: str, start: str) -> list[str]:
    """The names at the ends of the rows of the table whose heading starts so."""
    rows = text.partition(start)[2].partition("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`(\w+)` \|$", row)[0] for row in rows]


def features(project: Path) -> list[dict[str, Any]]:
    """The rows of a project's ``features.yaml``: what the original's README names, of all groups."""
    groups = read_yaml(project / "tests/features.yaml")["groups"]
    return [feature for group in groups for feature in group["features"]]
