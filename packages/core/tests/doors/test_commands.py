from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from prunelab.doors import (
    add_flags,
    add_own_flags,
    command_parser,
    csv,
    field_docs,
    installed_version,
    typed_flags,
    typed_options,
    word_bool,
)
from prunelab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command is asked to do."""

    source: str
    """File that is
    read."""
    batch_size: int = 8
    """Pictures of a ``batch``, 100 % of them."""
    preset: str = "fixed"
    """``faithful`` or ``fixed``."""
    names: tuple[str, ...] = field(default_factory=tuple)
    """Rows."""
    undocumented: int = 0


def test_docs_of_fields_are_one_line_with_the_default() -> None:
    assert field_docs(Options) == {
        "source": "File that is read.",
        "batch_size": "Pictures of a batch, 100 %% of them. (default: 8)",
        "preset": "faithful or fixed. (default: 'fixed')",
        "names": "Rows.",
    }
    assert field_docs(Options, {"preset": "faithful"})["preset"] == "faithful or fixed. (default: 'faithful')"


def test_version_is_that_of_the_installed_distribution() -> None:
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-distribution") == "unknown"


@pytest.fixture
def parse() -> Callable[..., dict[str, Any]]:
    """Reads the words of a command with one flag of each kind."""
    parser = command_parser("pytest", "train", "learn")
    flags = {"batch_size": int, "lr": float, "shuffle": word_bool, "names": csv()}
    add_flags(parser.add_argument_group("the original's"), flags, {"lr": "first rate"})
    own = {"max_steps": int, "dry_run": bool, "preset": ("faithful", "fixed")}
    add_own_flags(parser, own, {"dry_run": "check and stop"})
    return lambda *words: typed_flags(parser, words)


def test_only_what_was_typed_is_told(parse: Callable[..., dict[str, Any]]) -> None:
    assert parse() == {}
    assert parse("--batch_size", "4", "--max-steps", "2", "--dry-run") == {
        "batch_size": 4,
        "max_steps": 2,
        "dry_run": True,
    }
    assert parse("--shuf", "no", "--names", "a,b", "--preset", "fixed") == {
        "shuffle": False,
        "names": ("a", "b"),
        "preset": "fixed",
    }


def test_our_own_flags_are_typed_with_dashes_and_in_full(parse: Callable[..., dict[str, Any]]) -> None:
    for words in (("--max_step", "2"), ("--max", "2"), ("--batch-size", "2")):
        with pytest.raises(UserError, match=f"pytest train: unknown flag {words[0]}: did you mean --"):
            parse(*words)
    with pytest.raises(UserError, match="'fast' is not possible"):
        parse("--preset", "fast")


def test_help_shows_project_version_and_flags(
    parse: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("--version")
    assert capsys.readouterr().out == f"pytest {pytest.__version__}\n"
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert shown.startswith("pytest train: learn\n")
    for text in (
        "--batch_size N",
        "--lr X",
        "first rate",
        "--shuffle true|false",
        "--names TEXT",
        "--traceback",
    ):
        assert text in shown


def test_options_are_built_from_what_was_typed() -> None:
    parser = command_parser("pytest", "convert", "read a file")
    parser.add_argument("source")
    parser.add_own_argument("--names", nargs="+")
    add_own_flags(parser, {"batch_size": int}, field_docs(Options))
    assert typed_options(Options, parser, ["a.pth"]) == Options(source="a.pth")
    made = typed_options(Options, parser, ["a.pth", "--names", "x", "y", "--batch-size", "2"])
    assert made == Options(source="a.pth", names=("x", "y"), batch_size=2)
