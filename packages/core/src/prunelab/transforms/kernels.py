"""The compiled inner loops of resizing a window; imported at the first use, compiled once and cached."""

# h, w height and width of the window, C colours

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, keep the machine code on disk, and let other threads run meanwhile."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep it in: a read-only installation and no home
        return njit(nogil=True)(function)


@_compiled
def _mix_columns(image, row, columns, shares, out):  # pragma: no cover - compiled
    """Mix the neighbouring pixels of one row: out (w, C)."""
    for x in range(len(columns)):
        column, share = columns[x], np.float64(shares[x])
        for c in range(out.shape[1]):
            first = np.float32(image[row, column, c])
            step = np.float32(np.float32(image[row, column + 1, c]) - first)
            out[x, c] = np.float32(np.float64(first) + np.float64(step) * share)


@_compiled
def linear(image, rows, row_shares, columns, column_shares, out):  # pragma: no cover - compiled
    """Resize linearly: out (h, w, C) float32.

    Output pixel (y, x) lies ``row_shares[y]`` of the way from row ``rows[y]`` to the next one, and
    ``column_shares[x]`` from column ``columns[x]`` to its next; neither is the picture's last. Columns are
    mixed first, then rows; each mix ``a + (b - a) * share`` rounds its difference and its result to single
    precision, and nothing else, as a fused multiply-add does.
    """
    above, below = np.empty_like(out[0]), np.empty_like(out[0])
    held = np.int64(-2)  # the row in `above`; the next one is in `below`
    for y in range(len(rows)):
        row, share = rows[y], np.float64(row_shares[y])
        if row == held + 1:
            above, below = below, above
            _mix_columns(image, row + 1, columns, column_shares, below)
        elif row != held:
            _mix_columns(image, row, columns, column_shares, above)
            _mix_columns(image, row + 1, columns, column_shares, below)
        held = row
        for x in range(out.shape[1]):
            for c in range(out.shape[2]):
                step = np.float32(below[x, c] - above[x, c])
                out[y, x, c] = np.float32(np.float64(above[x, c]) + np.float64(step) * share)
