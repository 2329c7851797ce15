"""Doors into a configuration: the word, list, flag and YAML styles of the original systems.

What stands behind every door is checked by the same functions, `check_one_of` and its sisters.
"""

from prunelab.doors.checks import (
    check_above,
    check_at_least,
    check_device,
    check_one_of,
    check_order,
    check_share,
    check_within,
)
from prunelab.doors.commands import (
    Flags,
    add_flags,
    add_own_flags,
    command_parser,
    field_docs,
    installed_version,
    typed_flags,
    typed_options,
)
from prunelab.doors.files import YAML_FLOAT, YamlLoader, apply_pairs, read_sections, read_yaml
from prunelab.doors.names import did_you_mean, nearest
from prunelab.doors.parser import Parser
from prunelab.doors.places import newest_model, runs_root
from prunelab.doors.presets import PRESETS, Quirks
from prunelab.doors.words import (
    FALSE_WORDS,
    NONE_WORDS,
    TRUE_WORDS,
    bracket_list,
    csv,
    fraction,
    natural_int,
    none_word,
    number,
    positive_float,
    positive_int,
    tuple_literal,
    word_bool,
)

__all__ = [
    "FALSE_WORDS",
    "NONE_WORDS",
    "PRESETS",
    "TRUE_WORDS",
    "YAML_FLOAT",
    "Flags",
    "Parser",
    "Quirks",
    "YamlLoader",
    "add_flags",
    "add_own_flags",
    "apply_pairs",
    "bracket_list",
    "check_above",
    "check_at_least",
    "check_device",
    "check_one_of",
    "check_order",
    "check_share",
    "check_within",
    "command_parser",
    "csv",
    "did_you_mean",
    "field_docs",
    "fraction",
    "installed_version",
    "natural_int",
    "nearest",
    "newest_model",
    "none_word",
    "number",
    "positive_float",
    "positive_int",
    "read_sections",
    "read_yaml",
    "runs_root",
    "tuple_literal",
    "typed_flags",
    "typed_options",
    "word_bool",
]
