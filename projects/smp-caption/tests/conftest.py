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

UP_DOWN = "--rnn_size 16 --input_encoding_size 16 --att_hid_size 8 --fc_feat_size 12 --drop_prob_lm 0.1"
TRANSFORMER = "--d_model 16 --dim_feedforward 24 --num_layers 2 --num_heads 2 --drop_prob_src 0.1"
MODELS = {
    "up_down": f"--caption_model up_down_lstm {UP_DOWN}",
    "transformer": f"--caption_model transformer {TRANSFORMER}",
    "ort": f"--caption_model relation_transformer {TRANSFORMER}",
    "acort": f"--caption_model relation_transformer {TRANSFORMER} --tokenizer radix --radix_base 6 "
    "--share_att_encoder kv --share_att_decoder kv --max_seq_length 16",
}
"""Words of each network; those of Up-Down are the default."""
SHARED = {"acort": ("--share_layer_encoder", "(0, 0)", "--share_layer_decoder", "(0, 0)")}
"""Words with a blank in them."""
DATA = "--att_feat_size 12 --vocab_size 30 --max_seq_length 9 --batch_size 4"
BATCHES = "--batch_size_eval 2 --seq_per_img 2 --num_workers 0"
OPTIM = "--lr_scheduler cosine --learning_rate 0.03"
RUN = "--max_epochs 16 --save_checkpoint_every 12 --losses_log_every 1 --device cpu"
SUPERMASK = (
    "--prune_type supermask --prune_sparsity_target 0.6 --prune_supermask_sparsity_weight 100 "
    "--prune_supermask_lr 50"
)
"""With these numbers the sparsity arrives at its target within the 48 steps of a run."""
EIGHT_STEPS = ("--max_epochs", "4", "--batch_size", "6", "--save_checkpoint_every", "4")
GRADUAL = ("--prune_type", "mag_grad_uniform", "--prune_gradual_frequency", "1")
"""In a run of eight steps the 3rd and the 4th prune by schedule."""


def write_pictures(folder: Path) -> Path:
    """Write pictures of four kinds, told apart by their features as by their colours, in COCO's layout."""
    generator = np.random.default_rng(0)
    images = []
    for name in ("cocobu_att", "cocobu_fc", "cocobu_box_relative"):
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
            corners = generator.random((len(att), 2, 2))  # two corners (x, y) of each box
            boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
            np.save(folder / "bu/cocobu_box_relative" / f"{number}.npy", boxes)
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

    def build(
        output: Path, *extra: str, model: str = "up_down", pruned: bool = False, preset: str = "fixed"
    ) -> list[str]:
        words = [*f"{DATA} {BATCHES} {OPTIM} {RUN} {MODELS[model]}".split(), *SHARED.get(model, ())]
        if pruned:
            words[words.index("--caption_model") + 1] += "_prune"
            words += SUPERMASK.split()
        where = ["--dataset_dir", str(pictures), "--output", str(output), "--preset", preset]
        return [*words, *where, *extra]

    return build


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]
) -> Callable[..., Path]:
    """Gives the folder of a run (``dense`` or ``pruned``, preset, model), made once; nobody changes it."""
    root = tmp_path_factory.mktemp("runs")
    made: dict[tuple[str, str, str], Path] = {}

    def get(kind: str, preset: str, model: str = "up_down") -> Path:
        key = (kind, preset, model)
        if key not in made:
            output = root / "_".join(key)
            train.main(command(output, model=model, pruned=kind == "pruned", preset=preset))
            made[key] = output
        return made[key]

    return get


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]) -> Callable[..., Path]:
    """Gives the folder of a run of eight steps that others start from (``dense`` or ``gradual``, model)."""
    root = tmp_path_factory.mktemp("begun")
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str, model: str) -> Path:
        if (kind, model) not in made:
            folder, extra = root / f"{kind}_{model}", () if kind == "dense" else GRADUAL
            train.main(command(folder, *EIGHT_STEPS, *extra, model=model, pruned=kind != "dense"))
            made[kind, model] = folder
        return made[kind, model]

    return get
