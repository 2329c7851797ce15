"""What ``--start_from`` means: the weights and masks that a new run begins with, by way of pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from prunelab.errors import UserError
from prunelab.mask import MASK_SUFFIX
from prunelab.util import read_json
from smp_caption.config import UP_DOWN, Config
from smp_caption.files.original import BEST, BINARY, CONFIG, find
from smp_caption.model import Network
from smp_caption.model.checkpoint import dense, load_original
from smp_caption.pruner import KEPT, ONCE, first_weights, is_lottery, read_weights


def load_start(network: Network, cfg: Config, *, log: Callable[[str], None] | None = None) -> list[str]:
    """Load ``start_from`` into a network, in a new run alone and before its pruner prepares.

    Dense weights go into a network with masks as well, whose masks stay as they are then. A lottery ticket
    begins with the trained weights, by which it is pruned; its pruner puts the first ones back.

    Args:
        network: with masks of its own.
        cfg: the run's configuration.
        log: takes the names in which network and checkpoint differ, as the original notes them of a pruned
            model.

    Returns:
        Lines to say.

    Raises:
        UserError: no such checkpoint, one of another model, or one that lacks what this pruning needs.
    """
    method = cfg.prune.prune_type
    if is_lottery(method):
        first_weights(cfg)  # found missing now, not after the pruning
    if not cfg.run.start_from:
        if method in KEPT:
            raise UserError(f"prune_type {method} needs start_from: expected a pruned model's checkpoint")
        fresh = (
            f"warning: prune_type {method} prunes fresh weights: expected start_from, a trained dense model"
        )
        return [fresh] if method in ONCE else []
    place = find(Path(cfg.run.start_from), last=cfg.run.resume_training)
    state, said = read_weights(place), [f"weights of {place}"]
    _check_heads(place, cfg)
    masks = {name: dense(value) for name, value in state.items() if name.endswith(MASK_SUFFIX)}
    if method in KEPT and not masks:
        raise UserError(
            f"{place}: holds no masks, which prune_type {method} keeps: expected a pruned model's "
            f"checkpoint, such as {BEST} or {BINARY}"
        )
    binary = all(bool(((mask == 0) | (mask == 1)).all()) for mask in masks.values())
    if masks and binary and method == "supermask":
        said.append(f"warning: {place}: its masks of 0 and 1 are taken as logits of supermasks")
    elif masks and not binary and method not in (None, "supermask"):
        said.append(f"{place}: its masks are logits of supermasks, rounded to 0 and 1 now")
        state |= {name: (mask > 0).to(mask.dtype) for name, mask in masks.items()}
    load_original(network, state, str(place), masks_optional=True)
    if log is not None:
        for line in _differences(network, state, place):
            log(line)
    return said


def _check_heads(place: Path, cfg: Config) -> None:
    """Refuse weights of another number of heads, which the shapes of a plain transformer do not tell."""
    file = (place if place.is_dir() else place.parent) / CONFIG
    sizes = read_json(file) if file.is_file() else {}
    for group in ("config", "model"):  # of a model folder; the original's file is flat
        sizes = sizes.get(group, sizes) if isinstance(sizes, dict) else {}
    heads = sizes.get("num_heads", cfg.model.num_heads)
    if cfg.model.caption_model not in UP_DOWN and heads != cfg.model.num_heads:
        raise UserError(f"{place}: is of num_heads {heads}, this run of {cfg.model.num_heads}")


def _differences(network: Network, state: Mapping[str, Tensor], place: Path) -> list[str]:
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    return [f"{place}", f"missing keys: {missing}", f"unexpected keys: {unexpected}"]
