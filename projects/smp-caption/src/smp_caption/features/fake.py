"""``--fake-data``: a small generated data set in the layout of COCO, to try a configuration without its data.

Numbers are random and captions carry no meaning; sizes are those of the configuration.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from prunelab.seed import derive
from prunelab.util import atomic_folder, write_json
from smp_caption.config import Config
from smp_caption.features.layout import ATT_DIR, BOX_DIR, FC_DIR, JSON_NAMES, reads_boxes, reads_fc

WORDS = ("a", "the", "red", "small", "dog", "cat", "bus", "man", "sits", "runs", "on", "in", "street", "park")
REGIONS = (6, 10)
"""Fewest and most regions of a picture (bottom-up features have 10 to 100)."""
EVALUATED = 4
"""Pictures of the validation and of the test split each."""


def write_fake_data(folder: Path, cfg: Config) -> Path:
    """Write the data set into ``folder``, replacing what is there, and return it.

    There are two training batches, four validation and four test pictures, one caption more than
    ``seq_per_img`` each; for the online test four more in ``test2014``, which the caption file does not name.
    """
    generator = np.random.default_rng(derive(cfg.run.seed, "fake data"))
    count = 2 * cfg.data.batch_size
    splits = ["train"] * (count - 1) + ["restval"] + ["val"] * EVALUATED + ["test"] * EVALUATED
    with atomic_folder(folder) as place:
        images = []
        for number, split in enumerate(splits, 1):
            where = "train2014" if split == "train" else "val2014"
            name = _picture(place, where, number, cfg, generator)
            sentences = _sentences(cfg.data.seq_per_img + 1, generator)
            image = {"filename": name, "filepath": where, "split": split, "cocoid": number}
            images.append({**image, "sentences": sentences})
        if cfg.data.mscoco_online_test:
            for number in range(len(splits) + 1, len(splits) + 1 + EVALUATED):
                _picture(place, "test2014", number, cfg, generator)
        write_json(place / JSON_NAMES.get(cfg.data.dataset, "dataset_coco.json"), {"images": images})
    return folder


def _picture(place: Path, folder: str, number: int, cfg: Config, generator: np.random.Generator) -> str:
    """Write one picture and its features; return its file name."""
    name = f"COCO_{folder}_{number:012d}.jpg"
    (place / folder).mkdir(exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / folder / name)
    regions = int(generator.integers(REGIONS[0], REGIONS[1] + 1))
    features = {ATT_DIR: generator.random((regions, cfg.model.att_feat_size), dtype=np.float32)}
    if reads_fc(cfg):
        features[FC_DIR] = generator.random(cfg.model.fc_feat_size, dtype=np.float32)
    if reads_boxes(cfg):
        corners = generator.random((regions, 2, 2))  # two corners (x, y) each
        features[BOX_DIR] = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    for where, array in features.items():
        (place / where).mkdir(parents=True, exist_ok=True)
        np.save(place / where / f"{number}.npy", array)
    return name


def _sentences(count: int, generator: np.random.Generator) -> list[dict[str, object]]:
    sentences = []
    for _ in range(count):
        tokens = [str(word) for word in generator.choice(WORDS, size=int(generator.integers(4, 12)))]
        sentences.append({"tokens": tokens, "raw": " ".join(tokens)})
    return sentences
