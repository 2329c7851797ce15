"""``--fake-data``: a small generated data set in the real layout, to try a configuration without its data.

The layout is the original's::

    dataset_coco.json                                           Karpathy's file
    MS_COCO_2014/train2014/img/COCO_train2014_000000000001.jpg  pictures
    features.hdf5                                               <id>_features, (tokens, F) float16

Numbers are random and captions carry no meaning; sizes are those of the configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from expansionnet.config import Config
from prunelab.seed import derive
from prunelab.util import atomic_folder, write_json

WORDS = ("a", "the", "red", "small", "dog", "cat", "bus", "man", "sits", "runs", "on", "in", "street", "park")
FAKE_PICTURES, FAKE_FEATURES = "MS_COCO_2014", "features.hdf5"
"""Places in the folder."""
CAPTIONS = 5
"""Captions of a picture."""
EVALUATED = 4
"""Pictures of the validation and of the test split each."""
SIDE = 48
"""Side of a picture in pixels."""


def write_fake_data(folder: Path, cfg: Config) -> Path:
    """Write the data set into ``folder``, replacing what is there, and return it.

    There are two training batches, four validation and four test pictures, features where the configuration
    reads them, and pictures else.
    """
    generator = np.random.default_rng(derive(cfg.run.seed, "fake data"))
    samples = 2 * cfg.data.batch_size
    count = samples if cfg.scst.reinforce else -(-samples // CAPTIONS)
    splits = ["train"] * (count - 1) + ["restval"] + ["val"] * EVALUATED + ["test"] * EVALUATED
    with atomic_folder(folder) as place:
        images = [_entry(number, split, generator) for number, split in enumerate(splits, 1)]
        write_json(place / "dataset_coco.json", {"images": images, "dataset": "coco"}, indent=None)
        if cfg.model.is_end_to_end:
            _write_pictures(place / FAKE_PICTURES, images, generator)
        else:
            _write_features(place / FAKE_FEATURES, images, generator, cfg)
    return folder


def _entry(number: int, split: str, generator: np.random.Generator) -> dict[str, Any]:
    """A picture's entry in Karpathy's file."""
    folder = "train2014" if split == "train" else "val2014"
    captions = [
        [str(word) for word in generator.choice(WORDS, size=int(generator.integers(4, 12)))]
        for _ in range(CAPTIONS)
    ]
    return {
        "filepath": folder,
        "filename": f"COCO_{folder}_{number:012d}.jpg",
        "split": split,
        "cocoid": number,
        "sentences": [{"tokens": words, "raw": " ".join(words).capitalize() + "."} for words in captions],
    }


def _write_pictures(root: Path, images: list[dict[str, Any]], generator: np.random.Generator) -> None:
    for image in images:
        folder = root / image["filepath"] / "img"
        folder.mkdir(parents=True, exist_ok=True)
        levels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / image["filename"])


def _write_features(
    path: Path, images: list[dict[str, Any]], generator: np.random.Generator, cfg: Config
) -> None:
    import h5py

    shape = cfg.model.swin.tokens, cfg.model.img_feature_dim
    with h5py.File(path, "w") as file:
        for image in images:
            rows = generator.standard_normal(shape, dtype=np.float32).astype(np.float16)
            file.create_dataset(f"{image['cocoid']}_features", data=rows)
