"""Lengths of trainings and learning rates agree with the recorded ones, for every network of the original."""

from __future__ import annotations

import pytest

from channel_prune.cli import parse_train
from channel_prune.config import Config
from channel_prune.lowering import lower
from channel_prune.schedule import iterations, learning_rate
from testing.parity import Folder, of_kind

PROGRAMS = {
    "cifar": "resnet_at_cifar10_run",
    "resnet": "resnet_at_ilsvrc12_run",
    "mobilenet": "mobilenet_at_ilsvrc12_run",
    "vgg": "vgg_at_pascalvoc_run",
}
"""The original's program of each recorded network."""


def recorded(folder: Folder) -> list[tuple[Config, dict]]:
    """The configuration of each recorded table, and the table."""
    entries = [entry for name in folder.facts["files"] for entry in folder.json(name)]
    return [
        (lower(parse_train([f"--program={PROGRAMS[entry['net']]}", *entry["flags"]])), entry)
        for entry in entries
    ]


@pytest.mark.parity
@of_kind("lr_schedules")
def test_a_training_has_the_recorded_number_of_steps(folder: Folder) -> None:
    found = recorded(folder)
    assert found
    for cfg, entry in found:
        assert iterations(cfg, entry["gpus"]) == entry["nb_iters"]


@pytest.mark.parity
@of_kind("lr_schedules")
def test_each_step_has_the_recorded_rate(folder: Folder) -> None:
    for cfg, entry in recorded(folder):
        for step, rate in entry["table"]:
            ours = learning_rate(cfg, step, entry["gpus"])
            assert ours == pytest.approx(rate, rel=folder.tolerance["lr_rel"]), (entry["net"], step)


@pytest.mark.parity
@of_kind("lr_schedules")
def test_rates_change_at_the_recorded_steps_and_not_between_them(folder: Folder) -> None:
    for cfg, entry in recorded(folder):

        def rate(step: int, cfg: Config = cfg, gpus: int = entry["gpus"]) -> float:
            return learning_rate(cfg, step, gpus)

        changes = entry["changes_first_step_with_new_value"]
        for before, change in zip([0, *changes], changes, strict=False):
            assert rate(change - 1) == rate(before), (entry["net"], change)
            assert rate(change) != rate(change - 1), (entry["net"], change)
        if changes and len(changes) < folder.facts["max_changes_listed"]:
            assert rate(entry["nb_iters"] - 1) == rate(changes[-1])
