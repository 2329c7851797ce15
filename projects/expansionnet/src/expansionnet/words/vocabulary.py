"""The words that a model knows: made from captions in one pass, kept in ``vocabulary.json``.

The original makes the vocabulary anew from the captions whenever it starts, and publishes it as a pickle;
here it is part of every model folder.

# n captions, N words of all captions, V words of the vocabulary
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from expansionnet.layout import VOCABULARY_FILE
from expansionnet.words import text
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json, restricted_load, write_json

FORMAT = "expansionnet-vocabulary/1"
PAD, SOS, EOS, UNK = "PAD", "SOS", "EOS", "UNK"
"""Words that no caption holds, since captions are in lower case."""
MORE_POSITIONS = 20
"""A model has so many positions more than its longest training caption has words, start and end included."""
_PUBLISHED = ("word2idx_dict", "idx2word_list", "sos_str", "eos_str")
"""Keys of the published pickle."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Captions as numbers of the words in the order in which they first came."""

    words: tuple[str, ...]
    """All different words."""
    ids: np.ndarray
    """(N,) int32: the words of all captions, one caption after the other."""
    starts: np.ndarray
    """(n + 1,) int64: where each caption begins in `ids`, and where the last one ends."""

    @classmethod
    def read(cls, captions: Iterable[str], *, split: Callable[[str], list[str]] = text.words) -> Corpus:
        """Split captions into words, each caption once.

        Args:
            captions: as written.
            split: a caption's words.
        """
        known: dict[str, int] = {}
        ids, starts = array("i"), array("q", [0])
        for caption in captions:
            ids.extend(known.setdefault(word, len(known)) for word in split(caption))
            starts.append(len(ids))
        return cls(
            words=tuple(known), ids=np.array(ids, dtype=np.int32), starts=np.array(starts, dtype=np.int64)
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) words of each caption, without start and end."""
        return np.diff(self.starts)

    @property
    def longest(self) -> int:
        """Words of the longest caption, start and end included; 0 without captions."""
        return int(self.lengths.max()) + 2 if len(self) else 0

    def coded(self, vocabulary: Vocabulary) -> Corpus:
        """The same captions as ids of a vocabulary."""
        table = np.array([vocabulary.id(word) for word in self.words], dtype=np.int32)
        return Corpus(words=vocabulary.words, ids=table[self.ids], starts=self.starts)

    def caption(self, place: int) -> np.ndarray:
        """(length,) numbers of a caption's words."""
        return self.ids[self.starts[place] : self.starts[place + 1]]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words and their ids, which are places in a list sorted by code points.

    Special words are sorted in among the others: no id is special by itself.
    """

    words: tuple[str, ...]
    """All V words."""
    longest: int = 0
    """Words of the longest caption that it was made from, start and end included; 0: not known."""
    min_occurrences: int = 0
    """Words that these captions hold less often were left out; 0: not known."""
    specials: tuple[str, str, str, str] = (PAD, SOS, EOS, UNK)
    """Padding, start, end, and the stand-in for unknown words."""

    def __post_init__(self) -> None:
        if len(self._ids) < len(self.words):
            double = next(word for place, word in enumerate(self.words) if self._ids[word] != place)
            raise UserError(f"vocabulary holds {double!r} twice, expected each word once")
        missing = [word for word in self.specials if word not in self._ids]
        if missing:
            raise UserError(f"vocabulary of {len(self.words)} words lacks {', '.join(missing)}")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @property
    def pad(self) -> int:
        """Id of the padding."""
        return self._ids[self.specials[0]]

    @property
    def sos(self) -> int:
        """Id of the start."""
        return self._ids[self.specials[1]]

    @property
    def eos(self) -> int:
        """Id of the end."""
        return self._ids[self.specials[2]]

    @property
    def unk(self) -> int:
        """Id of the stand-in for unknown words."""
        return self._ids[self.specials[3]]

    @property
    def max_seq_len(self) -> int:
        """Positions of a model for the captions that it was made from; 0: not known."""
        return self.longest + MORE_POSITIONS if self.longest else 0

    def __len__(self) -> int:
        return len(self.words)

    def id(self, word: str) -> int:
        """Id of a word; of an unknown one that of the stand-in."""
        return self._ids.get(word, self.unk)

    def encode(self, raw: str) -> list[int]:
        """Ids of a caption as written, with start and end."""
        return [self.sos, *(self.id(word) for word in text.words(raw)), self.eos]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of a caption: without start, up to the end."""
        found = []
        for token in ids:
            if token == self.eos:
                break
            if token != self.sos:
                found.append(self.words[token])
        return found

    @classmethod
    def from_captions(cls, captions: Iterable[str], *, min_occurrences: int) -> Vocabulary:
        """The vocabulary of captions as written."""
        return cls.from_corpus(Corpus.read(captions), min_occurrences=min_occurrences)

    @classmethod
    def from_corpus(cls, corpus: Corpus, *, min_occurrences: int) -> Vocabulary:
        """The vocabulary of captions that are split into words already.

        Args:
            corpus: the captions.
            min_occurrences: rarer words are left out.
        """
        counts = np.bincount(corpus.ids, minlength=len(corpus.words))
        kept = {word for word, count in zip(corpus.words, counts, strict=True) if count >= min_occurrences}
        return cls(
            words=tuple(sorted(kept | {PAD, SOS, EOS, UNK})),
            longest=corpus.longest,
            min_occurrences=min_occurrences,
        )

    def plain(self) -> dict[str, Any]:
        """The content of its file."""
        pad, sos, eos, unk = self.specials
        return {
            "format": FORMAT,
            "longest": self.longest,
            "min_occurrences": self.min_occurrences,
            "pad": pad,
            "sos": sos,
            "eos": eos,
            "unk": unk,
            "words": list(self.words),
        }

    def save(self, path: StrPath) -> Path:
        """Write it into a file, or as ``vocabulary.json`` into a folder."""
        place = Path(path)
        file = place / VOCABULARY_FILE if place.is_dir() else place
        write_json(file, self.plain(), indent=None)
        return file

    @classmethod
    def load(cls, path: StrPath) -> Vocabulary:
        """Read a vocabulary: our file, a folder with one (a model, a run), or the published pickle.

        Raises:
            UserError: nothing is there, or something else.
        """
        place = _file_of(Path(path))
        with open(place, "rb") as file:
            pickled = file.read(1) == b"\x80"  # every protocol since 2 begins so
        return _from_pickle(place) if pickled else _from_json(place)


