"""``prepro_ngrams``: in how many pictures each n-gram of the captions occurs, which weighs them in CIDEr-D.

The tables are NumPy archives, ``PREFIX-words.npz`` and ``PREFIX-idxs.npz`` (words as their numbers); the
original's pickles are read wherever a table is read, but not written. Captions end in ``<eos>``, and words
outside the vocabulary are ``UNK``, as in the original. Self-critical training makes a table by itself where
it is given none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prunelab.caption.frequency import END, UNKNOWN, DocumentFrequency
from prunelab.errors import UserError, entry
from prunelab.util import read_json
from smp_caption.prepare.labels import read_images
from smp_caption.prepare.options import NgramsOptions, parse

END_NUMBER = "0"
"""What stands for a caption's end among word numbers."""


def captions_of(source: Path, split: str) -> list[list[list[str]]]:
    """The captions of each picture of a split, as words; ``train`` takes ``restval``, ``all`` everything.

    Raises:
        UserError: the file is missing or of another form, or the split is empty.
    """
    wanted = {"train", "restval"} if split == "train" else {split}
    images = [i for i in read_images(source) if split == "all" or i.get("split") in wanted]
    if not images:
        raise UserError(f"{source}: no picture in the split {split}")
    return [[sentence["tokens"] for sentence in image["sentences"]] for image in images]


def read_vocabulary(source: Path) -> dict[str, str]:
    """Word to its number, as a text, from what `labels` wrote.

    Raises:
        UserError: the file is missing or of another form.
    """
    data = read_json(source)
    table = data.get("ix_to_word") if isinstance(data, Mapping) else None
    if not isinstance(table, Mapping) or not table:
        raise UserError(f"{source}: no ix_to_word, expected the file of words that prepro_labels writes")
    return {str(word): str(number) for number, word in table.items()}


def tables(
    captions: Sequence[Sequence[Sequence[str]]], numbers: Mapping[str, str], where: str
) -> dict[str, DocumentFrequency]:
    """Frequencies of n-grams of words and of their numbers.

    Raises:
        UserError: a word is not in the vocabulary, which has no ``UNK``.
    """
    if UNKNOWN not in numbers:
        lacks = next((w for image in captions for c in image for w in c if w not in numbers), None)
        if lacks is not None:
            raise UserError(f"{where}: has neither the word {lacks!r} nor {UNKNOWN}; expected one of them")
    unknown = numbers.get(UNKNOWN, "")
    as_numbers = [[[numbers.get(w, unknown) for w in caption] for caption in image] for image in captions]
    return {
        "words": DocumentFrequency.from_captions(captions, known=numbers.keys(), end=END),
        "idxs": DocumentFrequency.from_captions(as_numbers, end=END_NUMBER),
    }


def make(options: NgramsOptions) -> dict[str, DocumentFrequency]:
    """Count, and write both tables.

    Raises:
        UserError: see `captions_of`, `read_vocabulary` and `tables`.
    """
    captions = captions_of(Path(options.input_json), options.split)
    found = tables(captions, read_vocabulary(Path(options.dict_json)), options.dict_json)
    for name, table in found.items():
        table.save(f"{options.output_pkl}-{name}.npz")
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prepro_ngrams``."""
    options = parse(NgramsOptions, "prepro_ngrams", "document frequencies of the captions' n-grams", argv)
    if options.dry_run:
        print(options)
        return
    found = make(options)
    print(
        f"{options.output_pkl}-words.npz, {options.output_pkl}-idxs.npz: {len(found['words'])} n-grams of "
        f"{int(found['words'].images)} pictures"
    )


if __name__ == "__main__":
    main()
