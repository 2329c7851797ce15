"""Document frequencies of n-grams: in how many images of a corpus each one occurs.

They weigh the n-grams in CIDEr and CIDEr-D. A table comes from the references of an evaluation, from training
captions (with the vocabulary rule and end marker of the original data preparation), from the original's
pickle ``{"document_frequency": {n-gram: count}, "ref_len": images}``, or from our own file, a NumPy archive
without pickled objects.
"""

# M n-grams

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunelab.caption.references import CookedReferences, cook
from prunelab.caption.words import Vocabulary
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write, restricted_load

END = "<eos>"
UNKNOWN = "UNK"
_FORMAT = "prunelab document frequency 1"
_ROOM = 1 << 12
_HALF = np.uint64(32)


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentFrequency:
    """A frequency table, ready for look-ups by the compiled scorers."""

    vocabulary: Vocabulary
    """Numbers of the words; the references of an evaluation add theirs to it."""
    images: float
    """Number of images of the corpus."""
    table: NDArray[np.uint64]
    """(slots, 2) Exact key of an n-gram; its node (upper half) and its frequency's index (lower half)."""
    frequencies: NDArray[np.float64]
    """The different frequencies that occur, ascending."""
    nodes: int
    """Number of n-grams."""
    idf: NDArray[np.float64] = field(init=False)
    """log(images) - log(max(1, frequency)) of each entry of ``frequencies``."""

    def __post_init__(self) -> None:
        if not self.images >= 1:
            raise UserError(f"document frequencies over {self.images} images; expected at least 1")
        object.__setattr__(self, "idf", self.idf_absent - np.log(np.maximum(1.0, self.frequencies)))

    def __len__(self) -> int:
        return self.nodes

    @property
    def idf_absent(self) -> float:
        """Weight of an n-gram that the corpus does not have: log(images)."""
        return math.log(self.images)

    @classmethod
    def from_references(cls, references: CookedReferences) -> DocumentFrequency:
        """Count over the images of an evaluation (the usual CIDEr)."""
        return _count(references)

    @classmethod
    def from_captions(
        cls,
        captions: Sequence[Sequence[Sequence[str]]],
        *,
        known: Collection[str] | None = None,
        end: str | None = END,
    ) -> DocumentFrequency:
        """Count over training captions, as the original's n-gram script does.

        Args:
            captions: for each image its sentences, each a list of words.
            known: words outside this set become ``UNK``; None keeps every word.
            end: word put at the end of each sentence; None for none.
        """
        allowed = None if known is None else frozenset(known)
        ending = [] if end is None else [end]

        def sentence(words: Sequence[str]) -> str:
            kept = words if allowed is None else [w if w in allowed else UNKNOWN for w in words]
            return " ".join([*kept, *ending])

        return _count(cook([[sentence(words) for words in image] for image in captions]))

    @classmethod
    def from_mapping(cls, counts: Mapping[tuple[str, ...], float], images: float) -> DocumentFrequency:
        """Take the counts of n-grams (tuples of one to four words) over a number of images."""
        from prunelab.caption import kernels

        vocabulary = Vocabulary()
        grams = list(counts)
        lengths = np.fromiter(map(len, grams), np.int64, len(grams))
        if len(grams) and (lengths.min() < 1 or lengths.max() > kernels.ORDERS):
            raise UserError(f"n-grams of {lengths.min()} to {lengths.max()} words; expected 1 to 4")
        flat = vocabulary.table([word for gram in grams for word in gram])
        words = np.zeros((len(grams), kernels.ORDERS), np.int64)
        words[np.arange(kernels.ORDERS) < lengths[:, None]] = flat
        values = np.fromiter(counts.values(), np.float64, len(grams))
        table, frequency, nodes = np.zeros((_ROOM, 2), np.uint64), np.zeros(_ROOM), 1
        done = 0
        while True:
            done, nodes = kernels.insert_ngrams(table, frequency, nodes, words, lengths, values, done)
            if done == len(grams):
                return _freeze(vocabulary, images, table, frequency[:nodes])
            table = kernels.grow_table(table)
            frequency = np.concatenate([frequency, np.zeros(len(frequency))])

    @classmethod
    def load(cls, path: StrPath) -> DocumentFrequency:
        """Read our own file, or the original's pickle, told apart by their content.

        Raises:
            UserError: the file is missing, damaged or of another kind.
        """
        try:
            with open(path, "rb") as file:
                start = file.read(2)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); expected a document frequency table"
            ) from error
        return _load_archive(Path(path)) if start == b"PK" else _load_pickle(Path(path))

    def save(self, path: StrPath) -> None:
        """Write our own file: a NumPy archive with words, table and counts."""
        words = "\n".join(self.vocabulary.words())
        with atomic_write(path) as file:
            np.savez_compressed(
                file,
                format=np.array(_FORMAT),
                words=np.frombuffer(words.encode(), np.uint8),
                images=np.float64(self.images),
                entries=self._entries(),
                frequencies=self.frequencies,
            )

    def to_plain(self) -> dict[str, Any]:
        """The table as tensors and plain data, which a run can keep (`prunelab.run.Run.once`)."""
        import torch  # scoring captions needs none of it

        return {
            "words": "\n".join(self.vocabulary.words()),
            "images": float(self.images),
            "entries": torch.from_numpy(self._entries().view(np.int64)),
            "frequencies": torch.from_numpy(self.frequencies),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> DocumentFrequency:
        """The table that `to_plain` wrote down."""
        entries = plain["entries"].cpu().numpy().view(np.uint64)
        return _rebuild(plain["words"], plain["images"], entries, plain["frequencies"].cpu().numpy())

    def _entries(self) -> NDArray[np.uint64]:
        """(M, 2) The filled rows of the table by node: a prefix comes before its n-grams."""
        entries = self.table[self.table[:, 1] != 0]
        return entries[np.argsort(entries[:, 1])]

    def counts(self) -> dict[tuple[str, ...], float]:
        """The n-grams and their frequencies as a plain dictionary."""
        words = ["", *self.vocabulary.words()]
        entries = self._entries()
        grams: list[tuple[str, ...]] = [()]
        found = {}
        for key, value in entries.tolist():
            grams.append((*grams[key >> 32], words[key & 0xFFFFFFFF]))
            frequency = float(self.frequencies[value & 0xFFFFFFFF])
            if frequency:
                found[grams[-1]] = frequency
        return found


def _count(references: CookedReferences) -> DocumentFrequency:
    from prunelab.caption import kernels

    images = len(references)
    table, frequency, nodes = np.zeros((_ROOM, 2), np.uint64), np.zeros(_ROOM), 1
    done = 0
    while True:
        done, nodes = kernels.count_images(
            table, frequency, nodes, references.parent, references.word, references.rows,
            references.first_row, done, images,
        )  # fmt: skip
        if done == images:
            return _freeze(references.vocabulary, float(images), table, frequency[:nodes])
        table = kernels.grow_table(table)
        frequency = np.concatenate([frequency, np.zeros(len(frequency))])


def _freeze(
    vocabulary: Vocabulary, images: float, table: NDArray[np.uint64], frequency: NDArray[np.float64]
) -> DocumentFrequency:
    """Put each n-gram's frequency (its index among the different ones) beside its node."""
    frequencies, index = np.unique(frequency, return_inverse=True)
    node = table[:, 1]
    table[:, 1] = (node << _HALF) | np.where(node != 0, index[node.astype(np.int64)], 0).astype(np.uint64)
    return DocumentFrequency(
        vocabulary=vocabulary,
        images=images,
        table=table,
        frequencies=frequencies,
        nodes=len(frequency) - 1,
    )


def _load_pickle(path: Path) -> DocumentFrequency:
    data = restricted_load(path, {("collections", "defaultdict"), ("builtins", "float"), ("builtins", "int")})
    counts = data.get("document_frequency") if isinstance(data, Mapping) else None
    images = data.get("ref_len") if isinstance(data, Mapping) else None
    if not isinstance(counts, Mapping) or not isinstance(images, int | float):
        raise UserError(f"{path}: expected a pickle with the keys 'document_frequency' and 'ref_len'")
    if not all(isinstance(gram, tuple) and all(isinstance(word, str) for word in gram) for gram in counts):
        raise UserError(f"{path}: 'document_frequency' has keys that are not tuples of words")
    return DocumentFrequency.from_mapping(counts, images)


def _load_archive(path: Path) -> DocumentFrequency:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if str(data["format"]) != _FORMAT:
                raise UserError(f"{path}: format is {data['format']}; expected {_FORMAT!r}")
            words = data["words"].tobytes().decode()
            entries, images = data["entries"], float(data["images"])
            frequencies = data["frequencies"]
    except UserError:
        raise
    except Exception as error:  # a damaged archive may raise almost anything
        raise UserError(f"{path}: not a readable document frequency table ({error})") from error
    return _rebuild(words, images, entries, frequencies)


def _rebuild(
    words: str, images: float, entries: NDArray[np.uint64], frequencies: NDArray[np.float64]
) -> DocumentFrequency:
    """Put the entries (M, 2) that a table wrote down into a table again; one word a line."""
    from prunelab.caption import kernels

    vocabulary = Vocabulary()
    vocabulary.add(words.split("\n") if words else [])
    size = _ROOM
    while size < 2 * (len(entries) + 1):
        size *= 2
    table = np.zeros((size, 2), np.uint64)
    kernels.fill_table(table, entries)
    return DocumentFrequency(
        vocabulary=vocabulary,
        images=images,
        table=table,
        frequencies=frequencies,
        nodes=len(entries),
    )
