"""Position embeddings on another grid than they were learnt on.

# n patches, D width
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prunelab.errors import UserError

Grid = tuple[int, int]
"""Rows and columns of patches."""


@dataclass(frozen=True, kw_only=True)
class Resized:
    """Position embeddings that fit a network, and what the original says of the change."""

    table: Tensor
    """(1, n + 1, D), of the type that was given."""
    printed: tuple[str, ...] = ()
    """Lines that the original prints; none where nothing was resized."""
    logged: tuple[str, ...] = ()
    """Messages that its logger ``models.modeling`` gets."""


def square_side(rows: int) -> int | None:
    """Side of the square grid of a table of so many rows, the class token's among them; None: no square."""
    side = math.isqrt(max(rows - 1, 0))
    return side if side and side * side == rows - 1 else None


def loses_edge(old: int, new: int) -> bool:
    """Whether scipy's zoom from ``old`` to ``new`` points takes the last one for a point outside the grid.

    It multiplies the last index by the rounded ratio of the lengths; where the product is above the last
    index of the old grid, the value there is 0.
    """
    return new > 1 and (new - 1) * ((old - 1) / (new - 1)) > old - 1


def resize(table: Tensor, grid: Grid, *, where: str, edge_zeros: bool = False) -> Resized:
    """Fit position embeddings to a grid: bilinear with aligned corners, the class token's row as it is.

    Computed in float64 and rounded at the end, as the original does it.

    Args:
        table: (1, n + 1, D), of a square grid; one that has the grid's number of rows is taken as it is.
        grid: rows and columns of the network's patches.
        where: the file, for messages.
        edge_zeros: the original's way: where its zoom loses the edge (`loses_edge`), the last row and column
            become 0; and grids that are no squares, which it garbles, are refused.

    Raises:
        UserError: the table has no square grid and must be resized, or the grid is no square under
            ``edge_zeros``.
    """
    rows, columns = grid
    old = square_side(table.shape[1])
    if edge_zeros and (rows != columns or old is None):
        raise UserError(
            f"{where}: position embeddings of {table.shape[1]} rows for {rows} x {columns} patches, expected "
            "squares on both sides (--preset fixed resizes both sides of a square apart)"
        )
    same = old == rows == columns or (old is None and table.shape[1] == rows * columns + 1)
    if same:
        return Resized(table=table)
    if old is None:
        raise UserError(
            f"{where}: position embeddings of {table.shape[1]} rows, expected {rows * columns + 1}, "
            "or one more than a square number"
        )
    patches = table[:, 1:].double().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, old, old)
    new = functional.interpolate(patches, size=grid, mode="bilinear", align_corners=True)
    if edge_zeros and loses_edge(old, rows):
        new[:, :, -1, :] = 0
        new[:, :, :, -1] = 0
    flat = new.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).to(table.dtype)  # (1, n, D)
    found = torch.cat([table[:, :1], flat], dim=1)
    size = f"{rows}" if rows == columns else f"{rows} x {columns}"
    return Resized(
        table=found,
        printed=(f"load_pretrained: grid-size from {old} to {size}",),
        logged=(f"load_pretrained: resized variant: {table.size()} to {found.size()}",),
    )
