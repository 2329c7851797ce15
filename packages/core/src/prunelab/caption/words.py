"""Words as numbers: what the compiled scorers work on.

A word gets a number when it first occurs in a reference or a frequency table. A candidate's words that no
reference has ever had get numbers for one call only, so that scoring a model's output for days does not grow
the table. Numbers of different words differ, always: nothing here is hashed to fewer bits.
"""

# B captions, L tokens of the longest, V words of a model

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunelab.errors import UserError

_MISSING = -1
_BREAK = "\x00"  # stands between captions while many are split at once
_BREAK_ID = -2
_FIRST_PASSING = 1 << 30  # numbers from here on are a call's own


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Captions as numbers: caption b is ``tokens[starts[b] : ends[b]]``."""

    tokens: NDArray[np.int32]
    """Word numbers, flat; other entries may lie between the captions."""
    starts: NDArray[np.int64]
    """(B,) First entry of each caption."""
    ends: NDArray[np.int64]
    """(B,) One past the last entry of each caption."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,) Number of words of each caption."""
        return self.ends - self.starts


def _at_whitespace(text: str) -> list[str]:
    return text.split()


def _at_blanks(text: str) -> list[str]:
    return text.split(" ")


class Vocabulary:
    """Numbers for words, from 1 on."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {_BREAK: _BREAK_ID}

    def __len__(self) -> int:
        return len(self._ids) - 1

    def words(self) -> list[str]:
        """All words; word number i is entry i - 1."""
        return list(self._ids)[1:]

    def add(self, words: Sequence[str]) -> None:
        """Number the words that have no number yet, in their order."""
        ids = self._ids
        for word in dict.fromkeys(words):
            if word not in ids:
                ids[word] = len(ids)

    def encode(self, captions: Sequence[str], *, grow: bool = False, blanks: bool = False) -> Encoded:
        """Split captions into words and number these.

        Args:
            captions: B captions.
            grow: give unknown words a number for good (references); else for this call only.
            blanks: split at every single blank, so that two in a row hold an empty word and an empty caption
                is one empty word (ROUGE-L is defined so); else at runs of any white space.
        """
        split = _at_blanks if blanks else _at_whitespace
        text = f" {_BREAK} ".join(captions)
        if text.count(_BREAK) != max(len(captions) - 1, 0):  # a caption holds the mark itself
            text = f" {_BREAK} ".join(caption.replace(_BREAK, "\ufffd") for caption in captions)
        words = split(text) if captions else []
        if grow:
            self.add(words)
        ids = np.fromiter(map(self._ids.get, words, itertools.repeat(_MISSING)), np.int32, len(words))
        unknown = np.flatnonzero(ids == _MISSING)
        if len(unknown):
            passing: dict[str, int] = {}
            ids[unknown] = [
                passing.setdefault(words[i], _FIRST_PASSING + len(passing)) for i in unknown.tolist()
            ]
        breaks = np.flatnonzero(ids == _BREAK_ID)
        starts = np.zeros(len(captions), np.int64)
        ends = np.full(len(captions), len(ids), np.int64)
        starts[1:], ends[:-1] = breaks + 1, breaks
        return Encoded(tokens=ids, starts=starts, ends=ends)

    def table(self, words: Sequence[str]) -> NDArray[np.int32]:
        """(V,) The number of each of a model's words; unknown words are added.

        Entry i belongs to the model's token i; make it once and hand it to `encode_tokens`.
        """
        self.add(words)
        return np.fromiter(map(self._ids.__getitem__, words), np.int32, len(words))


def encode_tokens(
    tokens: ArrayLike,
    table: NDArray[np.int32],
    *,
    eos: int | None = None,
    pad: int | None = 0,
    bos: int | None = None,
    keep_eos: bool = False,
) -> Encoded:
    """Number the captions that a model wrote, without making strings.

    A caption ends before its first ``eos`` or ``pad``, or with the row.

    Args:
        tokens: (B, L) token ids, e.g. a CPU tensor.
        table: from `Vocabulary.table`, one entry a token id.
        eos: end of a caption; None if the model has none.
        pad: filler after a caption; None if there is none.
        bos: start token, left out wherever it stands.
        keep_eos: the ``eos`` itself counts as a word (rewards that score the end of the sentence).

    Raises:
        UserError: not two dimensions of whole numbers, or a token that the table lacks.
    """
    array = np.asarray(tokens)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise UserError(
            f"tokens have shape {array.shape} and type {array.dtype}; expected (captions, length) integers"
        )
    count, length = array.shape
    if array.size and (array.min() < 0 or array.max() >= len(table)):
        raise UserError(f"token ids from {array.min()} to {array.max()}; expected 0 to {len(table) - 1}")
    ended = np.zeros(array.shape, bool)
    for mark in (eos, pad):
        if mark is not None:
            ended |= array == mark
    lengths = np.where(ended.any(1), ended.argmax(1), length) if length else np.zeros(count, np.int64)
    if keep_eos and eos is not None and length:
        last = np.minimum(lengths, length - 1)
        lengths = lengths + ((lengths < length) & (array[np.arange(count), last] == eos))
    flat = table[array].reshape(-1)  # (B, L) -> (B L)
    starts = np.arange(count, dtype=np.int64) * length
    if bos is None:
        return Encoded(tokens=flat, starts=starts, ends=starts + lengths)
    kept = (np.arange(length) < lengths[:, None]) & (array != bos)  # (B, L)
    ends = np.cumsum(kept.sum(1), dtype=np.int64)
    return Encoded(tokens=flat[kept.reshape(-1)], starts=ends - kept.sum(1), ends=ends)
