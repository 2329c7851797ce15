"""Flickr8k and Flickr30k as they are handed out, besides Karpathy's JSON files.

Captions are read from the first of these, in the data set's folder or up to two folders below:

| file | where from | splits |
|---|---|---|
| ``dataset_flickr8k.json``, ``dataset_flickr30k.json`` | Karpathy | in it |
| ``Flickr8k.token.txt``, ``results_20130124.token`` | the authors: ``NAME#3<tab>a caption`` | lists |
| ``flickr_annotations_30k.csv`` | copies on the Hub: columns ``filename``, ``raw`` and ``split`` | in it |
| ``captions.txt`` | Kaggle's Flickr8k: ``image,caption`` | lists |
| ``results.csv`` | Kaggle's Flickr30k, ``image_name| comment_number| comment`` | lists |

Lists of splits are ``Flickr_8k.trainImages.txt``, ``...devImages.txt`` and ``...testImages.txt`` (in the
authors' archive of captions), or ``train.txt``, ``val.txt`` and ``test.txt`` (of Flickr30k Entities), with
the name of one picture a line, with or without ``.jpg``. Pictures in none of the lists are left out.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from prunelab.data.captions import CaptionRecord, CaptionSet, Reading, open_captions
from prunelab.data.coco import split_name, words
from prunelab.errors import UserError
from prunelab.util import StrPath

KARPATHY = ("dataset_flickr8k.json", "dataset_flickr30k.json")
TOKEN_FILES = ("Flickr8k.token.txt", "results_20130124.token")
TABLES = ("flickr_annotations_30k.csv", "captions.txt", "results.csv")
SPLIT_LISTS = {
    "train": ("Flickr_8k.trainImages.txt", "train.txt"),
    "val": ("Flickr_8k.devImages.txt", "val.txt"),
    "test": ("Flickr_8k.testImages.txt", "test.txt"),
}
PICTURES = (
    "",
    "Images",
    "Flicker8k_Dataset",  # spelled so in the archive
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "flickr8k-images",
    "flickr30k_images",
    "flickr30k-images",
    "flickr30k_images/flickr30k_images",
)
"""Folders that pictures are unpacked to, besides ``images``."""

Row = tuple[str, str, str | None]
"""A picture's name, one caption of it, and its split where the table has it."""


def open_flickr(folder: StrPath, *, check: int = 5) -> CaptionSet:
    """Read Flickr8k or Flickr30k from its folder (see the top of this file).

    A picture's id is the number that its name begins with, which is its number at Flickr; in Karpathy's
    files it is ``imgid``.

    Args:
        folder: the data set's folder.
        check: how many pictures of each split must be there.

    Raises:
        UserError: no captions or no splits are found, a line is of another form, or a picture is missing.
    """
    root = Path(folder)
    if sorted(root.glob("dataset_*.json")):
        return open_captions(root, check=check, reading=Reading(inner=PICTURES))
    source = _find(root, (*TOKEN_FILES, *TABLES))
    if source is None:
        names = ", ".join(("dataset_*.json", *TOKEN_FILES, *TABLES))
        raise UserError(f"{root}: no captions of Flickr8k or Flickr30k found; expected one of {names}")
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for name, caption, split in _tokens(source) if source.name in TOKEN_FILES else _table(source):
        captions.setdefault(name, []).append(caption)
        if split is not None:
            splits[Path(name).stem] = split_name(split, f"{source}: {name}")
    found = CaptionSet(
        source=source, records=tuple(_records(root, source, captions, splits or _split_lists(root)))
    )
    if check:
        found.check_pictures(check)
    return found


