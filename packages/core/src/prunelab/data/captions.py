"""Pictures with captions: Karpathy split files, COCO annotation files, a list of one's own, or a bare folder.

A list of one's own is the file ``captions.json`` beside (or above) the pictures::

    [{"image": "holiday/beach.jpg", "captions": ["a dog on a beach", "a brown dog runs"], "split": "train"},
    ...]

``split`` (train, val, test) and ``id`` (a whole number; default: the place in the list, from 0) may be left
out. Where no entry names a split, of each ten entries the ninth goes to val and the tenth to test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prunelab.data import coco
from prunelab.data.coco import words
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")
"""Files that count as pictures in a folder."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file is read where tools differ."""

    root: Path | None = None
    """The folder that picture names start from; None: the file's own (for a file in ``annotations/``, the
    folder above)."""
    inner: tuple[str, ...] = ("",)
    """Karpathy's layout: folders between ``filepath`` and a picture, tried in turn with the first picture of
    each ``filepath``; empty: none between."""
    lenient: bool = False
    """Entries of unknown splits are left out, and of two entries of a split with the same id the later one
    takes the place of the earlier; else both are refused."""


@dataclass(frozen=True, kw_only=True)
class CaptionRecord:
    """One picture and its captions."""

    image_id: int
    """Names the picture's features and its entry in result files."""
    file: str
    """The picture, relative to the data set's folder, with ``/`` (or absolute, in a list of one's own)."""
    path: Path
    """The picture."""
    split: str
    """train, val or test."""
    references: tuple[str, ...]
    """Captions as tokens joined by blanks: lower case, no punctuation."""
    raw: tuple[str, ...]
    """Captions as written."""


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """The pictures of a data set, in the order of its file."""

    source: Path
    """The file (or the folder of pictures) that was read."""
    records: tuple[CaptionRecord, ...]
    """All pictures."""

    def split(self, name: str) -> list[CaptionRecord]:
        """The pictures of one split, in order.

        Raises:
            UserError: there are none.
        """
        chosen = [record for record in self.records if record.split == name]
        if not chosen:
            found = ", ".join(sorted({record.split for record in self.records}))
            raise UserError(f"{self.source}: no picture in the split {name!r}; found {found}")
        return chosen

    def check_pictures(self, count: int = 5) -> None:
        """Look whether a few pictures of each split exist, the first and the last among them.

        Raises:
            UserError: one is missing.
        """
        for split in coco.SPLITS:
            chosen = [record for record in self.records if record.split == split]
            places = (
                {round(k * (len(chosen) - 1) / max(1, count - 1)) for k in range(count)} if chosen else ()
            )
            for place in sorted(places):
                if not chosen[place].path.is_file():
                    raise UserError(
                        f"{chosen[place].path}: picture is missing, though {self.source} names it"
                    )


def _inside(file: str, where: str, *, absolute: bool = False) -> str:
    """A picture's path from a file, if it does not lead out of the data set's folder."""
    path = PurePosixPath(file)
    if not file or ".." in path.parts or (path.is_absolute() and not absolute):
        raise UserError(f"{where}: picture is {file!r}; expected a path inside the data set's folder")
    return str(path)


def _pictures_folder(root: Path, filepath: str | None, first: str, inner: Sequence[str]) -> str:
    """Where the pictures of one ``filepath`` lie, told by the first of them; without one, in ``images``."""
    bases = ("images", "") if filepath is None else (filepath,)
    folders = [str(PurePosixPath(base, part)) for base in bases for part in inner]
    with_picture = (folder for folder in folders if (root / folder / first).is_file())
    there = (folder for folder in folders if (root / folder).is_dir())
    return next(with_picture, None) or next(there, folders[0])


def _karpathy(data: Any, source: Path, reading: Reading) -> Iterator[CaptionRecord]:
    """Karpathy's layout."""
    root, folders = _root(source, reading), dict[str | None, str]()
    for number, image in enumerate(data["images"]):
        where = f"{source}: image {number}"
        split = coco.field(image, "split", str, where)
        if reading.lenient and split not in (*coco.SPLITS, "restval"):
            continue
        filepath = coco.field(image, "filepath", str, where) if "filepath" in image else None
        name = coco.field(image, "filename", str, where)
        _inside(str(PurePosixPath(filepath or "", name)), where)
        if filepath not in folders:
            folders[filepath] = _pictures_folder(root, filepath, name, reading.inner)
        file = str(PurePosixPath(folders[filepath], name))
        pairs = coco.sentences(image, where)
        yield CaptionRecord(
            image_id=coco.karpathy_id(image, where),
            file=file,
            path=root / file,
            split=coco.split_name(split, where),
            references=tuple(tokens for tokens, _ in pairs),
            raw=tuple(raw for _, raw in pairs),
        )


def _root(source: Path, reading: Reading) -> Path:
    if reading.root is not None:
        return reading.root
    return source.parent.parent if source.parent.name == "annotations" else source.parent


