"""Multiply-accumulates (MACs) of a pass, by the number of tokens that reach each block.

Matrix products and convolutions count (FLOPs = 2 MACs); element-wise work, norms, softmax, weight
standardisation, pooling and interpolation do not. An agent's product of query and keys is element by element,
so it does not count either.

# N tokens of a block, the classification token among them; D width; n patches; C classes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from apt_vit.config import ModelConfig
from apt_vit.model.stem import grid_of, kernel_of, stem_width
from prunelab.errors import UserError

AGENTS = ("plain", "folded", "none")
"""Forms of the agents: four linear maps as the original has them, one difference of logits by a single D x D
matrix (`apt_vit.tokens.folded`), or no agent that runs."""


def macs_of(
    cfg: ModelConfig,
    lengths: Sequence[int],
    agents: str = "plain",
    *,
    layers: Iterable[int] | None = None,
    last_cls_only: bool = False,
) -> int:
    """MACs of one picture.

    Args:
        cfg: the network.
        lengths: tokens that enter each block; the classification token counts.
        agents: one of `AGENTS`.
        layers: blocks whose agents run; None: cfg.clip_layers. Those beyond the depth never run.
        last_cls_only: the last block computes what its classification token needs: keys and values of all
            tokens, and all else of that one.

    Raises:
        UserError: another form of agents, or a number of lengths that is not that of the blocks.
    """
    if agents not in AGENTS:
        raise UserError(f"agents is {agents!r}, expected one of {', '.join(AGENTS)}")
    if len(lengths) != cfg.num_layers:
        raise UserError(f"{len(lengths)} lengths, expected one for each of {cfg.num_layers} blocks")
    total = embedding_macs(cfg) + cfg.hidden_size * cfg.num_classes
    last = cfg.num_layers - 1
    for number, tokens in enumerate(lengths):
        total += block_macs(cfg, tokens, queries=1 if last_cls_only and number == last else tokens)
    active = cfg.clip_layers if layers is None else layers
    return total + sum(agent_macs(cfg.hidden_size, lengths[i], agents) for i in active if i <= last)


def mean_macs(
    cfg: ModelConfig, counts: Tensor, layers: Sequence[int], agents: str = "plain", **options: bool
) -> float:
    """Mean MACs of a picture, of pictures that keep different numbers of tokens.

    Args:
        cfg: the network.
        counts: tokens kept behind each layer that prunes, (B, layers).
        layers: those blocks, rising.
        agents: one of `AGENTS`.
        **options: see `macs_of`.
    """
    sums = (
        macs_of(cfg, lengths_of(cfg, dict(zip(layers, row, strict=True))), agents, layers=layers, **options)
        for row in counts.tolist()
    )
    return sum(sums) / len(counts)


def lengths_of(cfg: ModelConfig, kept: dict[int, int] | None = None) -> tuple[int, ...]:
    """Tokens that enter each block, where ``kept`` of them are left behind some blocks (by number)."""
    tokens, lengths = patches_of(cfg) + 1, []
    for number in range(cfg.num_layers):
        lengths.append(tokens)
        tokens = (kept or {}).get(number, tokens)
    return tuple(lengths)


def patches_of(cfg: ModelConfig) -> int:
    """Patches n of a picture."""
    rows, columns = grid_of(cfg)
    return rows * columns


def block_macs(cfg: ModelConfig, tokens: int, queries: int | None = None) -> int:
    """MACs of a block: 4 N D^2 + 2 N D mlp + 2 N^2 D.

    Args:
        cfg: the network.
        tokens: N.
        queries: tokens that are computed further; None: all.
    """
    width = cfg.hidden_size
    queries = tokens if queries is None else queries
    keys_and_values = 2 * tokens * width**2
    own = queries * (2 * width**2 + 2 * width * cfg.mlp_dim)
    return keys_and_values + own + 2 * queries * tokens * width


def agent_macs(width: int, tokens: int, form: str) -> int:
    """MACs of an agent: D^2 + 2 N D^2 + 4 N D as written, D^2 + (N + 1) D folded."""
    match form:
        case "plain":
            return width**2 + 2 * tokens * width**2 + 4 * tokens * width
        case "folded":
            return width**2 + (tokens + 1) * width
        case _:
            return 0


def embedding_macs(cfg: ModelConfig) -> int:
    """MACs of the patch embedding, a hybrid's stem included."""
    rows, columns = kernel_of(cfg)
    channels, stem = 3, 0
    if cfg.resnet is not None:
        channels, stem = 4 * _stage_width(cfg, len(cfg.resnet.num_layers) - 1), stem_macs(cfg)
    return stem + patches_of(cfg) * rows * columns * channels * cfg.hidden_size


def stem_macs(cfg: ModelConfig) -> int:
    """MACs of a hybrid's convolutions: the root, then units of 1x1, 3x3, 1x1 and the first ones' shortcut."""
    assert cfg.resnet is not None
    sides = [-(-side // 2) for side in cfg.img_size]
    inputs = stem_width(cfg.resnet)
    total = sides[0] * sides[1] * inputs * 3 * 7 * 7
    sides = [-(-side // 2) if cfg.root_pool_same else (side - 3) // 2 + 1 for side in sides]
    for stage, units in enumerate(cfg.resnet.num_layers):
        middle = _stage_width(cfg, stage)
        for unit in range(units):
            before = sides[0] * sides[1]
            if stage and not unit:
                sides = [-(-side // 2) for side in sides]
            after = sides[0] * sides[1]
            total += before * inputs * middle + after * (9 * middle**2 + 4 * middle**2)
            if not unit:
                total += after * inputs * 4 * middle
            inputs = 4 * middle
    return total


def _stage_width(cfg: ModelConfig, stage: int) -> int:
    """Channels of the 3x3 convolutions of a stage of the stem; its units end with four times as many."""
    assert cfg.resnet is not None
    return stem_width(cfg.resnet) * 2**stage
