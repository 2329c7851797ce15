"""Which positions see which, from numbers of padded trailing positions.

Masks are boolean, True where something is visible, and as small as broadcasting allows; None where everything
is visible.

# B batch, R rows (who looks), C columns (what is looked at), L words
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible(length: int, pads: Tensor) -> Tensor:
    """Positions that are not padded.

    Args:
        length: number of positions.
        pads: padded trailing positions, int64 (B,).

    Returns:
        Boolean (B, length).
    """
    return torch.arange(length, device=pads.device) < (length - pads)[:, None]


def pad_mask(
    rows: int, columns: int, row_pads: Tensor | None = None, column_pads: Tensor | None = None
) -> Tensor | None:
    """Unpadded rows see unpadded columns.

    Args:
        rows: number R of rows.
        columns: number C of columns.
        row_pads: padded trailing rows, int64 (B,), or None for none.
        column_pads: padded trailing columns, int64 (B,), or None for none.

    Returns:
        Boolean (B, R, C), (B, 1, C) or (B, R, 1), or None where nothing is padded.
    """
    row = None if row_pads is None else visible(rows, row_pads)[:, :, None]  # (B, R, 1)
    column = None if column_pads is None else visible(columns, column_pads)[:, None, :]  # (B, 1, C)
    if row is None or column is None:
        return column if row is None else row
    return row & column


def causal_mask(length: int, pads: Tensor | None = None, device: torch.device | None = None) -> Tensor:
    """Each position sees itself and those before it; rows and columns of padded positions are empty.

    Args:
        length: number L of positions.
        pads: padded trailing positions, int64 (B,), or None for none.
        device: where the mask is made, without pads.

    Returns:
        Boolean (B, L, L), or (1, L, L) without pads.
    """
    place = torch.arange(length, device=device if pads is None else pads.device)
    causal = (place[:, None] >= place)[None]  # (1, L, L)
    seen = pad_mask(length, length, pads, pads)
    return causal if seen is None else causal & seen
