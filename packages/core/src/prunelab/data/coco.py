"""Captions as text: references and predictions in the JSON files that caption tools exchange.

References are read from a COCO annotation file (``{"annotations": [{"image_id", "caption"}, ...]}``), a
Karpathy split file (``{"images": [{"cocoid" or "imgid", "sentences": [{"raw", "tokens"}]}]}``) or a list of
our own (``[{"image", "captions"}]``, see `prunelab.data.captions`); predictions from a COCO result file
(``[{"image_id", "caption"}, ...]``). All captions come out as they were written; scoring tokenises them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunelab.errors import UserError
from prunelab.util import StrPath, read_json, write_json

SPLITS = ("train", "val", "test")
"""The known splits; Karpathy's ``restval`` (the rest of COCO's validation pictures) is read as ``train``."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def field(entry: Any, name: str, kind: type, where: str) -> Any:
    """The value of a JSON object's key, which must be of one type.

    Raises:
        UserError: ``entry`` is no object, has no such key, or the value has another type.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: found {_shown(entry)}; expected a JSON object with the key {name!r}")
    if name not in entry:
        raise UserError(
            f"{where}: the key {name!r} is missing; found {', '.join(map(repr, entry)) or 'none'}"
        )
    value = entry[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {name!r} is {_shown(value)}; expected {_KINDS[kind]}")
    return value


_KINDS = {int: "a whole number", str: "a string", list: "a list"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def split_name(value: str, where: str) -> str:
    """The split that a file's word means (``restval`` is ``train``).

    Raises:
        UserError: an unknown word.
    """
    split = "train" if value == "restval" else value
    if split not in SPLITS:
        raise UserError(f"{where}: split is {value!r}; expected one of {', '.join(SPLITS)}, restval")
    return split


def karpathy_id(image: Mapping[str, Any], where: str) -> int:
    """The id of a picture in a Karpathy file: ``cocoid``, else ``imgid``, else the number in its name."""
    for name in ("cocoid", "imgid"):
        if name in image:
            return field(image, name, int, where)
    return id_from_name(field(image, "filename", str, where), where)


def id_from_name(name: str, where: str) -> int:
    """The id in a COCO file name: ``COCO_val2014_000000000042.jpg`` is 42.

    Raises:
        UserError: the name does not end in ``.jpg``, or its last field (after ``_``) is no number.
    """
    stem, dot, ending = name.rpartition(".")
    digits = stem.rpartition("_")[2]
    if not dot or ending != "jpg" or not (digits.isascii() and digits.isdigit()):
        raise UserError(f"{where}: no image id in the file name {name!r}; expected NAME_<number>.jpg")
    return int(digits)


def words(caption: str) -> str:
    """A caption as tokens joined by blanks, as Karpathy's files have it: lower case, punctuation left out."""
    return " ".join(caption.lower().translate(_NO_PUNCTUATION).split())


