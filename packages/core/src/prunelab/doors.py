"""Doors into a configuration: the word, list, flag and YAML styles of the original systems.

The functions that take a text and give a value are meant for ``type=`` of argparse: they raise
``argparse.ArgumentTypeError``, which `Parser` turns into one line that names the flag.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import math
import re
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from prunelab.errors import UserError
from prunelab.util import StrPath

T = TypeVar("T")

TRUE_WORDS = ("true", "yes", "t", "y", "1")
FALSE_WORDS = ("false", "no", "f", "n", "0")
NONE_WORDS = ("", "none", "null")


# ---------------------------------------------------------------------------------------------- unknown names


def nearest(name: str, names: Iterable[str], *, most: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first; case and ``-``/``_`` do not count."""
    plain: dict[str, str] = {}
    for known in names:
        plain.setdefault(_plain(known), known)
    wanted = _plain(name)
    found = difflib.get_close_matches(wanted, plain, n=most, cutoff=0.6)
    # a name that contains the other one is near even where their lengths are far apart
    inside = [key for key in plain if _inside(wanted, key) or _inside(key, wanted)]
    return [plain[key] for key in dict.fromkeys([*found, *sorted(inside, key=len)])][:most]


def _plain(name: str) -> str:
    return name.strip().lstrip("-").lower().replace("-", "_")


def _inside(short: str, long: str) -> bool:
    return len(short) >= 3 and short in long


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the nearest known ones, or all of them if none is near.

    Example:
        >>> did_you_mean("lr_shedule", ["lr_schedule", "epochs"])
        'did you mean lr_schedule?'
    """
    known = list(dict.fromkeys(names))
    near = nearest(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"expected one of: {', '.join(known)}" if known else "nothing is expected here"


# ------------------------------------------------------------------------------------------ words and numbers


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


# ------------------------------------------------------------------------------------------------------ flags


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaints are `UserError`s, and which keeps two kinds of flags apart.

    Flags added with `add_argument` are the original system's: unique prefixes of them work, as they did
    there. Flags added with `add_own_argument` are ours and match in full only, so that they never change what
    a prefix of an original flag means. Unknown flags and choices are answered with the nearest known ones.

    Args:
        prog: The project and its command, e.g. ``"smp-caption train"``; help begins with it.
        summary: One line for the help.
        version: What ``--version`` prints; without it there is no such flag.
        **options: Passed on to argparse.
    """

    def __init__(self, prog: str, summary: str = "", *, version: str | None = None, **options: Any) -> None:
        self._own_actions: list[argparse.Action] = []
        self._own_group: argparse._ArgumentGroup | None = None
        self._has_pairs = False
        self.summary = summary
        super().__init__(prog=prog, **options)
        if version is not None:
            self.add_own_argument("--version", action="version", version=f"{prog.split()[0]} {version}")

    def add_own_argument(self, *flags: str, **options: Any) -> argparse.Action:
        """Add a flag of ours: matched in full only, listed in a group of its own."""
        if self._own_group is None:
            self._own_group = self.add_argument_group("PruneLab's own flags (to be written in full)")
        action = self._own_group.add_argument(*flags, **options)
        self._own_actions.append(action)
        return action

    def add_pairs(self, help: str = "settings that take the place of the file's") -> None:
        """Take trailing ``KEY VALUE ...`` (attribute ``pairs``); flags may still follow them."""
        self.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=help)
        self._has_pairs = True

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; with `add_pairs`, a flag where a KEY is expected ends the pairs and is parsed as a flag."""
        arguments = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(arguments, namespace)
        if not self._has_pairs:
            return found, unknown
        pairs: list[str] = []
        while rest := found.pairs:
            flags = next((i for i in range(0, len(rest), 2) if rest[i].startswith("--")), len(rest))
            pairs += rest[:flags]
            if flags == len(rest):
                break
            arguments = arguments[: len(arguments) - len(rest)] + rest[flags:]
            found, unknown = super().parse_known_args(arguments, namespace)
        found.pairs = pairs
        return found, unknown

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse all arguments.

        Raises:
            UserError: An argument that does not fit; unknown flags come with the nearest known ones.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            if not flag.startswith("-"):
                self.error(f"unexpected argument {unknown[0]!r}")
            known = [
                name for action in self._actions for name in action.option_strings if name.startswith("--")
            ]
            self.error(f"unknown flag {flag}: {did_you_mean(flag, known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as a `UserError`."""
        raise UserError(f"{self.prog}: {message}")

    def format_help(self) -> str:
        """The help: project and command first, then usage and flags."""
        return f"{self.prog}: {self.summary}\n\n{super().format_help()}"

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        # called by argparse for what matches no flag in full: prefixes of our own flags do not count
        return [
            found for found in super()._get_option_tuples(option_string) if found[0] not in self._own_actions
        ]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"{value!r} is not possible: {hint}")


