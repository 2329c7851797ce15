"""A data set that a tiny model learns in seconds, command lines for it, and runs that many tests look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smp_caption import train

KINDS = {
    "a red cat sits here": (200, 0, 0),
    "the blue dog runs away": (0, 0, 200),
    "one green bus stops": (0, 200, 0),
    "two men walk in a park": (90, 90, 90),
}
"""What is on the pictures, and their one colour."""
COUNTS = {"train": 12, "val": 4, "test": 5}
SIZE = 12
"""Numbers of a feature; each kind of picture raises its own three."""

MODEL = "--rnn_size 16 --input_encoding_size 16 --att_hid_size 8 --att_feat_size 12 --fc_feat_size 12"
DATA = "--vocab_size 30 --max_seq_length 9 --batch_size 4 --batch_size_eval 2 --seq_per_img 2 --num_workers 0"
OPTIM = "--lr_scheduler cosine --learning_rate 0.03 --drop_prob_lm 0.1"
RUN = "--max_epochs 16 --save_checkpoint_every 12 --losses_log_every 1 --device cpu"
SUPERMASK = (
    "--prune_type supermask --prune_sparsity_target 0.6 --prune_supermask_sparsity_weight 100 "
    "--prune_supermask_lr 50"
)
"""With these numbers the sparsity arrives at its target within the 48 steps of a run."""


def write_pictures(folder: Path) -> Path:
    """Write pictures of four kinds, told apart by their features as by their colours, in COCO's layout."""
    generator = np.random.default_rng(0)
    images = []
    for name in ("cocobu_att", "cocobu_fc"):
        (folder / "bu" / name).mkdir(parents=True)
    for split, count in COUNTS.items():
        (folder / split).mkdir()
        for place in range(count):
            number, kind = len(images) + 1, place % len(KINDS)
            sentence, colour = list(KINDS.items())[kind]
            att = generator.random((3 + place % 2, SIZE), dtype=np.float32) * 0.3
            att[:, 3 * kind : 3 * kind + 3] += 1
            np.save(folder / "bu/cocobu_att" / f"{number}.npy", att)
            np.save(folder / "bu/cocobu_fc" / f"{number}.npy", att.mean(axis=0))
            Image.new("RGB", (16, 16), colour).save(folder / split / f"{number}.png")
            sentences = [{"tokens": sentence.split(), "raw": f"{sentence.capitalize()}."}] * 2
            images.append(
                {
                    "filename": f"{number}.png",
                    "filepath": split,
                    "split": split,
                    "cocoid": number,
                    "sentences": sentences,
                }
            )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def command(pictures: Path) -> Callable[..., list[str]]:
    """Builds the command line of a tiny run."""

    def build(output: Path, *extra: str, pruned: bool = False, preset: str = "fixed") -> list[str]:
        name = "up_down_lstm_prune" if pruned else "up_down_lstm"
        words = f"--caption_model {name} {MODEL} {DATA} {OPTIM} {RUN} {SUPERMASK if pruned else ''}".split()
        where = ["--dataset_dir", str(pictures), "--output", str(output), "--preset", preset]
        return [*words, *where, *extra]

    return build


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]
) -> Callable[[str, str], Path]:
    """Gives the folder of a run (``dense`` or ``pruned``, preset), which is made once; nobody changes it."""
    root = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str, preset: str) -> Path:
        if (kind, preset) not in made:
            output = root / f"{kind}_{preset}"
            train.main(command(output, pruned=kind == "pruned", preset=preset))
            made[kind, preset] = output
        return made[kind, preset]

    return get
