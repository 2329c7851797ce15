"""The tokeniser of caption evaluation, in Python: lower-case Penn Treebank tokens without punctuation.

Published BLEU, METEOR, ROUGE-L, CIDEr and SPICE figures are computed on captions that Stanford's tokeniser
has cut (class ``PTBTokenizer`` with ``-preserveLines -lowerCase``) and from which a list of punctuation
tokens was removed. This module gives the same strings without Java; docs/caption-metrics.md says how it was
compared.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from prunelab.caption.ptb_rules import lex

# Bracket tokens stay: they are removed by their upper-case names, and the text is lower-case by then.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# Marks in the table of chunks: a token of this chunk can depend on what stands beside the chunk, ...
_HARD = "\x00"
# ... or only on a neighbour that has digits too (telephone numbers, "3 1/2").
_DIGITS = "\x01"
_NEEDS_CONTEXT = re.compile(r"[\s<\x00\x01]|^\.[^.]|&lt;|(?i:nos?|art|figs?|pp?|op|ca|prop)\.$")
_INITIAL = re.compile(r"[A-Za-z]\.")
_DIGIT = re.compile(r"\d")
_MAX_CHUNKS = 1 << 18


def _finish(tokens: Sequence[str]) -> str:
    lower = (token.lower() for token in tokens)
    return " ".join(token for token in lower if token and token not in PUNCTUATION)


class _Chunks(dict[str, str]):
    """What each run of characters between spaces becomes; filled as captions come."""

    def __missing__(self, chunk: str) -> str:
        if _NEEDS_CONTEXT.search(chunk):
            value = _HARD
        else:
            tokens = lex(chunk + " \n", len(chunk))
            value = _HARD if tokens and _INITIAL.fullmatch(tokens[-1]) else _finish(tokens)
            value = _DIGITS + value if _DIGIT.search(chunk) else value
        if len(self) >= _MAX_CHUNKS:
            self.clear()
        self[chunk] = value
        return value


_chunks = _Chunks()


def _cut(captions: Sequence[str], index: int) -> str:
    """Tokenise one caption with the ones after it in sight, as the Java program sees its input file."""
    following = "".join("\n" + text for text in captions[index + 1 : index + 4])
    return _finish(lex(captions[index] + following, len(captions[index])))


def _fast(parts: list[str]) -> str | None:
    """Join the chunks of a caption; None where the caption has to be read as a whole."""
    text = " ".join(filter(None, parts))
    if _HARD in text:
        return None
    if _DIGITS in text:
        digits = [part.startswith(_DIGITS) for part in parts]
        if any(first and second for first, second in itertools.pairwise(digits)):
            return None
        text = " ".join(filter(None, (part.removeprefix(_DIGITS) for part in parts)))
    return text


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenise captions for scoring.

    Args:
        captions: captions in the order in which the Java program would get them: a single letter with a
            period at the end of a caption is read with an eye on the next caption.

    Returns:
        For each caption its lower-case tokens joined by single spaces, without punctuation tokens.
    """
    lines = [caption.replace("\n", " ") for caption in captions]
    lookup: Any = _chunks.__getitem__
    results = []
    for index, line in enumerate(lines):
        text = _fast(list(map(lookup, line.split(" ")))) if index + 1 < len(lines) else None
        results.append(_cut(lines, index) if text is None else text)
    return results
