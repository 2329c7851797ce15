"""What a YAML file under ``config/`` holds: a head that says what the run is, and every value of it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prunelab.config import to_plain, yaml_text
from smp_caption import cli
from smp_caption.config import RELATION_TRANSFORMERS, UP_DOWN, Config, ScstConfig
from smp_caption.lowering import lower

WIDTH = 98
"""Columns of a file's head."""

Texts = Mapping[str, str]
"""Flags and what is typed behind them; an empty text: a switch."""

NEVER = frozenset(
    (
        *("log_dir", "output", "resume", "resume_training", "console_every", "keep_last", "logging_level"),
        *("device", "amp", "compile", "max_steps", "dry_run", "fake_data", "tour"),
    )
)
"""Fields about where and how a run is made rather than what it computes."""
OF_UP_DOWN = frozenset(cli.UP_DOWN_FLAGS) | {"use_bn"}
OF_RELATION = frozenset(cli.RELATION_FLAGS)
OF_TRANSFORMERS = frozenset(cli.TRANSFORMER_FLAGS) | {"drop_prob_layer"}


def left_out(cfg: Config) -> frozenset[str]:
    """The fields that a file does not name, since they belong to something that the run has no part in."""
    name = cfg.model.caption_model
    names = NEVER
    names |= (OF_TRANSFORMERS | OF_RELATION) if name in UP_DOWN else OF_UP_DOWN
    if name not in RELATION_TRANSFORMERS:
        names |= OF_RELATION
    if cfg.data.tokenizer != "radix":
        names |= {"radix_base"}
    if cfg.scst.scst_start_epoch < 0:
        names |= {"cached_tokens", *(f.name for f in fields(ScstConfig))}
    if not cfg.model.pruned:
        names |= {f.name for f in fields(cfg.prune)} - {"prune_type"}
    return names


def values(cfg: Config) -> dict[str, dict[str, Any]]:
    """The groups and values of a file."""
    absent = left_out(cfg)
    groups = {
        group: {name: value for name, value in part.items() if name not in absent}
        for group, part in to_plain(cfg).items()
    }
    return {group: part for group, part in groups.items() if part}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file."""

    file: str
    """Under ``config/``, without its suffix."""
    title: str
    """First line: the paper and its table's row."""
    expected: str
    """The score."""
    cost: str
    """Time and hardware."""
    flags: Texts
    """Flags besides ``--id``, which follows from the file's name; an empty text is a switch."""
    notes: tuple[str, ...] = ()
    """Further lines of the head."""
    features: tuple[str, ...] = ()
    """Words that a user must add, since only they know the folders."""

    @property
    def words(self) -> list[str]:
        """The row as words of a command line."""
        pairs = {**self.flags, "id": self.file.replace("/", "_")}
        return [word for name, value in pairs.items() for word in (f"--{name}", value) if word]

    def text(self) -> str:
        """The file."""
        said = [self.title, f"Expected: {self.expected}", *self.notes, f"Time and hardware: {self.cost}"]
        head = [part for line in said for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False)]
        once = ", once `extract` has made the features (see the README)" if self.features else ""
        head += [f"Command, from this project's folder{once}:"]
        command = ["uv", "run", "--package", "smp-caption", "train"]
        head += wrapped([*command, "--config", f"config/{self.file}.yaml", *self.features])
        head += ["The same as flags:", *wrapped([*command, *self.words])]
        body = yaml_text(values(lower(cli.parse_train(self.words))))
        return "".join(f"# {line}\n" for line in head) + body


def wrapped(words: Sequence[str]) -> list[str]:
    """A command line in lines that a shell joins, a flag and its value together."""
    parts: list[str] = []
    for word in words:
        if parts and not word.startswith("--"):
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    lines = [f"  {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > WIDTH - 5:
            lines.append(f"      {part}")
        else:
            lines[-1] += f" {part}"
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
