"""``prepro_labels``: the vocabulary of all captions, and captions as rows of word numbers.

Training here reads neither (its tokenizers are sentencepiece's); `ngrams` reads the vocabulary, and other
programs for COCO read both files.
"""

# N pictures, M captions, L most words of a caption

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunelab.caption.frequency import UNKNOWN
from prunelab.data.coco import field, karpathy_id
from prunelab.data.features import write_hdf5
from prunelab.data.pictures import open_picture
from prunelab.errors import UserError, entry
from prunelab.util import read_json, write_json
from smp_caption.prepare.options import LabelsOptions, parse


class Result(NamedTuple):
    """What was written."""

    pictures: int
    captions: int
    words: int
    """Words of the vocabulary, UNK included."""
    dropped: int
    """Words that became UNK."""


def read_images(source: Path) -> list[Mapping[str, Any]]:
    """The pictures of a Karpathy split file, each with its captions as lists of words in ``tokens``.

    Raises:
        UserError: the file is missing or of another form.
    """
    images = field(read_json(source), "images", list, str(source))
    if not images:
        raise UserError(f"{source}: names no picture")
    for number, image in enumerate(images):
        where = f"{source}: image {number}"
        for place, sentence in enumerate(field(image, "sentences", list, where)):
            field(sentence, "tokens", list, f"{where}, sentence {place}")
    return images


def vocabulary(images: Sequence[Mapping[str, Any]], threshold: int) -> list[str]:
    """Words that occur more than ``threshold`` times, in the order of their first occurrence.

    Where some word does not, ``UNK`` stands at the end.
    """
    counts = Counter(word for image in images for s in image["sentences"] for word in s["tokens"])
    kept = [word for word, count in counts.items() if count > threshold]
    return kept if len(kept) == len(counts) else [*kept, UNKNOWN]


def encode(
    images: Sequence[Mapping[str, Any]], words: Sequence[str], max_length: int
) -> dict[str, np.ndarray]:
    """Captions as numbers of words, from 1; 0 fills up.

    Returns:
        ``labels`` (M, L), ``label_length`` (M,), and the first and last row of each picture, from 1,
        ``label_start_ix`` and ``label_end_ix`` (N,); all uint32.

    Raises:
        UserError: a picture without captions.
    """
    number = {word: place for place, word in enumerate(words, 1)}
    unknown = number.get(UNKNOWN, 0)
    counts = np.array([len(image["sentences"]) for image in images], np.uint32)
    if not counts.all():
        name = images[int(np.argmin(counts))].get("filename")
        raise UserError(f"{name} has no caption, expected at least one a picture")
    tokens = [s["tokens"][:max_length] for image in images for s in image["sentences"]]
    labels = np.zeros((len(tokens), max_length), np.uint32)
    for row, caption in zip(labels, tokens, strict=True):
        row[: len(caption)] = [number.get(word, unknown) for word in caption]
    last = counts.cumsum(dtype=np.uint32)
    return {
        "labels": labels,
        "label_start_ix": last - counts + np.uint32(1),
        "label_end_ix": last,
        "label_length": np.array([len(caption) for caption in tokens], np.uint32),
    }


def describe(image: Mapping[str, Any], where: str, images_root: str) -> dict[str, Any]:
    """A picture's entry in the file of words: split, file, id and, with its folder, width and height."""
    file = Path(image.get("filepath") or "", field(image, "filename", str, where)).as_posix()
    entry = {
        "split": field(image, "split", str, where),
        "file_path": file,
        "id": karpathy_id(image, where),
    }
    if images_root:
        width, height = open_picture(Path(images_root, file)).size
        entry |= {"width": width, "height": height}
    return entry


def make(options: LabelsOptions) -> Result:
    """Write the file of words and the file of rows.

    Raises:
        UserError: the split file is missing or of another form, or a picture is missing.
    """
    source = Path(options.input_json)
    images = read_images(source)
    words = vocabulary(images, options.word_count_threshold)
    arrays = encode(images, words, options.max_length)
    table = {
        "ix_to_word": {str(place): word for place, word in enumerate(words, 1)},
        "images": [
            describe(image, f"{source}: image {number}", options.images_root)
            for number, image in enumerate(images)
        ],
    }
    write_hdf5(f"{options.output_h5}_label.h5", arrays)
    write_json(options.output_json, table, indent=None)
    every = {word for image in images for s in image["sentences"] for word in s["tokens"]}
    dropped = len(every - set(words))
    return Result(len(images), len(arrays["labels"]), len(words), dropped)


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prepro_labels``."""
    options = parse(
        LabelsOptions, "prepro_labels", "the words of all captions, and captions as numbers", argv
    )
    if options.dry_run:
        print(options)
        return
    result = make(options)
    print(
        f"{options.output_json}, {options.output_h5}_label.h5: {result.captions} captions of "
        f"{result.pictures} pictures, {result.words} words, {result.dropped} rare ones are {UNKNOWN}"
    )


if __name__ == "__main__":
    main()
