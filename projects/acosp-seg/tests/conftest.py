"""A data set that a tiny network learns in seconds, command lines for it, runs that many tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

COUNTS = {"train": 12, "val": 5, "test": 3}
HEIGHT, WIDTH = 40, 48
COLOURS = np.array([(30, 30, 30), (210, 40, 40), (40, 60, 210)], np.uint8)
"""Of the classes: ground, and boxes of two kinds."""
VOID = 255

CONFIG = {
    "DATA": {"classes": len(COLOURS), "workers": 0, "batch_size": 4, "batch_size_val": 2, "check_labels": -1},
    "TRAIN": {
        "scale_min": 0.9,
        "scale_max": 1.2,
        "ignore_label": VOID,
        "epochs": 4,
        "power": 0.9,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "manual_seed": 7,
        "print_freq": 1,
        "save_freq": 2,
        "evaluate": True,
        "weight": None,
        "resume": None,
    },
    "TEST": {"split": "val", "base_size": WIDTH, "scales": [1.0]},
}
"""What all runs have in common: 3 steps an epoch."""
NETWORKS = {
    "segnet": {
        "arch": "segnet",
        "width": 8,
        "train_h": 32,
        "train_w": 40,
        "test_h": 32,
        "test_w": 40,
        "base_lr": 0.2,
        "aux_weight": 0.0,
    },
    "psp": {
        "arch": "psp",
        "layers": 50,
        "width": 4,
        "bins": [1, 2],
        "train_h": 33,
        "train_w": 33,
        "test_h": 33,
        "test_w": 33,
        "base_lr": 0.05,
        "aux_weight": 0.4,
        "zoom_factor": 8,
    },
}
PRUNED = {"sparsity": 0.5, "starting_epoch": 0, "ending_epoch": 2, "min_remaining_elements": 2}


def write_pictures(folder: Path) -> Path:
    """Write pictures of boxes with their label maps, and list files."""
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        lines = []
        for number in range(count):
            label = np.zeros((HEIGHT, WIDTH), np.uint8)
            for kind in (1, 2):
                top, left = generator.integers(0, HEIGHT - 18), generator.integers(0, WIDTH - 18)
                label[top : top + 18, left : left + 18] = kind
            image = COLOURS[label] + generator.integers(0, 30, (HEIGHT, WIDTH, 1), dtype=np.uint8)
            label[:1] = VOID
            names = [f"{what}/{split}_{number}.png" for what in ("images", "labels")]
            for name, pixels in zip(names, (image, label), strict=True):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name)
            lines.append(" ".join(names))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_config(file: Path, data: Path, network: str, *, pruned: bool) -> Path:
    """Write a configuration as the original has them, with keys of ours among its own."""
    content = {name: dict(section) for name, section in CONFIG.items()}
    lists = {f"{split}_list": str(data / f"{split}.txt") for split in COUNTS}
    content["DATA"] |= {"data_root": str(data), **lists}
    content["TRAIN"] |= {**NETWORKS[network], **(PRUNED if pruned else {})}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set."""
    return write_pictures(tmp_path_factory.mktemp("data") / "boxes")


@pytest.fixture(scope="session")
def command(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Builds the command line of a tiny run."""
    folder = tmp_path_factory.mktemp("config")

    def build(
        output: Path, *extra: str, pruned: bool = False, preset: str = "fixed", network: str = "segnet"
    ) -> list[str]:
        file = folder / f"{network}{'_pruned' if pruned else ''}.yaml"
        if not file.exists():
            write_config(file, pictures, network, pruned=pruned)
        return [
            *("--config", str(file), "--output", str(output), "--device", "cpu", "--preset", preset),
            *extra,
        ]

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
            from acosp_seg import train

            output = root / f"{kind}_{preset}"
            train.main(command(output, pruned=kind == "pruned", preset=preset))
            made[kind, preset] = output
        return made[kind, preset]

    return get
