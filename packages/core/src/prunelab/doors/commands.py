"""Command lines that say what was typed and know no default; flags and help come from fields."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

from prunelab.doors.parser import Parser
from prunelab.doors.words import word_bool

T = TypeVar("T")

Reader = Callable[[str], Any]
Flags = dict[str, Reader | Sequence[str]]
"""Name of a field to what its flag takes: a reader of texts, ``bool`` (a switch), or words to choose from."""


def field_docs(cls: type, defaults: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The docstring of every field of a dataclass, with its default, as argparse takes it for ``--help``.

    Args:
        cls: A dataclass whose source is there to be read.
        defaults: By field name, those of the command line where it has others than the class.
    """
    values = {f.name: f.default for f in fields(cls) if f.default is not MISSING} | dict(defaults or {})
    return {
        name: (f"{text} (default: {values[name]!r})" if name in values else text).replace("%", "%%")
        for name, text in _field_texts(cls).items()
    }


@cache
def _field_texts(cls: type) -> dict[str, str]:
    """The docstring of every field on one line, without the marks of code."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, doc in zip(body.body, body.body[1:], strict=False):
        match statement, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split()).replace("`", "")
    return found


def installed_version(distribution: str) -> str:
    """The version of a distribution; ``unknown`` where its sources run without being installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def command_parser(distribution: str, command: str, summary: str, **options: Any) -> Parser:
    """The parser of one command of a project; what was not typed is not in its result.

    Args:
        distribution: The project, ``"acosp-seg"``.
        command: ``"train"``.
        summary: One line for the help.
        **options: Passed on to argparse.
    """
    parser = Parser(
        f"{distribution} {command}",
        summary,
        version=installed_version(distribution),
        argument_default=argparse.SUPPRESS,
        **options,
    )
    # Taken off the command line by `prunelab.errors.entry` before a parser sees it.
    parser.add_own_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def add_flags(group: Any, flags: Flags, docs: Mapping[str, str]) -> None:
    """Add flags of the original, typed as their fields are named: ``--batch_size``.

    Args:
        group: A parser or a group of one.
        flags: What they take.
        docs: Help by name; see `field_docs`.
    """
    for name, kind in flags.items():
        group.add_argument(f"--{name}", **_argument(kind), help=docs.get(name))


def add_own_flags(parser: Parser, flags: Flags, docs: Mapping[str, str]) -> None:
    """Add flags of ours, typed with dashes and in full: ``max_steps`` is ``--max-steps``."""
    for name, kind in flags.items():
        parser.add_own_argument(f"--{name.replace('_', '-')}", **_argument(kind), help=docs.get(name))


def _argument(kind: Reader | Sequence[str]) -> dict[str, Any]:
    if kind is bool:
        return {"action": "store_true"}
    if callable(kind):
        metavar = {int: "N", float: "X", word_bool: "true|false"}.get(kind, "TEXT")
        return {"type": kind, "metavar": metavar}
    return {"choices": kind}


def typed_flags(parser: Parser, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What was typed, by the flags' names.

    Args:
        parser: Made by `command_parser`.
        argv: The arguments; None: those of this process.

    Raises:
        UserError: An unknown flag, or a value that a flag does not take.
    """
    return vars(parser.parse_args(sys.argv[1:] if argv is None else argv))


def typed_options(cls: type[T], parser: Parser, argv: Sequence[str] | None = None) -> T:
    """A dataclass of what was typed, lists as tuples; its own defaults hold for the rest.

    Raises:
        UserError: See `typed_flags`; or the class refuses a value.
    """
    typed = typed_flags(parser, argv)
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in typed.items()})
