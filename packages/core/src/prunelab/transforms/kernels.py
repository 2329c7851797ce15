"""The compiled inner loops of this package; imported at the first use, compiled once, cached.

Places in a turned picture are in fixed point, with ten fractional bits: the sum of what its row and its
column add, ``x_rows[y] + x_columns[x]``, and the same for y.
"""

# H, W height and width of the picture, h, w those of the window

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

BITS = 10  # fractional bits of places
FINE = 5  # of which so many choose the weights of a linear mix
SHARES = 22  # fractional bits of the weights that Pillow resizes by


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, keep the machine code on disk, and let other threads run meanwhile.

    A product and the sum that takes it in may become one instruction, which rounds once.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: a read-only installation and no home
        return njit(**options)(function)


@_compiled
def _mix_columns(row, start, places, shares, floats, out):  # pragma: no cover - compiled
    """Mix the neighbouring pixels of one row: out (w * 3,), by way of its floats from ``start`` on."""
    for i in range(len(floats)):
        floats[i] = row[start + i]
    for x in range(len(places)):
        place, share, to = places[x], shares[x], 3 * x
        for c in range(3):
            first = floats[place + c]
            out[to + c] = first + (floats[place + 3 + c] - first) * share


@_compiled
def linear(image, rows, row_shares, columns, column_shares, out):  # pragma: no cover - compiled
    """Resize linearly: image (H, W * 3), out (h, w * 3) float32.

    Output pixel (y, x) lies ``row_shares[y]`` of the way from row ``rows[y]`` to the next one, and
    ``column_shares[x]`` from column ``columns[x]`` to its next; neither is the picture's last, and columns
    never go back. Columns are mixed first, then rows, each as ``a + (b - a) * share``.
    """
    start = 3 * columns[0]
    floats = np.empty(3 * (columns[-1] + 2) - start, np.float32)
    places = 3 * columns - start
    above, below = np.empty(out.shape[1], np.float32), np.empty(out.shape[1], np.float32)
    held = np.int64(-2)  # the row in `above`; the next one is in `below`
    for y in range(len(rows)):
        row, share = rows[y], row_shares[y]
        if row == held + 1:
            above, below = below, above
            _mix_columns(image[row + 1], start, places, column_shares, floats, below)
        elif row != held:
            _mix_columns(image[row], start, places, column_shares, floats, above)
            _mix_columns(image[row + 1], start, places, column_shares, floats, below)
        held = row
        mixed = out[y]
        for i in range(len(mixed)):
            mixed[i] = above[i] + (below[i] - above[i]) * share


@_compiled
def nearest(label, rows, columns, out):  # pragma: no cover - compiled
    """Take label[rows[y], columns[x]]: out (h, w)."""
    for y in range(len(rows)):
        row, found = label[rows[y]], out[y]
        for x in range(len(columns)):
            found[x] = row[columns[x]]


@_compiled
def turned_nearest(
    label, rows, columns, x_rows, x_columns, y_rows, y_columns, void, out
):  # pragma: no cover - compiled
    """Take the nearest pixel of a resized label map for each place, ``void`` outside of it: out (h, w).

    The resized map, of ``len(rows)`` by ``len(columns)``, is never made: its pixel (i, j) is
    label[rows[i], columns[j]].
    """
    half = 1 << (BITS - 1)
    height, width = len(rows), len(columns)
    for y in range(out.shape[0]):
        found, x_row, y_row = out[y], x_rows[y] + half, y_rows[y] + half
        for x in range(out.shape[1]):
            i, j = (y_row + y_columns[x]) >> BITS, (x_row + x_columns[x]) >> BITS
            inside = 0 <= i < height and 0 <= j < width
            found[x] = label[rows[i], columns[j]] if inside else void


@_compiled
def turned_places(
    x_rows, x_columns, y_rows, y_columns, top, left, places, weights
):  # pragma: no cover - compiled
    """Split each place into whole pixels, counted from (left, top), and the number of its weights.

    places (h, w, 2) int16 of x and y, weights (h, w) uint16: as OpenCV's remap takes them.
    """
    half, mask = 1 << (BITS - FINE - 1), (1 << FINE) - 1
    for y in range(places.shape[0]):
        x_row, y_row = x_rows[y] + half, y_rows[y] + half
        for x in range(places.shape[1]):
            right, down = (x_row + x_columns[x]) >> (BITS - FINE), (y_row + y_columns[x]) >> (BITS - FINE)
            places[y, x, 0], places[y, x, 1] = (right >> FINE) - left, (down >> FINE) - top
            weights[y, x] = ((down & mask) << FINE) + (right & mask)


