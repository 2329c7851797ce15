"""The command lines: what was typed, as plain data. A flag that was not typed is not in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apt_vit.config import FIELDS, PRESETS
from prunelab.doors import Flags, add_flags, add_own_flags, command_parser, field_docs, typed_flags

ORIGINAL: Flags = {"learning_rate": float, "batch_size": int, "epochs": int, "width": int}
"""The original's flags of training: `--learning_rate`."""
OWN: Flags = {"seed": int, "max_steps": int, "resume": bool, "preset": PRESETS}
"""Ours: `--max-steps`."""
SHARED: Flags = {"output": str, "device": str, "dry_run": bool}
"""Ours, of all commands."""


def parse(command: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the arguments of `train`, `test` or `demo`.

    Raises:
        UserError: an unknown flag or a value that does not fit.
    """
    parser = command_parser("apt-vit", command, "APT: a vision transformer that learns which tokens to drop")
    docs = {name: doc for group in FIELDS.groups.values() for name, doc in field_docs(group).items()}
    docs["dry_run"] = "print the config and stop"
    training = command == "train"
    add_flags(parser, ORIGINAL if training else {}, docs)
    add_own_flags(parser, SHARED | (OWN if training else {}), docs)
    return typed_flags(parser, argv)
