"""A data set that a tiny captioner learns in seconds, command lines for it, and runs to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from expansionnet import train

CAPTIONS = {
    "a red cat sits here": (200, 0, 0),
    "the blue dog runs away": (0, 0, 200),
    "one green bus stops": (0, 200, 0),
    "two men walk in a park": (220, 220, 0),
}
"""What is on the pictures, and their one colour."""
COUNTS = {"train": 12, "val": 5, "test": 4}
TOKENS, WIDTH = 4, 16
"""Visual tokens of a picture, and their width; the backbone's too."""

MODEL = (
    "--model_dim 16 --ff 24 --num-heads 4 --N_enc 1 --N_dec 2 --num-exp-enc-list [3,5] --num-exp-dec 3 "
    "--swin-img-size 16 --swin-patch-size 4 --swin-embed-dim 8 --swin-depths [1,1] --swin-num-heads [2,2] "
    "--swin-window-size 2 --img-feature-dim 16 "
    "--enc_drop 0.1 --dec_drop 0.1 --enc_input_drop 0.1 --dec_input_drop 0.1 --drop_other 0.1"
)
STILL = (
    "--enc_drop 0 --dec_drop 0 --enc_input_drop 0 --dec_input_drop 0 --drop_other 0 --swin-drop-path-rate 0"
)
"""Put behind them: no dropout at all."""
DATA = "--batch_size 4 --eval_parallel_batch_size 2 --dict-min-occurrences 1 --workers 0"
OPTIM = "--sched_type custom_warmup_anneal --lr 0.01 --warmup_iters 1 --num_accum 2 --num_epochs 2"
RUN = "--print_every_iter 1 --eval_beam_sizes [2] --device cpu --seed 3"
REWARD = "--reinforce True --scst_max_len 8 --num-samples 3 --lr 0.002"
LONG = {"xe": "--num_epochs 6 --num_accum 1", "rf": "--num_epochs 8 --num_accum 1"}
"""What makes a run long enough to learn, by the end of its kind."""

Command = Callable[..., list[str]]


def write_pictures(folder: Path) -> Path:
    """Write pictures of four kinds, told apart by features as by colours, in the original's layout."""
    generator = np.random.default_rng(0)
    images = []
    with h5py.File(folder / "features.hdf5", "w") as file:
        for split, count in COUNTS.items():
            (folder / f"{split}2014/img").mkdir(parents=True)
            for place in range(count):
                number, kind = len(images) + 1, place % len(CAPTIONS)
                sentence, colour = list(CAPTIONS.items())[kind]
                rows = generator.random((TOKENS, WIDTH), dtype=np.float32) * 0.3
                rows[:, 4 * kind : 4 * kind + 4] += 1
                file.create_dataset(f"{number}_features", data=rows)
                Image.new("RGB", (16, 16), colour).save(folder / f"{split}2014/img/{number}.png")
                images.append(
                    {
                        "filename": f"{number}.png",
                        "filepath": f"{split}2014",
                        "split": split,
                        "cocoid": number,
                        "sentences": [
                            {"tokens": sentence.split(), "raw": f"{sentence.capitalize()}."},
                            {"tokens": [], "raw": f"I see {sentence}, {'today' * (place % 2)}"},
                        ],
                    }
                )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set; nobody changes it."""
    return write_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def command(pictures: Path) -> Command:
    """Builds the command line of a tiny run: ``kind`` is one of `expansionnet.layout.KINDS`."""

    def build(output: Path, *extra: str, kind: str = "xe", preset: str = "fixed") -> list[str]:
        words = f"{MODEL} {DATA} {OPTIM} {RUN} {REWARD if kind.endswith('rf') else ''}".split()
        words += ["--is_end_to_end", str(kind.startswith("end_to_end")), "--preset", preset]
        words += ["--captions_path", str(pictures), "--images_path", str(pictures)]
        words += ["--features_path", str(pictures / "features.hdf5"), "--output", str(output)]
        return [*words, *extra]

    return build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Callable[[str, str], Path]:
    """Gives the folder of a run (its kind, preset), which is made once; nobody changes it.

    Training by reward starts from the weights of cross entropy on the same inputs.
    """
    root = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str, preset: str = "fixed") -> Path:
        if (kind, preset) not in made:
            output = root / f"{kind}_{preset}"
            extra = LONG[kind[-2:]].split()
            if kind.endswith("rf"):
                extra += ["--body_save_path", str(get(kind.replace("rf", "xe"), preset) / "best")]
                extra += [] if kind.startswith("end_to_end") else ["--partial_load", "True"]
            train.main(command(output, *extra, kind=kind, preset=preset))
            made[kind, preset] = output
        return made[kind, preset]

    return get