@_compiled
def planes(image, mean, std, out):  # pragma: no cover - compiled
    """Part the colours and normalise them: image (h, w, 3), out (3, h, w), all float32."""
    for y in range(image.shape[0]):
        row = image[y]
        for c in range(3):
            to, shift, factor = out[c, y], mean[c], std[c]
            for x in range(len(row)):
                to[x] = (row[x, c] - shift) / factor


@_compiled
def shifted_thumbnails(images, places, tops, lefts, flips, table, border, out):  # pragma: no cover - compiled
    """Shift, mirror and normalise small pictures: images (N, H, W, C) uint8, out (B, C, H, W) float32.

    Picture ``places[b]`` moves up by ``tops[b]`` and to the left by ``lefts[b]`` pixels (down and right if
    below zero); what comes in is ``border`` (C,). Then it is mirrored where ``flips[b]``. ``table`` (C, 256)
    says what each value becomes.
    """
    _, height, width, colours = images.shape
    for b in range(len(places)):
        image, top, left, flip = images[places[b]], tops[b], lefts[b], flips[b]
        # columns of the result from `start` to `end` show the picture; `step` is how they walk through it
        first = width - 1 + left if flip else left
        step = -1 if flip else 1
        begin, last = (first - width + 1, first) if flip else (-first, width - 1 - first)
        start, end = min(max(begin, 0), width), max(min(last + 1, width), 0)
        for c in range(colours):
            values, outside = table[c], border[c]
            for y in range(height):
                to, row = out[b, c, y], y + top
                if row < 0 or row >= height or start >= end:
                    to[:] = outside
                    continue
                to[:start] = outside
                line = image[row]
                for x in range(start, end):
                    to[x] = values[line[first + step * x, c]]
                to[end:] = outside


@_compiled
def _triangle_taps(length, size, firsts, counts, weights):  # pragma: no cover - compiled
    """Pillow's bilinear filter from ``length`` to ``size`` pixels, in fixed point of `SHARES` bits.

    Output pixel x is the sum of ``counts[x]`` pixels from ``firsts[x]`` on, each times its weight; weights
    (size, most taps) int32.
    """
    scale = length / size
    reach = max(scale, 1.0)
    step = 1.0 / reach
    for x in range(size):
        centre = (x + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        total = 0.0
        for i in range(first, last):
            total += max(1.0 - abs((i - centre + 0.5) * step), 0.0)
        for i in range(first, last):
            weight = max(1.0 - abs((i - centre + 0.5) * step), 0.0) / total
            weights[x, i - first] = int(weight * (1 << SHARES) + 0.5)
        firsts[x], counts[x] = first, last - first


@_compiled
def resized_thumbnails(images, places, windows, flips, table, out):  # pragma: no cover - compiled
    """Cut windows out of small pictures, resize, mirror and normalise them as Pillow does.

    images (N, h, w, C) uint8, windows (B, 4) of top, left, height, width, out (B, C, H, W) float32. Rows are
    resized first and rounded to bytes, then columns; ``table`` (C, 256) says what each value becomes.
    """
    colours, height, width = out.shape[1:]
    most = max(images.shape[1], images.shape[2]) + 1
    across, down = np.empty((width, most), np.int32), np.empty((height, most), np.int32)
    lefts, wides = np.empty(width, np.int64), np.empty(width, np.int64)
    tops, talls = np.empty(height, np.int64), np.empty(height, np.int64)
    rows, sums = np.empty((images.shape[1], width), np.int32), np.empty(width, np.int32)
    half = np.int32(1 << (SHARES - 1))
    for b in range(len(places)):
        image, (top, left, tall, wide) = images[places[b]], windows[b]
        _triangle_taps(wide, width, lefts, wides, across)
        _triangle_taps(tall, height, tops, talls, down)
        for c in range(colours):
            values = table[c]
            for y in range(tall):
                line, row = image[top + y], rows[y]
                for x in range(width):
                    total, start = half, left + lefts[x]
                    for i in range(wides[x]):
                        total += np.int32(line[start + i, c]) * across[x, i]
                    row[width - 1 - x if flips[b] else x] = min(total >> SHARES, 255)
            for y in range(height):
                sums[:] = half
                for i in range(talls[y]):
                    row, weight = rows[tops[y] + i], down[y, i]
                    for x in range(width):
                        sums[x] += row[x] * weight
                to = out[b, c, y]
                for x in range(width):
                    to[x] = values[min(sums[x] >> SHARES, 255)]
