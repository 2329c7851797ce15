"""Generated data lie as real data do and are read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expansionnet.config import Config, DataConfig, ModelConfig, RunOptions, ScstConfig, SwinConfig
from expansionnet.data import open_data
from expansionnet.features.fake import EVALUATED, write_fake_data
from prunelab.util import sha256_file

SWIN = SwinConfig(img_size=32, embed_dim=4, depths=(1, 1), num_heads=(1, 1), window_size=4)


def settings(*, pictures: bool, reinforce: bool, seed: int = 1) -> Config:
    return Config(
        model=ModelConfig(is_end_to_end=pictures, img_feature_dim=SWIN.width, swin=SWIN),
        data=DataConfig(fake_data=True, batch_size=6, workers=0),
        scst=ScstConfig(reinforce=reinforce),
        run=RunOptions(seed=seed),
    )


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("reinforce", [True, False])
def test_there_are_two_batches_of_what_the_configuration_reads(
    tmp_path: Path, pictures: bool, reinforce: bool
) -> None:
    data = open_data(settings(pictures=pictures, reinforce=reinforce), tmp_path / "fake")
    batches = list(data.loader("train"))
    assert len(batches) == 2
    shape = (6, 3, 32, 32) if pictures else (6, SWIN.tokens, SWIN.width)
    assert all(batch["x"].shape == shape for batch in batches)
    assert batches[0]["x"].dtype == (torch.float32 if pictures else torch.float16)
    assert len(data.split("val")) == len(data.split("test")) == EVALUATED
    assert (
        data.split("train")[0]
        .path.relative_to(tmp_path)
        .as_posix()
        .startswith("fake/MS_COCO_2014/train2014/img/COCO_train2014_")
    )
    assert len(data.vocabulary) > 10


def test_the_same_seed_gives_the_same_data(tmp_path: Path) -> None:
    digests = [
        sha256_file(write_fake_data(tmp_path / name, cfg) / "dataset_coco.json")
        for name, cfg in {
            "a": settings(pictures=True, reinforce=False),
            "b": settings(pictures=True, reinforce=False),
            "c": settings(pictures=True, reinforce=False, seed=2),
        }.items()
    ]
    assert digests[0] == digests[1] != digests[2]
