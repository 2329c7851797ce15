"""Frozen dataclasses as the one truth about a run: to plain data, to YAML, and back again unchanged."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union

import yaml

from prunelab.doors import YAML_FLOAT, did_you_mean, read_yaml
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write

C = TypeVar("C")


def to_plain(value: Any) -> Any:
    """Turn a configuration into plain data: dicts, lists, strings, numbers, booleans and None.

    Dataclasses become dicts in the order of their fields, tuples lists, paths strings.

    Raises:
        TypeError: Something that is none of these.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key of a configuration must be a string, not {key!r}")
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be part of a configuration")


def from_plain(cls: type[C], data: Any, *, where: str = "config") -> C:
    """Build a configuration from plain data, the inverse of `to_plain`.

    Types are checked: a whole number may stand where a real one is expected, nothing else is converted.

    Args:
        cls: A dataclass; its fields may be bool, int, float, str, Path, None, Literal, unions, tuples, lists,
            dicts with string keys, dataclasses, or Any.
        data: What `to_plain`, YAML or JSON gave.
        where: The file, for messages.

    Raises:
        UserError: An unknown key (with the nearest known ones), a missing key, a value of a wrong type, or
            one that the dataclass itself refuses.
    """
    try:
        return _build(cls, data, "")
    except _Misfit as error:
        raise UserError(f"{where}: {error}") from error


class Flat(Generic[C]):
    """A configuration of groups seen as one mapping of fields to plain values, as flags and files see it.

    Args:
        cls: A dataclass whose fields are dataclasses, the groups.
        owners: Where groups share a field: its name to the group whose value all of them have.

    Raises:
        TypeError: Two groups have a field, and no owner is named.
    """

    def __init__(self, cls: type[C], owners: Mapping[str, str] | None = None) -> None:
        hints = typing.get_type_hints(cls)
        self.cls = cls
        self.groups: dict[str, type[Any]] = {name: hints[name] for name in _names(cls)}
        """The groups by name."""
        self.group_of: dict[str, str] = {}
        """The group that holds (where several do: owns) a field."""
        for group, part in self.groups.items():
            for name in _names(part):
                owner = (owners or {}).get(name, group)
                if self.group_of.setdefault(name, owner) != owner:
                    raise TypeError(f"{cls.__name__}: {self.group_of[name]} and {group} have a field {name}")

    def values(self, config: C) -> dict[str, Any]:
        """The plain values of a configuration by the names of their fields."""
        plain = to_plain(config)
        return {name: plain[group][name] for name, group in self.group_of.items()}

    def build(self, values: Mapping[str, Any], *, where: str = "config") -> C:
        """The configuration of such values; what is not among them has its default.

        Raises:
            UserError: An unknown name, or a value that does not fit; see `from_plain`.
        """
        for name in values:
            if name not in self.group_of:
                raise UserError(f"{where}: unknown key {name}: {did_you_mean(str(name), self.group_of)}")
        plain = {
            group: {name: values[name] for name in _names(part) if name in values}
            for group, part in self.groups.items()
        }
        return from_plain(self.cls, plain, where=where)


def _names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


class _Misfit(Exception):
    """A value that does not fit; the message names its key."""


