"""Which channels of a tensor are computed, and the indices that follow from it, made once for each choice.

# C channels, K computed ones, R = C - K others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which channels of a tensor are computed. There is one object for each such choice (`layout_of`)."""

    width: int
    """C."""
    kept: tuple[int, ...]
    """Those that are, ascending (K)."""
    rest: tuple[int, ...]
    """Those that are not, ascending (R)."""

    def places(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        """Where these channels stand: in ``kept``, or behind all of it in ``rest``."""
        order = {channel: place for place, channel in enumerate((*self.kept, *self.rest))}
        return tuple(order[channel] for channel in channels)


@cache
def layout_of(width: int, kept: tuple[int, ...]) -> Layout:
    """The layout in which these channels are computed."""
    return Layout(width, kept, tuple(sorted(set(range(width)) - set(kept))))


@cache
def joined(first: Layout, second: Layout) -> Layout:
    """The layout in which the channels of either are computed."""
    return layout_of(first.width, tuple(sorted({*first.kept, *second.kept})))


@cache
def sides(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """``kept`` and ``rest`` as indices."""
    return _index(layout.kept, device), _index(layout.rest, device)


@cache
def places_of(layout: Layout, of: Layout | None, device: torch.device) -> Tensor:
    """Where the computed channels of another layout (all channels for None) stand in this one."""
    channels = tuple(range(layout.width)) if of is None else of.kept
    return _index(layout.places(channels), device)


@torch.inference_mode(False)  # a training may use what an evaluation made
def _index(channels: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(channels, dtype=torch.long, device=device)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a tensor is read that was unpooled from values and places of different layouts."""

    marked: int
    """How many numbers have places of their own."""
    places: Tensor
    """Where to read, among all places that are there: for the computed channels, for those numbers, and the
    first one of each window, which comes last on both sides."""
    channels: Tensor
    """All numbers' channels (R,), those with places of their own first ..."""
    order: Tensor
    """... and where they stand among the numbers (R,)."""


@cache
def plan_of(values: Layout, places: Layout, device: torch.device) -> Plan:
    """The plan for these layouts."""
    own = set(places.kept)
    marked = tuple(c for c in values.rest if c in own)
    channels = (*marked, *(c for c in values.rest if c not in own))
    last = len(places.kept)
    among = [min(place, last) for place in places.places((*values.kept, *marked))]
    return Plan(
        marked=len(marked),
        places=_index([*among, last], device),
        channels=_index(channels, device),
        order=_index([place - len(values.kept) for place in values.places(channels)], device),
    )
