"""Weights of timm's vision transformers: their names, and ours.

# D width
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from apt_vit.config import ModelConfig
from apt_vit.files.original import AGENT
from apt_vit.preprocess import MEAN, STD, Preprocess
from prunelab.errors import UserError

WHAT = "timm's vision transformer"
MAY_MISS = (AGENT, "transformer.encoder.encoder_norm.")
"""Beginnings of names of ours that a network of timm may lack: one that averages tokens has another norm."""
PARTS = ("query", "key", "value")
"""What timm keeps as one linear map, in its order."""
_BLOCK = r"transformer\.encoder\.layer\.(\d+)\."
_PLACES = (
    (r"transformer\.embeddings\.position_embeddings", "pos_embed"),
    (r"transformer\.embeddings\.cls_token", "cls_token"),
    (r"transformer\.embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (_BLOCK + r"attention_norm\.(\w+)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"ffn_norm\.(\w+)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"ffn\.(fc\d)\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (_BLOCK + r"attn\.out\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"attn\.(?:query|key|value)\.(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.encoder\.encoder_norm\.(\w+)", r"norm.\1"),
    (r"head\.(\w+)", r"head.\1"),
)
"""Name of ours, as a pattern, and name in timm."""
_NO_PLACE = ("blocks.", "dist_token", "reg_token", "norm_pre.", "patch_embed.")
"""Beginnings of names of parts without which a network of timm is another one."""


def timm_name(name: str) -> str:
    """Where timm keeps a parameter of ours; queries, keys and values have one place.

    Args:
        name: of the network's state, no agent's.
    """
    for pattern, place in _PLACES:
        if match := re.fullmatch(pattern, name):
            return match.expand(place)
    raise KeyError(name)


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in timm's names; those of agents are left away."""
    found: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():  # queries come before keys and values
        if not name.startswith(AGENT):
            found.setdefault(timm_name(name), []).append(tensor)
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}


def translate(
    theirs: Mapping[str, Tensor], names: Iterable[str], *, where: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Bring timm's weights into our names.

    Args:
        theirs: weights in timm's names.
        names: those of the network's state; agents are left out.
        where: the file, for messages.

    Returns:
        Weights in our names, as far as they are there; and names of timm's that have no place.

    Raises:
        UserError: the network has parts that ours has not.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in names:
        if name.startswith(AGENT) or "hybrid_model" in name:
            continue
        place = timm_name(name)
        if place not in theirs:
            continue
        used.add(place)
        part = next((number for number, part in enumerate(PARTS) if f".attn.{part}." in name), None)
        state[name] = theirs[place] if part is None else theirs[place].chunk(3)[part]
    unused = tuple(name for name in theirs if name not in used)
    strange = [name for name in unused if name.startswith(_NO_PLACE)]
    if strange:
        more = ", ..." if len(strange) > 1 else ""
        raise UserError(
            f"{where}: {strange[0]}{more} has no place here, expected a plain vision transformer of timm, "
            "such as vit_base_patch16_224"
        )
    return state, unused


def sizes_of(theirs: Mapping[str, Tensor], *, where: str) -> dict[str, Any]:
    """What timm's shapes tell, by the names of `ModelConfig`'s fields; ``num_classes`` where there is a head.

    Raises:
        UserError: a part is missing.
    """
    needed = ("pos_embed", "cls_token", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    for name in needed:
        if name not in theirs:
            raise UserError(f"{where}: {name} is missing, expected a plain vision transformer of timm")
    patch, hidden = theirs["patch_embed.proj.weight"].shape, theirs["blocks.0.mlp.fc1.weight"].shape
    found: dict[str, Any] = {
        "patch_size": tuple(patch[2:]),
        "hidden_size": patch[0],
        "mlp_dim": hidden[0],
        "num_layers": len({name.split(".")[1] for name in theirs if name.startswith("blocks.")}),
    }
    if "head.bias" in theirs:
        found["num_classes"] = len(theirs["head.bias"])
    return found


def preprocess_of_timm(cfg: ModelConfig, facts: Mapping[str, Any]) -> Preprocess:
    """The way of pictures to a network of timm: its mean and deviation, as far as they are told.

    Args:
        cfg: sizes.
        facts: timm's ``pretrained_cfg``.
    """
    mean, std = (tuple(facts.get(name) or usual) for name, usual in (("mean", MEAN), ("std", STD)))
    return Preprocess(size=cfg.img_size, mean=mean, std=std)