def sentences(image: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """The captions of a picture in a Karpathy file: pairs (tokens joined by blanks, raw text).

    Of the two keys ``tokens`` and ``raw`` one is enough.
    """
    pairs = []
    for number, sentence in enumerate(field(image, "sentences", list, where)):
        place = f"{where}, sentence {number}"
        if isinstance(sentence, Mapping) and "raw" in sentence and "tokens" not in sentence:
            raw = field(sentence, "raw", str, place)
            pairs.append((words(raw), raw))
            continue
        tokens = field(sentence, "tokens", list, place)
        if not all(isinstance(token, str) for token in tokens):
            raise UserError(f"{place}: 'tokens' is {_shown(tokens)}; expected a list of strings")
        joined = " ".join(tokens)
        pairs.append((joined, field(sentence, "raw", str, place) if "raw" in sentence else joined))
    return pairs


def captions_of(entry: Mapping[str, Any], where: str) -> list[str]:
    """The captions in one entry of a list of our own: at least one, all of them strings."""
    found = field(entry, "captions", list, where)
    if not found or not all(isinstance(caption, str) for caption in found):
        raise UserError(f"{where}: 'captions' is {_shown(found)}; expected a list of at least one string")
    return found


def kind_of(data: Any, path: StrPath) -> str:
    """Which of the known files this is: ``annotations``, ``karpathy``, ``own`` or ``results``.

    Raises:
        UserError: none of them.
    """
    if isinstance(data, Mapping) and isinstance(data.get("annotations"), list):
        return "annotations"
    if isinstance(data, Mapping) and isinstance(data.get("images"), list):
        return "karpathy"
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        if "captions" in data[0]:
            return "own"
        if "caption" in data[0] or "image_id" in data[0]:
            return "results"
    raise UserError(
        f"{path}: not a caption file; expected a COCO annotation file (key 'annotations'), a Karpathy split "
        "file (key 'images'), or a list of objects with 'image' and 'captions' or 'image_id' and 'caption'"
    )


def _references(data: Any, kind: str, path: StrPath, split: str | None) -> Iterator[tuple[int, list[str]]]:
    if kind == "annotations":
        for number, entry in enumerate(data["annotations"]):
            where = f"{path}: annotation {number}"
            yield field(entry, "image_id", int, where), [field(entry, "caption", str, where)]
    elif kind == "karpathy":
        for number, image in enumerate(data["images"]):
            where = f"{path}: image {number}"
            if split is None or split_name(field(image, "split", str, where), where) == split:
                yield karpathy_id(image, where), [raw for _, raw in sentences(image, where)]
    else:
        for number, entry in enumerate(data):
            where = f"{path}: entry {number}"
            if split is None or split_name(entry.get("split", "train"), where) == split:
                number = field(entry, "id", int, where) if "id" in entry else number
                yield number, captions_of(entry, where)


def read_references(path: StrPath, *, split: str | None = None) -> dict[int, list[str]]:
    """Read the reference captions of each picture, in the order of the file.

    Args:
        path: a COCO annotation file, a Karpathy split file, or a list of our own.
        split: only these pictures (``train``, ``val`` or ``test``); an annotation file has one split only.

    Returns:
        Image id -> captions as written (at least one).

    Raises:
        UserError: the file cannot be read, is of another kind, or an entry is wrong.
    """
    data = read_json(path)
    kind = kind_of(data, path)
    if kind == "results":
        raise UserError(
            f"{path}: holds predictions (a list of 'image_id' and 'caption'); expected references"
        )
    references: dict[int, list[str]] = {}
    for image_id, captions in _references(data, kind, path, split):
        if kind != "annotations" and image_id in references:
            raise UserError(f"{path}: image id {image_id} comes twice; expected each picture once")
        if captions:  # the pictures of a test split without published captions have none
            references.setdefault(image_id, []).extend(captions)
    if not references:
        raise UserError(f"{path}: no captions found" + (f" in the split {split!r}" if split else ""))
    return references


def read_predictions(path: StrPath) -> dict[int, str]:
    """Read a COCO result file: one caption a picture.

    Raises:
        UserError: the file cannot be read, is empty or of another kind, an entry is wrong, or a picture comes
            twice.
    """
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise UserError(
            f"{path}: not a result file; expected a list of objects with 'image_id' and 'caption'"
        )
    predictions: dict[int, str] = {}
    for number, entry in enumerate(data):
        where = f"{path}: entry {number}"
        image_id = field(entry, "image_id", int, where)
        if image_id in predictions:
            raise UserError(f"{where}: image id {image_id} comes twice; expected one caption a picture")
        predictions[image_id] = field(entry, "caption", str, where)
    return predictions


def write_predictions(path: StrPath, predictions: Mapping[int, str]) -> Path:
    """Write a COCO result file, which `read_predictions` and COCO's own tools read."""
    write_json(path, [{"image_id": i, "caption": caption} for i, caption in predictions.items()], indent=None)
    return Path(path)


def write_annotations(path: StrPath, references: Mapping[int, list[str]], files: Mapping[int, str]) -> Path:
    """Write a COCO caption annotation file.

    Args:
        path: the file.
        references: image id -> captions.
        files: image id -> file name.
    """
    captions = [(image_id, caption) for image_id, texts in references.items() for caption in texts]
    write_json(
        path,
        {
            "info": {"description": "captions"},
            "licenses": [],
            "images": [{"id": image_id, "file_name": name} for image_id, name in files.items()],
            "annotations": [
                {"id": number, "image_id": image_id, "caption": caption}
                for number, (image_id, caption) in enumerate(captions)
            ],
        },
        indent=None,
    )
    return Path(path)
