"""Which weights a file holds: a model of the original, or a published Swin backbone; and of which sizes.

# V words, D width, P static expansion vectors, E dynamic ones, w side of a window, n stages
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from expansionnet.config import ModelConfig, SwinConfig
from expansionnet.lowering import SWIN, model_config
from expansionnet.model.body import split_backbone
from expansionnet.model.initialise import BACKBONE
from expansionnet.model.swin import from_official
from prunelab.config import to_plain
from prunelab.errors import UserError
from prunelab.torchfile import state_dict_of

if TYPE_CHECKING:
    from expansionnet.words.vocabulary import Vocabulary

FOLDER, BACKBONE_FOLDER, ORIGINAL, OFFICIAL_SWIN, TIMM_SWIN = (
    "a model folder",
    "the folder of a backbone",
    "weights of the original",
    "an official Swin file",
    "Swin weights of timm",
)
"""Kinds of weights, in words."""
NESTED = ("model_state_dict", "model", "state_dict")
"""Keys under which a file may have its weights."""
FIRST_OF_SWIN, FIRST_OF_BODY = "patch_embed.proj.weight", "input_linear.weight"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a place holds."""

    path: Path
    """Where it lies."""
    kind: str
    """`FOLDER`, `BACKBONE_FOLDER`, `ORIGINAL`, `OFFICIAL_SWIN` or `TIMM_SWIN`."""
    state: dict[str, Tensor]
    """Weights under the names of `ExpansionNet`'s own state: the body's, and below `BACKBONE` those of the
    backbone, in timm's naming and without constants."""
    swin: SwinConfig | None = None
    """Sizes of the backbone, where there is one. A file without its constants does not tell ``img_size``: it
    is then that of the published backbones, whose last stage is one window."""
    config: ModelConfig | None = None
    """Sizes that lie beside the weights; None where only the tensors tell them (`config_of`)."""
    vocabulary: Vocabulary | None = None
    """Words that lie beside them."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """States of optimiser, scheduler and loader in a checkpoint of the original, by its keys."""
    unused: tuple[str, ...] = ()
    """Names of the file that no model has: constants of the backbone, and the head of a classifier."""

    @property
    def body(self) -> dict[str, Tensor]:
        """Weights of the body."""
        return split_backbone(self.state)[0]

    @property
    def backbone(self) -> dict[str, Tensor]:
        """Weights of the backbone, without `BACKBONE` before their names."""
        return split_backbone(self.state)[1]

    @property
    def vocab_size(self) -> int:
        """Words V that the body knows; 0 without a body."""
        return _rows(self.state, "vocab_linear.weight")

    @property
    def max_seq_len(self) -> int:
        """Positions that the body knows; 0 without a body."""
        return _rows(self.state, "pos_encoder.weight")

    def __str__(self) -> str:
        """What it is, in a few words."""
        body = f"a body of {self.vocab_size:,} words and {self.max_seq_len} positions" if self.body else ""
        backbone = "a backbone" if self.backbone else ""
        return f"{self.kind}: {' and '.join(part for part in (body, backbone) if part)}"


def recognise(content: Any, path: Path) -> Weights:
    """What the content of a torch or safetensors file is.

    Raises:
        UserError: it is neither a model of the original nor a Swin backbone.
    """
    state = state_dict_of(content, path, inside=NESTED)
    if FIRST_OF_SWIN in state:
        backbone = from_official(state)
        merged_early = "layers.0.downsample.reduction.weight" in state
        return Weights(
            path=path,
            kind=OFFICIAL_SWIN if merged_early else TIMM_SWIN,
            state={f"{BACKBONE}.{name}": value for name, value in backbone.items()},
            swin=swin_sizes(state, path),
            unused=_unused(state, len(backbone)),
        )
    body, inner = split_backbone(state)
    unused = tuple(name for name in body if name.startswith("dummy_linear."))
    body = {name: value for name, value in body.items() if name not in unused}
    if FIRST_OF_BODY not in body and FIRST_OF_SWIN not in inner:
        names = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(
            f"{path}: holds {names}, ..., expected a model of the original ({FIRST_OF_BODY}, ...) "
            f"or a Swin backbone ({FIRST_OF_SWIN}, ...)"
        )
    backbone = from_official(inner)
    unused += tuple(f"{BACKBONE}.{name}" for name in _unused(inner, len(backbone)))
    training = {key: content[key] for key in content if key.endswith("_state_dict") and key != NESTED[0]}
    return Weights(
        path=path,
        kind=ORIGINAL,
        state={f"{BACKBONE}.{name}": value for name, value in backbone.items()} | body,
        swin=swin_sizes(inner, path) if backbone else None,
        training=training,
        unused=unused,
    )


def _unused(backbone: Mapping[str, Tensor], kept: int) -> tuple[str, ...]:
    """Names of a backbone's file that are no weights of it, of which ``kept`` are."""
    left = tuple(name for name in backbone if not from_official({name: backbone[name]}))
    assert len(left) == len(backbone) - kept
    return left