def _annotations(data: Any, source: Path, reading: Reading) -> Iterator[CaptionRecord]:
    """A COCO annotation file, ``captions_<folder>.json``: its name tells split and folder of pictures."""
    root = _root(source, reading)
    name = source.stem.removeprefix("captions_")
    split = next((s for s in ("val", "test") if name.startswith(s)), "train")
    captions: dict[int, list[str]] = {}
    for number, entry in enumerate(data["annotations"]):
        where = f"{source}: annotation {number}"
        image_id = coco.field(entry, "image_id", int, where)
        captions.setdefault(image_id, []).append(coco.field(entry, "caption", str, where))
    images = coco.field(data, "images", list, str(source))
    first = str(images[0].get("file_name", "")) if images and isinstance(images[0], dict) else ""
    folder = next((f for f in (name, "images", "") if first and (root / f / first).is_file()), name)
    for number, image in enumerate(images):
        where = f"{source}: image {number}"
        image_id = coco.field(image, "id", int, where)
        file = _inside(str(PurePosixPath(folder, coco.field(image, "file_name", str, where))), where)
        raw = tuple(captions.get(image_id, ()))
        yield CaptionRecord(
            image_id=image_id,
            file=file,
            path=root / file,
            split=split,
            references=tuple(map(words, raw)),
            raw=raw,
        )


def _own(data: Any, source: Path, reading: Reading) -> Iterator[CaptionRecord]:
    """A list of one's own (see the top of this file)."""
    root = _root(source, reading)
    named = any(isinstance(entry, dict) and "split" in entry for entry in data)
    for number, entry in enumerate(data):
        where = f"{source}: entry {number}"
        file = _inside(coco.field(entry, "image", str, where), where, absolute=True)
        usual = "train" if named else {8: "val", 9: "test"}.get(number % 10, "train")
        raw = tuple(coco.captions_of(entry, where))
        yield CaptionRecord(
            image_id=coco.field(entry, "id", int, where) if "id" in entry else number,
            file=file,
            path=root / file,
            split=coco.split_name(entry.get("split", usual), where),
            references=tuple(map(words, raw)),
            raw=raw,
        )


_READERS = {"karpathy": _karpathy, "annotations": _annotations, "own": _own}


def read_captions(path: StrPath, reading: Reading = Reading()) -> CaptionSet:
    """Read one caption file of any known kind.

    Args:
        path: the JSON file.
        reading: how.

    Raises:
        UserError: the file cannot be read or is of another kind, an entry is wrong, or two pictures share an
            id.
    """
    source = Path(path)
    data = read_json(source)
    kind = coco.kind_of(data, source)
    if kind not in _READERS:
        raise UserError(
            f"{source}: holds predictions (a list of 'image_id' and 'caption'); expected a data set"
        )
    return _checked(source, list(_READERS[kind](data, source, reading)), reading)


def _checked(source: Path, records: Sequence[CaptionRecord], reading: Reading) -> CaptionSet:
    if not records:
        raise UserError(f"{source}: names no picture")
    if reading.lenient:
        latest = {(record.split, record.image_id): record for record in records}  # at the earliest's place
        return CaptionSet(source=source, records=tuple(latest.values()))
    seen: dict[int, str] = {}
    for record in records:
        if record.image_id in seen:
            raise UserError(
                f"{source}: image id {record.image_id} belongs to {seen[record.image_id]!r} and to "
                f"{record.file!r}; expected a different id for each picture"
            )
        seen[record.image_id] = record.file
    return CaptionSet(source=source, records=tuple(records))


def _candidates(folder: Path) -> list[Path]:
    """The caption files of a data set's folder; those of the first layout that is there."""
    layouts = ("dataset_coco.json", "dataset_*.json", "captions.json", "annotations/captions_*.json")
    for pattern in (*layouts, "captions_*.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def open_captions(
    path: StrPath,
    *,
    json_name: str | None = None,
    check: int = 5,
    reading: Reading = Reading(),
) -> CaptionSet:
    """Read a data set of pictures with captions from its folder or its JSON file.

    In a folder, these are looked for in turn: ``dataset_coco.json``, any one ``dataset_*.json`` (Karpathy's
    layout), ``captions.json`` (a list of one's own), ``captions_*.json`` here or in ``annotations/`` (COCO's;
    all of them together make the set).

    Args:
        path: the folder or file.
        json_name: the file in the folder, where it is known.
        check: how many pictures of each split must be there; 0: none (features are enough for training).
        reading: how the file is read.

    Raises:
        UserError: nothing is found, or more than one file may be meant, or a file or picture is wrong or
            missing.
    """
    place = Path(path)
    if place.is_dir():
        files = [place / json_name] if json_name else _candidates(place)
        if not files:
            raise UserError(
                f"{place}: no caption file found; expected dataset_*.json, captions.json or captions_*.json"
            )
        if len(files) > 1 and not files[0].name.startswith("captions_"):
            names = ", ".join(file.name for file in files)
            raise UserError(f"{place}: holds {names}; expected one of them to be given as the data set")
    else:
        files = [place]
    if not files[0].is_file():
        raise UserError(f"{files[0]}: no such file; expected a data set's folder or its caption file (JSON)")
    sets = [read_captions(file, reading) for file in files]
    joined = sets[0] if len(sets) == 1 else _checked(place, [r for s in sets for r in s.records], reading)
    if check:
        joined.check_pictures(check)
    return joined


def open_pictures(folder: StrPath, *, split: str = "test") -> CaptionSet:
    """The pictures of a folder (not of the folders in it), by name, without captions.

    Ids come from COCO's file names where all names are of that form, else they count from 0.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; expected a folder of pictures")
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
    if not paths:
        raise UserError(f"{place}: no picture found; expected files ending in {', '.join(PICTURE_ENDINGS)}")
    try:
        ids = [coco.id_from_name(p.name, str(place)) for p in paths]
    except UserError:
        ids = list(range(len(paths)))
    if len(set(ids)) < len(ids):
        ids = list(range(len(paths)))
    return CaptionSet(
        source=place,
        records=tuple(
            CaptionRecord(image_id=i, file=p.name, path=p, split=split, references=(), raw=())
            for i, p in zip(ids, paths, strict=True)
        ),
    )
