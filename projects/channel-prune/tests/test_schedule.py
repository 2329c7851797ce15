"""Lengths and rates of trainings, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from channel_prune.config import Config, DataConfig, DetectConfig, NetConfig, OptimConfig
from channel_prune.schedule import iterations, learning_rate
from prunelab.errors import UserError

SMALL = Config(
    data=DataConfig(batch_size=10, nb_smpls_train=100),
    optim=OptimConfig(lrn_rate_init=1.0, batch_size_norm=10),
)


def rates(cfg: Config, steps: list[int], world_size: int = 1) -> list[float]:
    return [learning_rate(cfg, step, world_size) for step in steps]


def test_epochs_are_counted_in_batches_of_all_processes() -> None:
    assert iterations(SMALL) == 2500
    assert rates(SMALL, [0, 1000, 1001, 1500, 1501, 2001]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])
    assert iterations(SMALL, 4) == 625
    assert rates(SMALL, [250, 251], 4) == pytest.approx([4, 0.4])


def test_a_share_of_the_epochs_moves_the_boundaries_too() -> None:
    short = replace(SMALL, optim=replace(SMALL.optim, nb_epochs_rat=0.1))
    assert iterations(short) == 250
    assert rates(short, [100, 101]) == pytest.approx([1, 0.1])


def test_the_exponential_schedule_falls_every_two_and_a_half_epochs() -> None:
    cfg = replace(SMALL, optim=replace(SMALL.optim, schedule="mobilenet_v2"))
    assert iterations(cfg) == 4120
    assert rates(cfg, [24, 25, 49, 50]) == pytest.approx([1, 0.98**2.5, 0.98**2.5, 0.98**5])


def test_a_detector_counts_steps_whatever_the_number_of_processes() -> None:
    cfg = Config(
        net=NetConfig(name="ssd_vgg16", nb_classes=21, image_size=300),
        data=DataConfig(dataset="voc"),
        optim=OptimConfig(lrn_rate_init=1e-3, schedule="ssd", batch_size_norm=None),
        detect=DetectConfig(lrn_rate_dcy_bnds=(5, 9), lrn_rate_dcy_rates=(0.1, 1.0, 1e-9), nb_iters_train=12),
    )
    for world_size in (1, 8):
        assert iterations(cfg, world_size) == 12
        assert rates(cfg, [0, 5, 6, 9, 10], world_size) == pytest.approx([1e-4, 1e-4, 1e-3, 1e-3, 1e-6])


def test_a_number_of_steps_may_be_given() -> None:
    cfg = replace(SMALL, optim=replace(SMALL.optim, schedule="constant", nb_iters=7, batch_size_norm=None))
    assert iterations(cfg, 3) == 7
    assert rates(cfg, [0, 6], 3) == [1, 1]


def test_a_training_without_a_step_is_refused() -> None:
    cfg = replace(SMALL, optim=replace(SMALL.optim, nb_epochs_rat=1e-4))
    with pytest.raises(UserError, match=r"nb_epochs_rat is 0.0001: .* expected a larger share"):
        iterations(cfg)
