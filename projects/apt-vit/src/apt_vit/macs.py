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
from prunelab.errors import UserError

AGENTS = ("plain", "folded", "none")
"""Forms of the agents: four linear maps as the original has them, one difference of logits by a single D x D
matrix (`apt_vit.folded`), or no agent that runs."""
_ROOT, _STRIDE = 64, 16
"""Channels of the stem's first convolution at width factor 1, and pixels along a side of its output's cell."""


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
    height, width = _grid(cfg)
    return height * width


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
    if cfg.patch_size is not None:
        return patches_of(cfg) * 3 * cfg.patch_size[0] * cfg.patch_size[1] * cfg.hidden_size
    assert cfg.resnet is not None
    taps = [each // _STRIDE // grid for each, grid in zip(cfg.img_size, cfg.patch_grid or (), strict=True)]
    channels = int(_ROOT * cfg.resnet.width_factor) * 16
    return stem_macs(cfg) + patches_of(cfg) * taps[0] * taps[1] * channels * cfg.hidden_size


def stem_macs(cfg: ModelConfig) -> int:
    """MACs of a hybrid's convolutions: the root, then units of 1x1, 3x3, 1x1 and the shortcut's 1x1."""
    assert cfg.resnet is not None
    root = int(_ROOT * cfg.resnet.width_factor)
    halves = [-(-side // 2) for side in cfg.img_size]
    total = halves[0] * halves[1] * root * 3 * 7 * 7
    sides, inputs = [_pooled(side, cfg.root_pool_same) for side in halves], root
    for stage, units in enumerate(cfg.resnet.num_layers):
        middle, outputs = root * 2**stage, 4 * root * 2**stage
        for unit in range(units):
            before = sides[0] * sides[1]
            if stage and not unit:
                sides = [-(-side // 2) for side in sides]
            after = sides[0] * sides[1]
            total += before * inputs * middle + after * (9 * middle**2 + middle * outputs)
            if not unit:
                total += after * inputs * outputs
            inputs = outputs
    return total


def _pooled(side: int, same: bool) -> int:
    """A side behind the pooling of 3 pixels at stride 2, padded to "same" or not."""
    return -(-side // 2) if same else (side - 3) // 2 + 1


def _grid(cfg: ModelConfig) -> tuple[int, int]:
    """Patches along each side."""
    if cfg.patch_size is not None:
        sides = [side // patch for side, patch in zip(cfg.img_size, cfg.patch_size, strict=True)]
        return sides[0], sides[1]
    sides = []
    for side, grid in zip(cfg.img_size, cfg.patch_grid or (), strict=True):
        taps = side // _STRIDE // grid
        if not taps:
            raise UserError(f"img_size is {side}, expected at least {_STRIDE * grid} for a grid of {grid}")
        pooled = _pooled(-(-side // 2), cfg.root_pool_same)
        sides.append(-(-pooled // 4) // taps)
    return sides[0], sides[1]
