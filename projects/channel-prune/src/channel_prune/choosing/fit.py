"""One layer: from sums of products to the channels that stay and the new kernel.

# C input channels, O outputs, D = kernel positions x channels
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from channel_prune.choosing import lasso
from channel_prune.choosing.draws import Draws
from channel_prune.choosing.gram import Gram, kernel_rows, kernel_weight
from channel_prune.choosing.lasso import Selection
from channel_prune.choosing.regression import adam, ridge
from channel_prune.config import PruneConfig


@dataclass(kw_only=True, eq=False)
class Sums:
    """What was sampled for a layer."""

    gram: Gram
    """Over all rows."""
    looked_at: tuple[np.ndarray, np.ndarray] | None = None
    """A (C, C) and b (C,) over the rows that the original's selection looks at; None: over all."""
    start: np.ndarray | None = None
    """Where the original's selection starts (C,)."""
    added: Tensor | None = None
    """Mean of what was added to the targets for a shortcut (O,); None: nothing was."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A layer with fewer channels."""

    selection: Selection
    norm: float
    """Frobenius norm that the selection's problem was divided by."""
    weight: Tensor
    """(O, C, h, w)."""
    shift: Tensor
    """(O,): what is added to the outputs beside it."""
    rows: int
    """Samples that it was fitted to."""
    loss_before: float
    """||X W - Y||^2 / (2 N) with the kernel as it was, pruned."""
    loss_after: float
    """The same with the new kernel."""


def least_channels(name: str, channels: int, ratio: float, cfg: PruneConfig) -> int:
    """How many channels are to stay; a warning where the ratio would leave too few."""
    wanted = lasso.target(channels, ratio, least=cfg.min_channels, round_to=cfg.round_to)
    left = int(channels * (1.0 - ratio))
    if left < min(cfg.min_channels, channels):
        warnings.warn(
            f"{name}: a ratio of {ratio:g} would leave {left} of {channels} channels; {wanted} stay",
            stacklevel=2,
        )
    return wanted


def untouched(weight: Tensor) -> Fitted:
    """A layer that keeps all channels and its kernel, since nothing before it has changed."""
    selection = Selection(kept=list(range(weight.shape[1])), gamma=None, trace=[])
    return Fitted(
        selection=selection,
        norm=0.0,
        weight=weight.detach().clone(),
        shift=torch.zeros(len(weight), dtype=torch.float64),
        rows=0,
        loss_before=0.0,
        loss_after=0.0,
    )


def fit(
    weight: Tensor, sums: Sums, wanted: int, cfg: PruneConfig, draws: Draws, *, shifted: bool = False
) -> Fitted:
    """Select channels and refit the kernel.

    Args:
        weight: the kernel as it is (O, C, h, w).
        sums: what was sampled.
        wanted: how many channels are to stay.
        cfg: how.
        draws: for a random selection.
        shifted: something behind the layer takes in a constant, so the fit need not go through zero.
    """
    rows = kernel_rows(weight).cpu()
    gram = sums.gram.centred() if shifted else sums.gram
    selection, norm = _select(rows, gram, sums, wanted, cfg, draws)
    before = rows.clone()
    mask = torch.zeros(len(rows), 1, dtype=torch.float64)
    mask[gram.columns(selection.kept)] = 1.0
    before *= mask
    match cfg.reconstruction:
        case "adam":
            rate, steps = cfg.lstsq_lrn_rate, cfg.lstsq_nb_iters
            after = adam(gram, rows, selection.kept, rate=rate, steps=steps, decay=cfg.loss_w_dcy)
        case "ridge":
            after = ridge(gram, selection.kept, decay=cfg.loss_w_dcy)
        case _:
            after = before
    x, y = sums.gram.means
    shift = y - after.T @ x if shifted else torch.zeros_like(y)
    new = kernel_weight(after, weight)
    return Fitted(
        selection=selection,
        norm=norm,
        weight=new,
        rows=gram.rows,
        shift=shift,
        loss_before=gram.loss(before, selection.kept),
        loss_after=gram.loss(kernel_rows(new).cpu(), selection.kept),
    )


def _select(
    rows: Tensor, gram: Gram, sums: Sums, wanted: int, cfg: PruneConfig, draws: Draws
) -> tuple[Selection, float]:
    """Which channels stay, and the norm of the problem."""
    if cfg.selection == "lasso" and cfg.reconstruction == "ridge" and gram.rows > len(rows):
        # What a channel adds when all are fitted to what arrives now, not to what the full network reads.
        rows = ridge(gram, list(range(gram.channels)), decay=cfg.loss_w_dcy)
    a, b, norm = lasso.scaled(*(sums.looked_at or gram.problem(rows)))
    match cfg.selection:
        case "ista":
            start = draws.start(len(b)) if sums.start is None else sums.start
            found = lasso.search(_ista(a, b, start, cfg), wanted)
            if not found.kept:
                found = Selection(kept=[int(np.argmax(np.abs(b)))], gamma=found.gamma, trace=found.trace)
            return found, norm
        case "lasso":
            return lasso.exact(a, b, wanted), norm
        case "l1":
            sizes = rows.abs().sum(1).view(gram.kernel, gram.channels).sum(0)
            kept = torch.argsort(-sizes, stable=True)[:wanted].tolist()
        case _:
            kept = draws.choice(gram.channels, wanted).tolist()
    return Selection(kept=sorted(kept), gamma=None, trace=[]), norm


def _ista(a: np.ndarray, b: np.ndarray, start: np.ndarray, cfg: PruneConfig) -> Callable[[float], np.ndarray]:
    rate, steps = cfg.ista_lrn_rate, cfg.ista_nb_iters
    return lambda gamma: lasso.ista(a, b, start, gamma, rate=rate, steps=steps)
