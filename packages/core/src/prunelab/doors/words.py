"""Words of a command line into values, in the styles of the original systems.

These functions take a text and give a value, for ``type=`` of argparse: they raise
``argparse.ArgumentTypeError``, which `prunelab.doors.Parser` turns into one line that names the flag.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

TRUE_WORDS = ("true", "yes", "t", "y", "1")
FALSE_WORDS = ("false", "no", "f", "n", "0")
NONE_WORDS = ("", "none", "null")


def _items(parts: Iterable[str], item: Callable[[str], T], text: str) -> list[T]:
    values = []
    for part in parts:
        try:
            values.append(item(part.strip()))
        except (ValueError, argparse.ArgumentTypeError) as error:
            message = f"{text!r}: the item {part.strip()!r} is not {_name(item)}"
            raise argparse.ArgumentTypeError(message) from error
    return values


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] in "'\"" and text[0] == text[-1] else text


def _name(item: Callable[..., Any]) -> str:
    return {int: "a whole number", float: "a number", str: "text"}.get(item, getattr(item, "__name__", ""))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _named(read: Callable[[str], T], name: str) -> Callable[[str], T]:
    """Give a reader the name that argparse shows where the reader raises ValueError."""
    read.__name__ = name
    return read


def word_bool(text: str) -> bool:
    """A truth value as a word of any case: true, yes, t, y, 1 or false, no, f, n, 0."""
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True ({'/'.join(TRUE_WORDS)}) nor False")


def none_word(item: Callable[[str], T] = str) -> Callable[[str], T | None]:
    """Make a reader for which an empty text, ``none`` and ``null`` (any case) mean None."""

    def read(text: str) -> T | None:
        return None if text.strip().lower() in NONE_WORDS else item(text)

    return _named(read, f"{_name(item)} or none")


def csv(item: Callable[[str], T] = str) -> Callable[[str], tuple[T, ...]]:
    """Make a reader of comma-separated values: ``"0,0,0,1"``; an empty text has no values."""

    def read(text: str) -> tuple[T, ...]:
        return tuple(_items(text.split(","), item, text)) if text.strip() else ()

    return _named(read, f"comma-separated {_name(item)}")


def bracket_list(item: Callable[[str], T] = int) -> Callable[[str], tuple[T, ...]]:
    """Make a reader of lists in brackets, ``"[3,5]"``; the brackets may be missing, quotes are taken off."""

    def read(text: str) -> tuple[T, ...]:
        inner = text.strip()
        if inner.startswith("[") != inner.endswith("]"):
            raise argparse.ArgumentTypeError(f"{text!r} has one bracket only; expected a list such as [3,5]")
        inner = inner.removeprefix("[").removesuffix("]").strip().removesuffix(",")
        if not inner:
            return ()
        return tuple(_items([_unquoted(part.strip()) for part in inner.split(",")], item, text))

    return _named(read, f"list [..] of {_name(item)}")


def tuple_literal(text: str) -> tuple[Any, ...]:
    """A Python tuple or list of numbers and strings, ``"(0,0,1,1)"``; a bare ``"0,0,1"`` is one as well."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a tuple such as (0,0,1)") from error
    if not isinstance(value, (tuple, list)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a tuple such as (0,0,1)")
    return tuple(value)


def number(
    item: type[int] | type[float] = float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> Callable[[str], Any]:
    """Make a reader of numbers in a range: ``low <= x <= high`` and ``x > above``; never NaN."""
    bounds = [f"> {above:g}"] if above > -math.inf else []
    bounds += [f">= {low:g}"] if low > -math.inf else []
    bounds += [f"<= {high:g}"] if high < math.inf else []
    expected = " ".join(["a whole number" if item is int else "a number", " and ".join(bounds)]).strip()

    def read(text: str) -> int | float:
        try:
            value = item(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from error
        if not (low <= value <= high and value > above):
            raise argparse.ArgumentTypeError(f"{text} is not {expected}")
        return value

    return _named(read, expected)


positive_int = number(int, low=1)
"""Reads a whole number >= 1."""
natural_int = number(int, low=0)
"""Reads a whole number >= 0."""
positive_float = number(float, above=0)
"""Reads a number > 0."""
fraction = number(float, low=0, high=1)
"""Reads a number in [0, 1]."""
