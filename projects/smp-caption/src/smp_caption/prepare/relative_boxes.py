"""``prepro_bbox_relative_coords``: boxes in pixels into boxes relative to their pictures, in [0, 1].

A picture is opened only to learn its width and height, and not at all where a table has them (``--sizes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from prunelab.data.coco import field, karpathy_id
from prunelab.data.features import FolderFeatures, FolderWriter, open_features
from prunelab.errors import UserError, entry
from prunelab.util import read_json
from smp_caption.prepare.options import RelativeBoxesOptions, parse
from smp_caption.prepare.sizes import Size, read_sizes

TEST_PICTURE = "test2014/COCO_test2014_{:012d}.jpg"
"""Where the picture of an id lies that the split file does not have."""


def make(options: RelativeBoxesOptions) -> tuple[int, int]:
    """Write the relative boxes of all pictures that have boxes and no relative ones yet.

    Returns:
        How many have relative boxes, and how many of them were written now.

    Raises:
        UserError: no boxes, a picture that is missing or damaged, or one that the table lacks.
    """
    source = open_features(options.input_box_dir)
    if not isinstance(source, FolderFeatures):
        raise UserError(f"input_box_dir {options.input_box_dir}: expected a folder of <id>.npy")
    size_of = _table(Path(options.sizes)) if options.sizes else _pictures(options)
    writer, written = FolderWriter(options.output_dir, dtype="float64"), 0
    ids = sorted(source.ids())
    for image_id in ids:
        if image_id in writer:
            continue
        boxes = source.get(image_id)
        if boxes.shape[1] != 4:
            raise UserError(
                f"{options.input_box_dir}: image {image_id} has rows of {boxes.shape[1]} numbers, expected "
                "x1, y1, x2, y2"
            )
        writer.add(image_id, relative(boxes, size_of(image_id)))
        written += 1
    return len(ids), written


def relative(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Boxes (S, 4) in pixels relative to a picture's width and height, cut at its edges; float64."""
    return np.clip(boxes / np.array([*size, *size], np.float64), 0, 1)


def _table(path: Path) -> Callable[[int], Size]:
    sizes = read_sizes(path)

    def size_of(image_id: int) -> Size:
        if image_id not in sizes:
            raise UserError(
                f"{path}: no width and height of image {image_id} among its {len(sizes)} pictures"
            )
        return sizes[image_id]

    return size_of


def _pictures(options: RelativeBoxesOptions) -> Callable[[int], Size]:
    root, files = Path(options.image_root), picture_files(Path(options.input_json))

    def size_of(image_id: int) -> Size:
        path = root / files.get(image_id, TEST_PICTURE.format(image_id))
        try:
            with Image.open(path) as picture:
                return Size(*picture.size)
        except FileNotFoundError as error:
            hint = "" if image_id in files else f" ({options.input_json} has no image {image_id})"
            raise UserError(f"{path}: no such picture{hint}") from error
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise UserError(f"{path}: not a picture ({error})") from error

    return size_of


def picture_files(source: Path) -> Mapping[int, Path]:
    """Id to file name, relative to the folder of pictures, of a Karpathy split file.

    Raises:
        UserError: the file is missing or of another form.
    """
    found = {}
    for number, image in enumerate(field(read_json(source), "images", list, str(source))):
        where = f"{source}: image {number}"
        name = field(image, "filename", str, where)
        found[karpathy_id(image, where)] = Path(image.get("filepath") or "", name)
    return found


@entry
def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prepro_bbox_relative_coords``."""
    summary = "boxes in pixels into boxes relative to their pictures"
    options = parse(RelativeBoxesOptions, "prepro_bbox_relative_coords", summary, argv)
    if options.dry_run:
        print(options)
        return
    count, written = make(options)
    print(f"{options.output_dir}: relative boxes of {count} pictures, {written} of them written now")


if __name__ == "__main__":
    main()
