"""A network's weights from elsewhere: put in their places, and what did not fit is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from apt_vit.files.original import AGENT, count_agents
from apt_vit.files.positions import resize
from apt_vit.model import VisionTransformer
from prunelab.hub import load_state

Head: TypeAlias = Literal["file", "zero", "fit"]
"""Where the last layer comes from: the file, where its classes must be as many; zeros; or the file where its
classes are as many, else zeros."""
HEAD = ("head.weight", "head.bias")
POSITIONS = "transformer.embeddings.position_embeddings"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a file gave to a network."""

    what: str = ""
    """What the file is, for people."""
    printed: tuple[str, ...] = ()
    """Lines that the original prints while it loads."""
    logged: tuple[str, ...] = ()
    """Messages that the original's logger ``models.modeling`` gets meanwhile."""
    notes: tuple[str, ...] = ()
    """Lines of ours on what was changed to fit."""
    missing: tuple[str, ...] = ()
    """Names of the network that the file does not have; they keep their values."""
    unused: tuple[str, ...] = ()
    """Names of the file, its own, that the network has no place for."""


def fill(
    model: VisionTransformer,
    state: Mapping[str, Tensor],
    *,
    where: str,
    what: str = "",
    head: Head = "file",
    edge_zeros: bool = False,
    unused: tuple[str, ...] = (),
    optional: tuple[str, ...] = (AGENT,),
) -> Loaded:
    """Put weights into a network, in place; position embeddings are resized where they must be.

    Agents that the file does not have stay as they are, and so do all where it has another number of them.

    Args:
        model: the network.
        state: weights in the original's names.
        where: the file, for messages.
        what: what it is, for `Loaded`.
        head: where the last layer comes from.
        edge_zeros: see `apt_vit.files.positions.resize`.
        unused: names of the file that have no place.
        optional: beginnings of names that may be missing.

    Raises:
        UserError: weights of another network; the line has the first differing names and shapes.
    """
    own = model.state_dict()
    found = dict(state)
    notes: list[str] = []
    resized = None
    if POSITIONS in found and found[POSITIONS].shape[-1] == model.cfg.hidden_size:
        resized = resize(found[POSITIONS], model.grid, where=where, edge_zeros=edge_zeros)
        found[POSITIONS] = resized.table
    has, wants = count_agents(found), count_agents(own)
    if has and has != wants:
        notes.append(f"the file has agents of {has} blocks, the network of {wants}: not taken")
        found = {name: value for name, value in found.items() if not name.startswith(AGENT)}
    differs = any(name not in found or found[name].shape != own[name].shape for name in HEAD)
    if head == "fit" and differs:
        theirs = f"{len(found[HEAD[1]])} classes" if HEAD[1] in found else "no last layer"
        notes.append(f"the file has {theirs}, the network {model.cfg.num_classes} classes: begun with zeros")
    if head == "zero" or (head == "fit" and differs):
        found |= {name: torch.zeros_like(own[name]) for name in HEAD}
    missing = tuple(name for name in own if name not in found and name.startswith(optional))
    load_state(model, {name: own[name] for name in missing} | found, where=where)
    return Loaded(
        what=what,
        printed=resized.printed if resized else (),
        logged=resized.logged if resized else (),
        notes=tuple(notes),
        missing=missing,
        unused=unused,
    )
