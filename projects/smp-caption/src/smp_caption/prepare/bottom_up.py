"""``make_bu_data``: the published bottom-up features, tab-separated files, into one array a picture.

A line of a file holds a picture's id, width, height, number of regions S, their boxes (S, 4; x1, y1, x2, y2
in pixels) and features (S, F), the last two as base64 of float32. Lines that are damaged are skipped and
named: the published files have three of them, whose pictures come again later.

Written are ``PREFIX_att``, ``PREFIX_fc`` (the mean over regions), ``PREFIX_box``, and ``PREFIX_sizes.csv``
with widths and heights, which spares `relative_boxes` from opening the pictures. The numbers of pictures are
told, not insisted on: where the original ends in an error unless all of COCO is there, a part of it, or
another data set in this format, is as good, whatever the preset.
"""

# S regions of a picture, F size of a region's feature

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunelab.data.features import FeatureSink, writing_features
from prunelab.errors import UserError, entry
from smp_caption.prepare.options import BottomUpOptions, parse
from smp_caption.prepare.sizes import SUFFIX, Size, read_sizes, write_sizes

PUBLISHED = (
    "trainval/karpathy_test_resnet101_faster_rcnn_genome.tsv",
    "trainval/karpathy_val_resnet101_faster_rcnn_genome.tsv",
    "trainval/karpathy_train_resnet101_faster_rcnn_genome.tsv.0",
    "trainval/karpathy_train_resnet101_faster_rcnn_genome.tsv.1",
    "test2014/test2014_resnet101_faster_rcnn_genome.tsv.0",
    "test2014/test2014_resnet101_faster_rcnn_genome.tsv.1",
    "test2014/test2014_resnet101_faster_rcnn_genome.tsv.2",
)
"""The seven files of adaptive features, in the order of the original."""
FIELDS = 6
PARTS = ("att", "fc", "box")


class Row(NamedTuple):
    """A line of a file, not decoded yet."""

    image_id: int
    size: Size
    regions: int
    boxes: bytes
    features: bytes


class Result(NamedTuple):
    """What was found in the files."""

    files: int
    pictures: int
    """Pictures with features, those written by an earlier call included."""
    written: int
    broken: list[int]
    """Ids of skipped lines."""
    lost: list[int]
    """Those of them that came nowhere else."""


def make(options: BottomUpOptions) -> Result:
    """Write the features of all lines that are whole and not written yet.

    Raises:
        UserError: no files, a line of another kind, or files of differing feature sizes.
    """
    files = find_files(Path(options.downloaded_feats))
    prefix = Path(options.output_dir)
    table = prefix.with_name(prefix.name + SUFFIX)
    sizes = read_sizes(table) if table.is_file() else {}
    broken, seen, written, width = [], set[int](), 0, 0
    with ExitStack() as stack:
        sinks: dict[str, FeatureSink] = {}
        for file in files:
            for row in read_rows(file):
                if isinstance(row, int):
                    broken.append(row)
                    continue
                there = bool(sinks) and all(row.image_id in sink for sink in sinks.values())
                decoded = None if there else decode(row)
                if decoded is not None:
                    width = width or decoded["att"].shape[1]
                    _expect_width(file, row.image_id, decoded["att"].shape[1], width)
                    sinks = sinks or _open(stack, prefix, options, width)
                    written += _add(sinks, row.image_id, decoded, store=options.format == "store")
                elif not there:
                    broken.append(row.image_id)
                    continue
                sizes[row.image_id] = row.size
                seen.add(row.image_id)
            print(f"{file}: read, {len(seen)} pictures up to here", flush=True)
    write_sizes(table, sizes)
    lost = [image_id for image_id in dict.fromkeys(broken) if image_id not in seen]
    return Result(len(files), len(seen), written, broken, lost)


def _open(stack: ExitStack, prefix: Path, options: BottomUpOptions, width: int) -> dict[str, FeatureSink]:
    return {
        part: stack.enter_context(
            writing_features(
                prefix.with_name(f"{prefix.name}_{part}"),
                store=options.format == "store",
                width=4 if part == "box" else width,
                dtype="float32" if part == "box" else options.dtype,
            )
        )
        for part in PARTS
    }


def _expect_width(file: Path, image_id: int, found: int, width: int) -> None:
    if found != width:
        raise UserError(
            f"{file}: features of image {image_id} are {found} values wide, expected {width} as before"
        )


def _add(sinks: dict[str, FeatureSink], image_id: int, arrays: dict[str, np.ndarray], *, store: bool) -> bool:
    """Write what is missing of a picture; whether anything was."""
    values = arrays | {"fc": arrays["att"].mean(axis=0, keepdims=store)}
    missing = [part for part in PARTS if image_id not in sinks[part]]
    for part in missing:
        sinks[part].add(image_id, values[part])
    return bool(missing)


def find_files(place: Path) -> list[Path]:
    """The files of features: the published ones that are there, else all ``.tsv`` files in the folder.

    Raises:
        UserError: there are none.
    """
    if place.is_file():
        return [place]
    published = [place / name for name in PUBLISHED if (place / name).is_file()]
    found = published or sorted(file for file in place.rglob("*.tsv*") if file.is_file())
    if not found:
        raise UserError(
            f"downloaded_feats {place}: no .tsv file of features, expected those of bottom-up attention, "
            f"{PUBLISHED[0]} and so on"
        )
    return found


def read_rows(file: Path) -> Iterator[Row | int]:
    """The lines of a file, one after the other; of a line whose fields are damaged, its id alone.

    Raises:
        UserError: a line that does not begin with a number: this is another kind of file.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip(b"\r\n").split(b"\t")
            if not fields[0].isdigit():
                raise UserError(
                    f"{file}: line {number} begins with {fields[0][:20]!r}, expected a picture's id and, "
                    "separated by tabs, width, height, number of boxes, boxes, features"
                )
            image_id = int(fields[0])
            if len(fields) != FIELDS or not all(field.isdigit() for field in fields[1:4]):
                yield image_id
                continue
            width, height, regions = map(int, fields[1:4])
            yield Row(image_id, Size(width, height), regions, fields[4], fields[5])


def decode(row: Row) -> dict[str, np.ndarray] | None:
    """``box`` (S, 4) and ``att`` (S, F) of a line; None where it is damaged."""
    try:
        boxes, features = (
            np.frombuffer(base64.b64decode(text, validate=True), np.dtype("<f4"))
            for text in (row.boxes, row.features)
        )
        # (S * 4,) -> (S, 4) and (S * F,) -> (S, F)
        boxes, features = boxes.reshape(row.regions, 4), features.reshape(row.regions, -1)
    except (binascii.Error, ValueError):
        return None
    return {"box": boxes, "att": features} if features.size else None


def report(result: Result, prefix: str) -> None:
    """Say what was found."""
    print(
        f"{prefix}: {result.pictures} pictures in {result.files} files, {result.written} of them written now "
        f"(the published files hold {123287 + 40775})"
    )
    if result.broken:
        print(f"skipped {len(result.broken)} damaged lines, of pictures {_listed(result.broken)}")
    if result.lost:
        print(f"no whole line of {len(result.lost)} pictures: {_listed(result.lost)}")


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``make_bu_data``."""
    options = parse(BottomUpOptions, "make_bu_data", "bottom-up features from their published files", argv)
    if options.dry_run:
        print(options)
        return
    report(make(options), options.output_dir)


if __name__ == "__main__":
    main()