def _file_of(path: Path) -> Path:
    """The file that a path means."""
    spots = [path, path / VOCABULARY_FILE, *(path / model / VOCABULARY_FILE for model in ("best", "last"))]
    found = next((spot for spot in spots if spot.is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: no vocabulary there, expected {VOCABULARY_FILE}, a model folder with one, or the "
            "original's pickle"
        )
    return found


def _strings(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise UserError(f"{where} is {type(values).__name__}, expected a list of words")
    for place, word in enumerate(values):
        if not isinstance(word, str):
            raise UserError(f"{where} holds {word!r} at place {place}, expected words")
    return tuple(values)


def _from_json(path: Path) -> Vocabulary:
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a vocabulary, expected JSON with the format {FORMAT!r}")
    pad, sos, eos, unk = (str(content.get(name)) for name in ("pad", "sos", "eos", "unk"))
    numbers = {name: content.get(name, 0) for name in ("longest", "min_occurrences")}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 0:
            raise UserError(f"{path}: {name} is {number!r}, expected a whole number of at least 0")
    listed = _strings(content.get("words"), f"{path}: words")
    return _checked(path, words=listed, specials=(pad, sos, eos, unk), **numbers)


def _from_pickle(path: Path) -> Vocabulary:
    """The original's published vocabulary, read without running anything that it names."""
    content = restricted_load(path)
    if not isinstance(content, Mapping) or any(key not in content for key in _PUBLISHED):
        raise UserError(f"{path}: not a vocabulary, expected a pickle with {', '.join(_PUBLISHED)}")
    listed = _strings(content["idx2word_list"], f"{path}: idx2word_list")
    if content["word2idx_dict"] != {word: place for place, word in enumerate(listed)}:
        raise UserError(f"{path}: word2idx_dict and idx2word_list differ, expected the same ids in both")
    return _checked(path, words=listed, specials=(PAD, str(content["sos_str"]), str(content["eos_str"]), UNK))


def _checked(path: Path, **fields: Any) -> Vocabulary:
    try:
        return Vocabulary(**fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