def _build(cls: type[Any], data: Any, key: str) -> Any:
    if not isinstance(data, Mapping):
        raise _Misfit(f"{key or 'the whole'}: expected keys and values, not {_shown(data)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{key}." if key else ""
    for name in data:
        if name not in fields:
            raise _Misfit(f"unknown key {prefix}{name}: {did_you_mean(str(name), fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], prefix + name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _Misfit(f"{prefix}{name} is missing: expected {_expected(hints[name])}")
    try:
        return cls(**values)
    except (UserError, ValueError) as error:
        raise _Misfit(f"{prefix.rstrip('.')}: {error}".removeprefix(": ")) from error


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Check a value against a type annotation, and build what the plain data stands for."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, key)
    if origin is Literal:
        for choice in typing.get_args(hint):
            if type(choice) is type(value) and choice == value:
                return value
        raise _misfit(hint, value, key)
    if origin in (tuple, list) or hint in (tuple, list):
        return _convert_sequence(hint, value, key)
    if origin is dict or origin is Mapping or hint is dict:
        return _convert_mapping(hint, value, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, key)
    return _convert_scalar(hint, value, key)


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (None, type(None)) and value is None:
        return None
    if hint in (bool, int, float, str) and type(value) is hint:
        return value
    raise _misfit(hint, value, key)


def _convert_union(hint: Any, value: Any, key: str) -> Any:
    """The member whose type the value has already wins; else the first that takes it."""
    members = typing.get_args(hint)
    if type(value) in members:
        return value
    if value is None and type(None) in members:
        return None
    error: _Misfit | None = None
    for member in members:
        if member is type(None):
            continue
        try:
            return _convert(member, value, key)
        except _Misfit as misfit:
            error = misfit
    plain = [member for member in members if member is not type(None)]
    # with one possible type besides None, its own complaint says more than the list of types
    raise error if error is not None and len(plain) == 1 else _misfit(hint, value, key)


def _convert_sequence(hint: Any, value: Any, key: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _misfit(hint, value, key)
    kind = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise _Misfit(f"{key}: expected {len(arguments)} values, not {len(value)}: {value!r}")
        items = arguments
    else:
        items = (arguments[0] if arguments else Any,) * len(value)
    return kind(
        _convert(item, part, f"{key}[{i}]") for i, (item, part) in enumerate(zip(items, value, strict=True))
    )


def _convert_mapping(hint: Any, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _misfit(hint, value, key)
    item = (typing.get_args(hint) or (str, Any))[1]
    return {name: _convert(item, part, f"{key}.{name}") for name, part in value.items()}


def _misfit(hint: Any, value: Any, key: str) -> _Misfit:
    return _Misfit(f"{key}: expected {_expected(hint)}, not {_shown(value)}")


def _expected(hint: Any) -> str:
    """A type annotation in words."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_expected(item) for item in arguments))
    if origin in (tuple, list) or hint in (tuple, list):
        return f"a list of {_expected(arguments[0])}" if len(set(arguments) - {Ellipsis}) == 1 else "a list"
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): "nothing (null)",
    }
    return words.get(hint, "keys and values")


def _shown(value: Any) -> str:
    return f"{str(value)[:60]!r} ({type(value).__name__})"


class _YamlDumper(yaml.SafeDumper):
    """A safe dumper whose text our loader reads back unchanged."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Write text; PyYAML would lose rare line ends (NEL, LS, PS) outside of double quotes."""
        style = '"' if any(end in data for end in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_YamlDumper.add_representer(str, _YamlDumper.represent_str)
# text such as "1e-4", which our loader takes for a number, gets quotes
_YamlDumper.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789."))


def yaml_text(data: Any, *, header: str = "") -> str:
    """A configuration or plain data as YAML; lines of ``header`` come first, as comments."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.dump(
        to_plain(data), Dumper=_YamlDumper, sort_keys=False, allow_unicode=True, width=100
    )


def save_yaml(path: StrPath, data: Any, *, header: str = "") -> None:
    """Write `yaml_text` to a file, atomically."""
    text = yaml_text(data, header=header)
    with atomic_write(path, "w") as file:
        file.write(text)


def load_yaml(path: StrPath) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty file has none.

    Raises:
        UserError: The file is missing or broken, a key is written twice, or it holds something else.
    """
    data = read_yaml(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected keys and values, not {_shown(data)}")
    return data


def load_config(cls: type[C], path: StrPath) -> C:
    """Read a YAML file into a configuration (`load_yaml`, `from_plain`)."""
    return from_plain(cls, load_yaml(path), where=str(path))