def _rows(state: Mapping[str, Tensor], name: str) -> int:
    return state[name].shape[0] if name in state else 0


# ----------------------------------------------------------------------------------------------------- sizes


def swin_sizes(state: Mapping[str, Tensor], path: Path) -> SwinConfig:
    """Sizes of a backbone, from tensors of either naming; see `Weights.swin`.

    Raises:
        UserError: names that no Swin has.
    """
    tables = {
        (int(found[1]), int(found[2])): value
        for name, value in state.items()
        if (found := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table", name))
    }
    stages = 1 + max((stage for stage, _ in tables), default=-1)
    widening = "layers.0.blocks.0.mlp.fc1.weight"
    if any((stage, 0) not in tables for stage in range(stages)) or widening not in state:
        raise UserError(f"{path}: a backbone without layers.0.blocks.0, expected a Swin transformer")
    embed, _, _, patch = state[FIRST_OF_SWIN].shape
    windows = [(math.isqrt(tables[stage, 0].shape[0]) + 1) // 2 for stage in range(stages)]
    return SwinConfig(
        img_size=patch * _resolution(state, windows),
        patch_size=patch,
        embed_dim=embed,
        depths=tuple(sum(stage == at for at, _ in tables) for stage in range(stages)),
        num_heads=tuple(tables[stage, 0].shape[1] for stage in range(stages)),
        window_size=windows[0],
        mlp_ratio=state[widening].shape[0] / embed,
    )


def _resolution(state: Mapping[str, Tensor], windows: list[int]) -> int:
    """Tokens along a side in the first stage.

    A stage that is no larger than a window has one window of its own size, and blocks of a larger one have
    masks with a row for each window.
    """
    for stage, window in enumerate(windows):
        mask = state.get(f"layers.{stage}.blocks.1.attn_mask")
        if mask is not None:
            return math.isqrt(mask.shape[0]) * window * 2**stage
        if window < windows[0]:
            return window * 2**stage
    return windows[-1] * 2 ** (len(windows) - 1)


def sizes(body: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """Fields of `ModelConfig` that a body's tensors tell: all but its heads and the groups of its P vectors.

    Raises:
        UserError: tensors that every body has are missing.
    """
    try:
        return {
            "model_dim": body[FIRST_OF_BODY].shape[0],
            "img_feature_dim": body[FIRST_OF_BODY].shape[1],
            "N_enc": _layers(body, "encoders"),
            "N_dec": _layers(body, "decoders"),
            "ff": body["encoders.0.ff.linear_1.weight"].shape[0],
            "num_exp_dec": body["decoders.0.dyn_exp.query_exp_vectors.weight"].shape[0],
            "vocab_size": body["vocab_linear.weight"].shape[0],
            "max_seq_len": body["pos_encoder.weight"].shape[0],
        }
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing, which every body has") from error


def _layers(body: Mapping[str, Tensor], part: str) -> int:
    return len({name.split(".")[1] for name in body if name.startswith(f"{part}.")})


def config_of(weights: Weights, typed: Mapping[str, Any] | None = None) -> ModelConfig:
    """Sizes of the captioner that weights are of.

    Args:
        weights: with a body.
        typed: what is said of it besides, as on a command line (see `lowering.model_config`): tensors do not
            tell heads, groups of static expansion vectors and epsilons, for a body that reads features the
            backbone, and for a backbone without constants the side of its pictures. What is not said is as in
            the published model.

    Raises:
        UserError: the weights have no body, or contradict what is said.
    """
    typed = typed or {}
    if weights.config is not None:
        check_said(to_plain(weights.config), typed, weights.path)
        return weights.config
    if not weights.body:
        raise UserError(f"{weights.path}: {weights}, expected a captioner, with a body")
    found: dict[str, Any] = {**sizes(weights.body, weights.path), "is_end_to_end": weights.swin is not None}
    check_said(found, typed, weights.path)
    if weights.swin is not None:
        told = {f"{SWIN}{name}": value for name, value in to_plain(weights.swin).items()}
        check_said(
            {name: value for name, value in told.items() if name != f"{SWIN}img_size"}, typed, weights.path
        )
        found = {**told, **typed, **found}
    config = model_config({**typed, **found})
    vectors = _rows(weights.state, "encoders.0.stc_exp.query_exp_vectors.weight")
    if vectors != sum(config.num_exp_enc_list):
        raise UserError(
            f"{weights.path}: {vectors} static expansion vectors, but num_exp_enc_list is "
            f"{list(config.num_exp_enc_list)}, expected groups that sum to {vectors}"
        )
    return config


def check_said(found: Mapping[str, Any], typed: Mapping[str, Any], path: Path) -> None:
    """Compare what weights tell with what is said of them.

    Raises:
        UserError: they differ; the line has both.
    """
    for name in typed.keys() & found.keys():
        said = list(typed[name]) if isinstance(typed[name], tuple) else typed[name]
        if said != found[name]:
            raise UserError(f"{name} is {said}, expected {found[name]}, which {path} has")
