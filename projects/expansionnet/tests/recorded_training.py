"""What the tests of recorded training share: its data, in the original's order, and its configuration."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from expansionnet.config import Config, OptimConfig, QuirkConfig, ScstConfig
from expansionnet.words.vocabulary import Vocabulary
from testing.parity import Folder

from .recorded import beside, model_config, model_facts


def config(folder: Folder, **scst: Any) -> Config:
    """The configuration of a recorded training."""
    args, facts = folder.json("expected*.json")["args"], folder.facts
    optim = OptimConfig(
        optim_type=facts["optimizer"]["type"],
        sched_type=facts["sched_type"],
        label_smoothing=facts.get("label_smoothing", 0.1),
        **{name: args[name] for name in ("lr", "min_lr", "warmup_iters", "anneal_coeff")},
        **{name: args[name] for name in ("anneal_every_epoch", "num_accum", "num_epochs")},
    )
    return Config(
        model=model_config(model_facts(folder)),
        optim=optim,
        scst=ScstConfig(**scst),
        quirks=QuirkConfig.of("faithful"),
    )


class RecordedData:
    """The recorded data set, read in the plainest way.

    Attributes:
        captions: of each training picture, as written.
        vocabulary: of these captions.
    """

    def __init__(self, folder: Folder) -> None:
        facts = folder.facts
        self.batch_size = folder.json("expected*.json")["args"]["batch_size"]
        self.seeds = json.loads(beside(folder, facts["init_seeds"]).read_text())["array_of_init_seeds"]
        data = json.loads(beside(folder, facts["dataset"]).read_text(encoding="utf-8"))
        images: dict[int, list[str]] = {}
        for image in data["images"]:
            if image["split"] in ("train", "restval"):
                images[image["cocoid"]] = [sentence["raw"] for sentence in image["sentences"]]
        self.ids, self.captions = list(images), list(images.values())
        self.vocabulary = Vocabulary.from_captions(
            (raw for image in self.captions for raw in image), min_occurrences=facts["min_occurrences"]
        )
        with h5py.File(beside(folder, facts["features_file"])) as file:
            self.features = {name: torch.from_numpy(np.asarray(file[name])) for name in file}
        self.caption_wise = facts["mode"] == "caption_wise"

    def epoch(self, number: int) -> Iterator[dict[str, Any]]:
        """Batches of an epoch, in the original's order."""
        items = [(place, raw) for place, image in enumerate(self.captions) for raw in image]
        if not self.caption_wise:
            items = [(place, "") for place in range(len(self.captions))]
        random.seed(self.seeds[number % len(self.seeds)])
        random.shuffle(items)
        for start in range(0, len(items) - self.batch_size + 1, self.batch_size):
            some = items[start : start + self.batch_size]
            places = [place for place, _ in some]
            x = torch.stack([self.features[f"{self.ids[place]}_features"] for place in places])
            batch: dict[str, Any] = {"x": x, "pads": None, "indices": places}
            yield batch | self._targets([raw for _, raw in some]) if self.caption_wise else batch

    def _targets(self, raw: list[str]) -> dict[str, Tensor]:
        rows = [self.vocabulary.encode(caption) for caption in raw]
        longest = max(map(len, rows))
        padded = [row + [self.vocabulary.pad] * (longest - len(row)) for row in rows]
        pads = [longest - len(row) for row in rows]
        return {"tokens": torch.tensor(padded), "token_pads": torch.tensor(pads)}


@lru_cache(maxsize=4)
def data_of(folder: Folder) -> RecordedData:
    """The data of a folder, read once."""
    return RecordedData(folder)
