r"""Captions as words, and words as captions: the original's steps, one function each.

``\w`` is what Python takes for a character of a word: letters of any script, digits and the underscore. Text
of any language passes; scripts that are written without spaces come out as one word a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_APART = re.compile(r"(\W)")

PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
"""Pieces that are left out. Other signs stay as words: double quotes, brackets, ``#``, ``&``, line breaks."""


def lowered(raw: str) -> str:
    """Step 1: lower case, without white space at the right end."""
    return raw.lower().rstrip()


def spaced(text: str) -> str:
    """Step 2: a space on each side of every character that belongs to no word, spaces included."""
    return _APART.sub(r" \1 ", text)


def without_punctuation(text: str) -> str:
    """Step 3: pieces between spaces that are `PUNCTUATION` are left out; the spaces around them stay."""
    return " ".join(piece for piece in text.split(" ") if piece not in PUNCTUATION)


def words(raw: str) -> list[str]:
    """The words of a caption as training sees them; a line break or a tab inside of it is a word."""
    return [piece for piece in without_punctuation(spaced(lowered(raw))).split(" ") if piece]


def reward_words(raw: str) -> list[str]:
    """The words of a reference as the reward sees them: line breaks and tabs are none, rare words stay.

    The end of a caption, where it counts as a word, is for the reward to add.
    """
    return without_punctuation(spaced(lowered(raw))).split()


def to_text(caption: Sequence[str]) -> str:
    """Words as a sentence: the first letter is a capital, a full stop follows. No words: no text."""
    return (" ".join(caption) + ".").capitalize() if caption else ""
