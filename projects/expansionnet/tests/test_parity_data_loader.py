"""Batches in the original's order agree with the recorded ones, on every rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expansionnet.config import Config, DataConfig, ModelConfig, QuirkConfig, ScstConfig
from expansionnet.data import CaptionData, open_data
from expansionnet.learning.order import REPETITIONS, init_seeds
from prunelab.errors import UserError
from testing.parity import Folder, of_kind

from .recorded import beside

MODES = {"caption_wise": False, "image_wise": True}


def data_of(folder: Folder, case: dict[str, Any]) -> CaptionData:
    facts = folder.facts
    cfg = Config(
        model=ModelConfig(is_end_to_end=False, img_feature_dim=facts["img_feature_dim"]),
        data=DataConfig(
            captions_path=str(beside(folder, facts["dataset"])),
            features_path=str(beside(folder, facts["features_file"])),
            dict_min_occurrences=facts["min_occurrences"],
            batch_size=case["batch_size"],
            workers=0,
        ),
        scst=ScstConfig(reinforce=MODES[case["mode"]]),
        quirks=QuirkConfig.of("faithful"),
    )
    return open_data(cfg)


@pytest.mark.parity
@of_kind("data_loader")
def test_seeds_of_the_epochs_agree(folder: Folder) -> None:
    recorded = folder.json("batches.json")
    count = folder.facts["num_init_seeds"]
    assert init_seeds(recorded["parent_seed"], count)[:count] == recorded["array_of_init_seeds"]
    assert folder.facts["seed_list_repetitions"] == REPETITIONS


@pytest.mark.parity
@of_kind("data_loader")
def test_batches_of_every_case_agree(folder: Folder) -> None:
    tolerance = folder.tolerance["x_sum_rel"]
    recorded = folder.json("batches.json")
    seeds = recorded["array_of_init_seeds"] * folder.facts["seed_list_repetitions"]
    for case in recorded["cases"]:
        data = data_of(folder, case)
        place = {"rank": case["rank"], "world_size": case["num_procs"]}
        if not case["num_batches"]:
            with pytest.raises(UserError, match=r"batch_size is \d+, expected at most"):
                data.loader("train", **place)
            continue
        loader = data.loader("train", **place)
        loader.sampler.begin_at(0, 0, seeds)
        assert len(loader) == case["num_batches"]
        for epoch, batches in zip(folder.facts["epochs"], case["epochs"], strict=True):
            loader.sampler.set_epoch(epoch)
            for batch, expected in zip(list(loader), batches, strict=True):
                check(batch, expected, tolerance)
                loader.sampler.advance()
        check_state(loader.sampler, case["state"])


def check(batch: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert batch["indices"] == expected["img_idx"]
    if expected["targets"] is not None:
        assert batch["tokens"].tolist() == expected["targets"]
    if expected["target_pads"] is not None:
        assert batch["token_pads"].tolist() == expected["target_pads"]
    pads = batch["pads"]
    assert (pads.tolist() if pads is not None else [0] * len(batch["indices"])) == expected["x_pads"]
    if expected["x_sum"] is not None:
        # Single precision sums in another order; what is compared is which features were read.
        size = batch["x"].abs().sum().item()
        found = batch["x"].sum(dtype=torch.float64).item()
        assert found == pytest.approx(expected["x_sum"], rel=tolerance, abs=1e-6 * size)


def check_state(sampler: Any, expected: dict[str, Any]) -> None:
    assert sampler.position == expected["batch_it"]
    assert sampler.epoch == expected["epoch_it"]
    assert sampler.batch_size == expected["batch_size"]
    assert len(sampler.seeds) == expected["array_of_init_seed_length"]
