"""Configurations in YAML files, and the KEY VALUE pairs of a command line that take their place."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prunelab.doors.names import did_you_mean
from prunelab.doors.words import FALSE_WORDS, TRUE_WORDS, word_bool
from prunelab.errors import UserError
from prunelab.util import StrPath


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
