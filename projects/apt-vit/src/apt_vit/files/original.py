"""The original's checkpoints: ``0_NAME_checkpoint.bin`` of the best unpruned accuracy, ``1_...`` of pruned.

Each is a bare state dict. It says neither sizes that no shape shows (heads, clip layers) nor names of
classes; what we write has these beside it, in ``..._checkpoint.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.hub import FORMAT, VERSION
from prunelab.torchfile import load_pth, state_dict_of
from prunelab.util import StrPath, atomic_write, read_json, write_json

NESTED = ("state_dict", "model_state_dict", "model")
"""Entries of a checkpoint that may be its state dict; the original has none."""
WRAPPER = "module."
"""What data-parallel wrappers put before every name."""
AGENT = "transformer.encoder.clip_layer."
"""How names of an agent's parameters begin; its place among the agents follows."""


def facts_file(path: StrPath) -> Path:
    """What we keep beside a checkpoint of the original's form."""
    return Path(path).with_suffix(".json")


def read_state(path: StrPath) -> dict[str, Tensor]:
    """A state dict from a torch file, on the CPU, without a wrapper's ``module.``.

    Raises:
        UserError: missing, damaged, or not only tensors.
    """
    path = Path(path)
    state = state_dict_of(load_pth(path), path, inside=NESTED)
    wrapped = bool(state) and all(name.startswith(WRAPPER) for name in state)
    return {name.removeprefix(WRAPPER): value for name, value in state.items()} if wrapped else state


def read_facts(path: StrPath) -> dict[str, Any] | None:
    """What `apt_vit.classifier.Classifier.facts` gave, from beside a checkpoint; None: it is not there.

    Raises:
        UserError: the file beside it is damaged or another's.
    """
    file = facts_file(path)
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None  # a file of the user's that has this name
    if not isinstance(content.get("config"), dict):
        raise UserError(f"{file}: config is missing, expected what was written beside {Path(path).name}")
    return content["config"]


def write(path: StrPath, state: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint as the original does; it appears whole or not at all.

    Args:
        path: the file, see `apt_vit.layout.checkpoint_file`.
        state: the network's ``state_dict()``, whose names are the original's.
        facts: what is written beside it, plain data; None: nothing, and an older such file goes.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    beside = facts_file(path)
    beside.unlink(missing_ok=True)  # it never says of a new state what was true of an old one
    with atomic_write(path) as file:
        torch.save({name: value.detach().cpu() for name, value in state.items()}, file)
    if facts is not None:
        write_json(beside, {"format": FORMAT, "version": VERSION, "config": dict(facts)})
    return path


def count_agents(state: Mapping[str, Tensor]) -> int:
    """How many agents a state dict has."""
    return len({match[1] for name in state if (match := re.match(re.escape(AGENT) + r"(\d+)\.", name))})
