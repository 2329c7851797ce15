"""The embedded captioning set: pictures, captions and region features, laid out as COCO is.

A folder looks like this, and the real readers read it::

    dataset_coco.json                        Karpathy's layout, with train, restval, val and test
    train2014/COCO_train2014_000000300000.jpg, val2014/COCO_val2014_000000100000.jpg, ...
    bu/cocobu_att/<id>.npy                   (n, F) float32 features of the regions
    bu/cocobu_fc/<id>.npy                    (F,) float32, their mean
    bu/cocobu_box/<id>.npy                   (n, 4) float32 boxes in pixels: left, top, right, bottom
    bu/cocobu_box_relative/<id>.npy          (n, 4) float64 boxes relative to width and height
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunelab.data.pictures import read_picture
from prunelab.data.synthetic.phrases import describe
from prunelab.data.synthetic.places import empty_folder
from prunelab.data.synthetic.regions import find_regions
from prunelab.data.synthetic.scenes import Scene, make_scene
from prunelab.util import StrPath, write_json

VERSION = 1
"""Goes up whenever the same arguments would give another set."""

_FIRST = {"test": 100_000, "val": 200_000, "train": 300_000}


def scenes(split: str, count: int, *, seed: int = 0, side: int = 72) -> list[Scene]:
    """The pictures of a split with their whole truth; a larger set begins with the smaller one's pictures.

    Args:
        split: ``train``, ``val`` or ``test``.
        count: how many.
        seed: the set's seed.
        side: height and width in pixels.
    """
    return [make_scene(seed, _FIRST[split] + place, side=side) for place in range(count)]


def _entry(seed: int, scene: Scene, split: str, folder: str, place: int) -> dict[str, Any]:
    """A picture's entry in Karpathy's file."""
    texts = describe(seed, scene)
    first = place * len(texts)
    return {
        "filepath": folder,
        "filename": f"COCO_{folder}_{scene.number:012d}.jpg",
        "imgid": place,
        "split": split,
        "sentences": [
            {"tokens": text.split(), "raw": text.capitalize() + ".", "imgid": place, "sentid": first + number}
            for number, text in enumerate(texts)
        ],
        "cocoid": scene.number,
        "sentids": list(range(first, first + len(texts))),
    }


def _write_regions(folder: Path, image_id: int, picture: Image.Image, feat_size: int) -> None:
    relative, features = find_regions(picture, feat_size)
    arrays = {
        "att": features,
        "fc": features.mean(axis=0),
        "box": (relative * np.tile(picture.size, 2)).astype(np.float32),
        "box_relative": relative.astype(np.float64),
    }
    for name, array in arrays.items():
        np.save(folder / f"cocobu_{name}" / f"{image_id}.npy", array)


def write(
    folder: StrPath,
    *,
    seed: int = 0,
    train: int = 480,
    val: int = 60,
    test: int = 60,
    feat_size: int = 64,
    side: int = 72,
) -> Path:
    """Write the set into a new or empty folder; takes a few seconds.

    Args:
        folder: where to.
        seed: another seed, other pictures.
        train: pictures of the split train; every tenth is called ``restval``, as in Karpathy's file.
        val: pictures of the split val.
        test: pictures of the split test.
        feat_size: values of a region's feature F.
        side: height and width of a picture in pixels.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something already.
    """
    root = empty_folder(folder)
    for name in ("train2014", "val2014", *(f"bu/cocobu_{k}" for k in ("att", "fc", "box", "box_relative"))):
        (root / name).mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for place, scene in enumerate(scenes(split, count, seed=seed, side=side)):
            rest = split == "train" and place % 10 == 9
            directory = "train2014" if split == "train" and not rest else "val2014"
            entry = _entry(seed, scene, "restval" if rest else split, directory, len(entries))
            file = root / directory / entry["filename"]
            Image.fromarray(scene.image).save(file, quality=92)
            # From the file, so that whoever reads it finds the same regions.
            _write_regions(root / "bu", scene.number, read_picture(file), feat_size)
            entries.append(entry)
    write_json(root / "dataset_coco.json", {"dataset": "coco", "images": entries}, indent=None)
    return root
