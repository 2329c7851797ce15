"""The compiled inner loops of the caption metrics; imported at the first use, compiled once and cached.

References are stored image by image as a small tree of n-grams: a row is an n-gram, given by the row of its
first n-1 words (-1 for none) and its last word. Rows are found through an open-addressed table of each image
(entry: row + 1, 0 is free) whose hits are verified on (row, word), so that different n-grams are never taken
for one another. The document frequencies of a corpus are one large tree of the same kind: node 0 is the
empty n-gram, and an entry of its table is a pair (key, node) with the exact key (node of the first n-1
words, last word) in 64 bits.

Arguments named alike mean the same in all functions:
tokens, starts, ends         captions as word numbers (`prunelab.caption.words.Encoded`)
first_caption (I+1,)         captions of image i: first_caption[i] to first_caption[i+1]
first_row, first_slot, first_count (I+1,)   where an image's rows, table and counts begin
rows (I,)                    number of rows of an image
parent, word, depth          of a row: row of the prefix, last word, n - 1
counts                       of a row: how often each reference holds it; index row * references + reference
slots                        the images' tables
low, high                    the images or candidates to work on: the callers split the work into threads
"""

# I images, B candidates, R references of an image

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

ORDERS = 4
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, keep the machine code on disk, and let other threads run meanwhile."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep it in: a read-only installation and no home
        return njit(nogil=True)(function)


@_compiled
def _slot(key, mask):  # pragma: no cover - compiled
    """First place to look for a key in a table of mask + 1 entries."""
    mixed = key * _MIX_1
    mixed ^= mixed >> _HALF
    return np.int64((mixed * _MIX_2) >> _HALF) & mask


@_compiled
def _key(prefix, last):  # pragma: no cover - compiled
    """The exact key of an n-gram: number of its prefix (0 for none) and its last word."""
    return (np.uint64(prefix) << _HALF) | np.uint64(last)


@_compiled
def _find_row(prefix, last, slots, begin, mask, parent, word, base):  # pragma: no cover - compiled
    """Row of an n-gram in an image's tree, or -1."""
    place = _slot(_key(prefix + 1, last), mask)
    while True:
        row = slots[begin + place] - 1
        if row < 0:
            return np.int64(-1)
        if parent[base + row] == prefix and word[base + row] == last:
            return np.int64(row)
        place = (place + 1) & mask


@_compiled
def cook(
    tokens, starts, ends, first_caption, first_row, first_slot, first_count,
    parent, word, depth, counts, slots, rows, low, high,
):  # pragma: no cover - compiled  # fmt: skip
    """Build the trees of images low..high from their references."""
    for image in range(low, high):
        base, begin, at = first_row[image], first_slot[image], first_count[image]
        mask = first_slot[image + 1] - begin - 1
        references = first_caption[image + 1] - first_caption[image]
        used = 0
        for reference in range(references):
            caption = first_caption[image] + reference
            for i in range(starts[caption], ends[caption]):
                row = np.int64(-1)
                for n in range(min(ORDERS, ends[caption] - i)):
                    last = tokens[i + n]
                    place = _slot(_key(row + 1, last), mask)
                    while True:
                        found = slots[begin + place] - 1
                        if found < 0:
                            found = used
                            used += 1
                            slots[begin + place] = used
                            parent[base + found] = row
                            word[base + found] = last
                            depth[base + found] = n
                            break
                        if parent[base + found] == row and word[base + found] == last:
                            break
                        place = (place + 1) & mask
                    row = np.int64(found)
                    counts[at + row * references + reference] += 1
        rows[image] = used


@_compiled
def grow_table(table):  # pragma: no cover - compiled
    """Return a table of twice the size with the same entries."""
    size = 2 * table.shape[0]
    larger = np.zeros((size, 2), np.uint64)
    for old in range(table.shape[0]):
        if table[old, 1] != 0:
            place = _slot(table[old, 0], size - 1)
            while larger[place, 1] != 0:
                place = (place + 1) & (size - 1)
            larger[place, 0] = table[old, 0]
            larger[place, 1] = table[old, 1]
    return larger


@_compiled
def _insert(table, key, nodes):  # pragma: no cover - compiled
    """Node of a key; the next number, ``nodes``, if the key is new."""
    mask = table.shape[0] - 1
    place = _slot(key, mask)
    while True:
        if table[place, 1] == 0:
            table[place, 0] = key
            table[place, 1] = np.uint64(nodes)
            return np.int64(nodes)
        if table[place, 0] == key:
            return np.int64(table[place, 1])
        place = (place + 1) & mask


@_compiled
def count_images(
    table, frequency, nodes, parent, word, rows, first_row, image, images
):  # pragma: no cover - compiled
    """Add 1 to the frequency of every n-gram of each image, until the table is half full.

    Returns:
        (next image, number of nodes): fewer images than asked for when the table or ``frequency`` must grow.
    """
    local = np.zeros(1, np.int64)
    while image < images:
        if 2 * (nodes + rows[image]) > table.shape[0]:
            break
        if local.shape[0] < rows[image]:
            local = np.zeros(2 * rows[image], np.int64)
        base = first_row[image]
        for row in range(rows[image]):  # a prefix comes before its n-gram
            prefix = parent[base + row]
            node = _insert(table, _key(0 if prefix < 0 else local[prefix], word[base + row]), nodes)
            if node == nodes:
                nodes += 1
            local[row] = node
            frequency[node] += 1.0
        image += 1
    return image, nodes