def is_flickr(folder: StrPath) -> bool:
    """Whether a folder holds captions of Flickr8k or Flickr30k in a layout that `open_flickr` reads."""
    return _find(Path(folder), (*KARPATHY, *TOKEN_FILES, *TABLES)) is not None


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of some files that is there, in the folder or up to two below."""
    for name in names:
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            if found := sorted(root.glob(pattern)):
                return found[0]
    return None


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    with source.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _tokens(source: Path) -> Iterator[Row]:
    """The authors' files: ``NAME#3<tab>a caption .`` on each line."""
    for number, line in _lines(source):
        place, tab, caption = line.partition("\t")
        name, mark, _ = place.rpartition("#")
        if not (tab and mark and name):
            raise UserError(
                f"{source}: line {number} is {line[:60]!r}; expected NAME.jpg#0, a tab, a caption"
            )
        yield name, caption.strip(), None


def _table(source: Path) -> Iterator[Row]:
    """A table with a line of headings."""
    if source.name == "results.csv":
        yield from _bars(source)
        return
    with source.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        heads = set(reader.fieldnames or ())
        name, text = ("filename", "raw") if "raw" in heads else ("image", "caption")
        if not {name, text} <= heads:
            shown = ", ".join(sorted(heads)) or "nothing"
            raise UserError(f"{source}: columns {shown}; expected image,caption or filename,raw,split")
        for row in reader:
            if text == "caption":
                yield row[name], (row[text] or "").strip(), row.get("split")
                continue
            for caption in _json_list(row[text], f"{source}: line {reader.line_num}"):
                yield row[name], caption, row.get("split")


def _json_list(text: str, where: str) -> list[str]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise UserError(f"{where}: raw is {str(text)[:60]!r}; expected a JSON list of captions")
    return found


def _bars(source: Path) -> Iterator[Row]:
    """``NAME.jpg| 0| a caption .`` on each line; one of the published file lacks its second bar."""
    for number, line in _lines(source):
        if number == 1 and not re.search(r"\.\w+\s*\|\s*\d", line):
            continue  # headings
        found = re.fullmatch(r"\s*([^|]+?)\s*\|\s*\d+\s*\|?\s*(.*)", line)
        if found is None:
            raise UserError(f"{source}: line {number} is {line[:60]!r}; expected NAME.jpg| 0| a caption")
        yield found[1], found[2].strip(), None


def _split_lists(root: Path) -> dict[str, str]:
    """Stem of a picture's name to its split, from the lists."""
    splits: dict[str, str] = {}
    for split, names in SPLIT_LISTS.items():
        source = _find(root, names)
        if source is None:
            raise UserError(
                f"{root}: no list of the pictures of {split}; expected {' or '.join(names)}, "
                "or Karpathy's dataset_*.json, which has the splits in it"
            )
        splits |= {Path(line.strip()).stem: split for _, line in _lines(source)}
    return splits


def _records(
    root: Path, source: Path, captions: Mapping[str, list[str]], splits: Mapping[str, str]
) -> Iterator[CaptionRecord]:
    listed = {name: raw for name, raw in captions.items() if Path(name).stem in splits}
    if not listed:
        raise UserError(f"{source}: none of its {len(captions)} pictures is in the lists of splits")
    first = next(iter(listed))
    folders = [str(Path("images", part)) for part in PICTURES] + list(PICTURES)
    folder = next((place for place in folders if (root / place / first).is_file()), "images")
    ids = _ids(list(listed), source)
    for image_id, (name, raw) in zip(ids, listed.items(), strict=True):
        file = Path(folder, name).as_posix()
        yield CaptionRecord(
            image_id=image_id,
            file=file,
            path=root / file,
            split=splits[Path(name).stem],
            references=tuple(map(words, raw)),
            raw=tuple(raw),
        )


def _ids(names: list[str], source: Path) -> list[int]:
    """The numbers that the names begin with."""
    seen: dict[int, str] = {}
    for name in names:
        found = re.match(r"(\d+)(?:_[^/]*)?\.\w+$", name)
        if found is None:
            raise UserError(
                f"{source}: picture {name!r}; expected a name that begins with its number at Flickr"
            )
        if int(found[1]) in seen:
            raise UserError(f"{source}: {seen[int(found[1])]!r} and {name!r} have the same number")
        seen[int(found[1])] = name
    return list(seen)