# ------------------------------------------------------------------------------------------------------- YAML


class YamlLoader(yaml.SafeLoader):
    """PyYAML's safe loader, for which ``1e-4`` is a number and a key that is written twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, refusing a second value for a key."""
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(key_node)
                if key in seen:
                    problem = f"the key {key!r} is there already in line {seen[key].line + 1}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)


YAML_FLOAT = re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
"""Numbers with an exponent that YAML 1.1 takes for text, such as ``1e-4``."""

YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789."))


def read_yaml(path: StrPath) -> Any:
    """Read a YAML file of plain data.

    Raises:
        UserError: The file is missing or broken (with line and column), or a key is written twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a YAML text file: byte {error.start} is not UTF-8") from error
    try:
        return yaml.load(text, YamlLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown line"
        raise UserError(f"{path}: broken YAML at {place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: broken YAML: {error}") from error


def read_sections(path: StrPath) -> dict[str, Any]:
    """Read a YAML file of sections and join them: names of sections mean nothing, later keys win.

    Raises:
        UserError: The file is missing or broken, or something in it is not inside a section.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected sections of keys and values, not {_shown(data)}")
    flat: dict[str, Any] = {}
    for section, content in data.items():
        if content is not None and not isinstance(content, dict):
            raise UserError(f"{path}: expected keys and values under {section}, not {_shown(content)}")
        flat.update(content or {})
    return flat


def apply_pairs(
    values: Mapping[str, Any],
    pairs: Sequence[str],
    *,
    where: str = "the config file",
    also: Collection[str] = (),
    strict: bool = False,
) -> dict[str, Any]:
    """Put trailing ``KEY VALUE ...`` of a command line over the values of a file.

    Of a dotted KEY the last part counts. VALUE is read as a Python literal, else as text. Its type must be
    the old value's; tuples and lists stand for each other, and the types of their items are not looked at.
    Unless ``strict`` (the original's rule), a key without a value takes anything, a whole number may stand
    for a real one, and word booleans for ``True`` and ``False``.

    Args:
        values: What the file says.
        pairs: The trailing arguments.
        where: The file, for messages.
        also: Further keys that may be set although the file does not have them.
        strict: Accept what the original accepts and nothing more.

    Raises:
        UserError: A key without a value, an unknown key, or a value of another type.
    """
    if len(pairs) % 2:
        raise UserError(f"KEY VALUE pairs: {pairs[-1]!r} has no value")
    merged = dict(values)
    for name, text in zip(pairs[::2], pairs[1::2], strict=True):
        key = name.split(".")[-1]
        if key not in values and (strict or key not in also):
            raise UserError(f"{where} has no key {key!r}: {did_you_mean(key, [*values, *also])}")
        merged[key] = _of_old_type(key, text, values.get(key), strict)
    return merged


def _of_old_type(key: str, text: str, old: Any, strict: bool) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if type(value) is type(old):
        return value
    if isinstance(value, (tuple, list)) and isinstance(old, (tuple, list)):
        return type(old)(value)
    if not strict:
        if old is None:
            return value
        if type(old) is float and type(value) is int:
            return float(value)
        if type(old) is bool and text.strip().lower() in TRUE_WORDS + FALSE_WORDS:
            return word_bool(text)
    wanted = "a value" if old is None else f"{_KINDS.get(type(old), type(old).__name__)} like {old!r}"
    raise UserError(f"{key} {text!r}: expected {wanted}, not {_KINDS.get(type(value), type(value).__name__)}")


_KINDS = {
    int: "a whole number",
    float: "a number with a point",
    str: "text",
    bool: "True or False",
    list: "a list",
    tuple: "a tuple",
    dict: "keys and values",
    type(None): "None",
}


def _shown(value: Any) -> str:
    kind = _KINDS.get(type(value), type(value).__name__)
    return "nothing" if value is None else f"{kind} ({str(value)[:40]!r})"