@_compiled
def insert_ngrams(table, frequency, nodes, words, lengths, values, low):  # pragma: no cover - compiled
    """Enter n-grams (rows of ``words``) with their frequencies, until the table is half full.

    Returns:
        (next n-gram, number of nodes).
    """
    index = low
    while index < words.shape[0] and 2 * (nodes + ORDERS) <= table.shape[0]:
        node = np.int64(0)
        for n in range(lengths[index]):
            node = _insert(table, _key(node, words[index, n]), nodes)
            if node == nodes:
                nodes += 1
        frequency[node] = values[index]
        index += 1
    return index, nodes


@_compiled
def _look_up(table, node, last):  # pragma: no cover - compiled
    """Entry (node and number of its idf in one) of an n-gram in a frozen table; 0 if it is not there."""
    key = _key(node, last)
    mask = table.shape[0] - 1
    place = _slot(key, mask)
    while True:
        entry = table[place, 1]
        if entry == 0 or table[place, 0] == key:
            return entry
        place = (place + 1) & mask


@_compiled
def weigh(
    table, idf_values, idf_absent, parent, word, depth, counts, rows,
    first_row, first_count, first_caption, node, idf, norm, low, high,
):  # pragma: no cover - compiled  # fmt: skip
    """Look up every row's node and idf, and compute the references' norms (captions, 4)."""
    for image in range(low, high):
        base, at = first_row[image], first_count[image]
        references = first_caption[image + 1] - first_caption[image]
        for row in range(rows[image]):
            prefix = parent[base + row]
            above = np.int64(0) if prefix < 0 else np.int64(node[base + prefix])
            entry = np.uint64(0)
            if above >= 0:
                entry = _look_up(table, above, word[base + row])
            if entry == 0:
                node[base + row] = -1
                idf[base + row] = idf_absent
            else:
                node[base + row] = np.int64(entry >> _HALF)
                idf[base + row] = idf_values[np.int64(entry & _LOW)]
            for reference in range(references):
                weight = counts[at + row * references + reference] * idf[base + row]
                norm[first_caption[image] + reference, depth[base + row]] += weight * weight
        for caption in range(first_caption[image], first_caption[image + 1]):
            for n in range(ORDERS):
                norm[caption, n] = math.sqrt(norm[caption, n])


@_compiled
def _repeats(tokens, start, length, common, times):  # pragma: no cover - compiled
    """Count the n-grams of one candidate: times[n, i] is 0 unless the n-gram at i occurs there first."""
    for i in range(length + 1):
        common[i] = 0
    for i in range(length - 1, -1, -1):
        for n in range(ORDERS):
            times[n, i] = 0 if i + n >= length else 1
        here = tokens[start + i]
        for j in range(length):  # common[j]: number of equal words from i and j on
            if tokens[start + j] != here:
                common[j] = 0
            else:
                common[j] = common[j + 1] + 1
                if j != i:
                    for n in range(min(ORDERS, common[j])):
                        if j < i:
                            times[n, i] = 0
                        elif times[n, i] > 0:
                            times[n, i] += 1


@_compiled
def _share(counts, at, row, references, weight, mine, n, shared):  # pragma: no cover - compiled
    """Add min(h, r) r of one n-gram for each reference that has it."""
    for reference in range(references):
        count = counts[at + row * references + reference]
        if count > 0:
            theirs = count * weight
            shared[reference, n] += min(mine, theirs) * theirs


@_compiled
def _match(
    tokens, start, length, times, table, idf_values, idf_absent, base, begin, mask, at, references,
    parent, word, counts, slots, node, idf, shared, own,
):  # pragma: no cover - compiled  # fmt: skip
    """Walk a candidate's n-grams through its image's tree, then through the corpus's.

    Fills ``own`` (4,) with the candidate's squared norms and ``shared`` (R, 4) with the dot products.
    """
    for i in range(length):
        row, above = np.int64(-1), np.int64(0)
        inside = True
        for n in range(min(ORDERS, length - i)):
            last = tokens[start + i + n]
            if inside:
                row = _find_row(row, last, slots, begin, mask, parent, word, base)
                inside = row >= 0
            weight = idf_absent
            if inside:
                weight = idf[base + row]
                above = np.int64(node[base + row])
            elif above >= 0:
                entry = _look_up(table, above, last)
                above = np.int64(entry >> _HALF) if entry != 0 else np.int64(-1)
                if entry != 0:
                    weight = idf_values[np.int64(entry & _LOW)]
            mine = times[n, i] * weight  # 0 for an n-gram that has occurred before
            own[n] += mine * mine
            if inside and times[n, i] > 0:
                _share(counts, at, row, references, weight, mine, n, shared)


@_compiled
def cider_d(
    tokens, starts, ends, images, table, idf_values, idf_absent, minus_half_precision,
    first_caption, first_row, first_slot, first_count, parent, word, counts, slots,
    node, idf, norm, length_of, scores, low, high,
):  # pragma: no cover - compiled  # fmt: skip
    """Score candidates low..high; ``length_of`` (captions,) is the references' number of bigrams."""
    longest, most = 0, 0
    for b in range(low, high):
        longest = max(longest, ends[b] - starts[b])
        most = max(most, first_caption[images[b] + 1] - first_caption[images[b]])
    common = np.zeros(longest + 1, np.int64)
    times = np.zeros((ORDERS, longest + 1), np.int64)
    shared = np.zeros((most, ORDERS))
    own = np.zeros(ORDERS)
    for b in range(low, high):
        start, length, image = starts[b], ends[b] - starts[b], images[b]
        references = first_caption[image + 1] - first_caption[image]
        shared[:references] = 0.0
        own[:] = 0.0
        _repeats(tokens, start, length, common, times)
        _match(
            tokens, start, length, times, table, idf_values, idf_absent,
            first_row[image], first_slot[image], first_slot[image + 1] - first_slot[image] - 1,
            first_count[image], references, parent, word, counts, slots, node, idf, shared, own,
        )  # fmt: skip
        total = 0.0
        for reference in range(references):
            caption = first_caption[image] + reference
            delta = max(length - 1, 0) - length_of[caption]
            similar = 0.0
            for n in range(ORDERS):
                lengths = math.sqrt(own[n]) * norm[caption, n]
                similar += shared[reference, n] / lengths if lengths != 0.0 else shared[reference, n]
            total += similar * math.exp(delta * delta * minus_half_precision)
        scores[b] = 10.0 * total / ORDERS / references


@_compiled
def bleu(
    tokens, starts, ends, images,
    first_caption, first_row, first_slot, first_count, parent, word, counts, slots, length_of,
    matches, closest, low, high,
):  # pragma: no cover - compiled  # fmt: skip
    """Clipped matches (B, 4) and the closest reference length (B,) of candidates low..high."""
    longest = 0
    for b in range(low, high):
        longest = max(longest, ends[b] - starts[b])
    common = np.zeros(longest + 1, np.int64)
    times = np.zeros((ORDERS, longest + 1), np.int64)
    for b in range(low, high):
        start, length, image = starts[b], ends[b] - starts[b], images[b]
        base, begin, at = first_row[image], first_slot[image], first_count[image]
        mask = first_slot[image + 1] - begin - 1
        references = first_caption[image + 1] - first_caption[image]
        _repeats(tokens, start, length, common, times)
        for i in range(length):
            row = np.int64(-1)
            for n in range(min(ORDERS, length - i)):
                row = _find_row(row, tokens[start + i + n], slots, begin, mask, parent, word, base)
                if row < 0:
                    break
                if times[n, i] > 0:
                    most = np.int64(0)
                    for reference in range(references):
                        most = max(most, np.int64(counts[at + row * references + reference]))
                    matches[b, n] += min(times[n, i], most)
        best = length_of[first_caption[image]]
        for caption in range(first_caption[image] + 1, first_caption[image + 1]):
            other = length_of[caption]
            gap, least = abs(other - length), abs(best - length)
            if gap < least or (gap == least and other < best):
                best = other
        closest[b] = best


@_compiled
def common_subsequences(
    tokens, starts, ends, images, ref_tokens, ref_starts, ref_ends, first_caption,
    precision, recall, low, high,
):  # pragma: no cover - compiled  # fmt: skip
    """Best precision and best recall of the longest common subsequence over an image's references."""
    longest = 0
    for caption in range(first_caption[images[low]], first_caption[images[low] + 1]):
        longest = max(longest, ref_ends[caption] - ref_starts[caption])
    line = np.zeros(longest + 1, np.int64)
    for b in range(low, high):
        length = ends[b] - starts[b]
        for caption in range(first_caption[images[b]], first_caption[images[b] + 1]):
            begin, other = ref_starts[caption], ref_ends[caption] - ref_starts[caption]
            if line.shape[0] <= other:
                line = np.zeros(2 * other + 1, np.int64)
            line[: other + 1] = 0
            for i in range(starts[b], ends[b]):
                here, diagonal = tokens[i], np.int64(0)
                for j in range(other):
                    above = line[j + 1]
                    if ref_tokens[begin + j] == here:
                        line[j + 1] = diagonal + 1
                    elif line[j] > above:
                        line[j + 1] = line[j]
                    diagonal = above
            precision[b] = max(precision[b], line[other] / length)
            recall[b] = max(recall[b], line[other] / other)


@_compiled
def fill_table(table, entries):  # pragma: no cover - compiled
    """Enter pairs (key, entry) into an empty table."""
    mask = table.shape[0] - 1
    for i in range(entries.shape[0]):
        place = _slot(entries[i, 0], mask)
        while table[place, 1] != 0:
            place = (place + 1) & mask
        table[place, 0] = entries[i, 0]
        table[place, 1] = entries[i, 1]
