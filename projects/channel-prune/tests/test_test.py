"""`test`: the networks of a run, of a model folder, of the original's paths, evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from channel_prune import test as entry
from channel_prune import train
from channel_prune.files.loading import load_network
from channel_prune.lowering import lower_values
from channel_prune.model.names import to_original
from prunelab.util import read_json

from .conftest import PICTURES, Finished, words

Values = Callable[..., dict[str, Any]]


def row(run: Path, name: str) -> dict[str, Any]:
    return next(row for row in read_json(run / "summary.json")["rows"] if row["model"] == name)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("last", "pruned"),
        ("slim", "slim"),
        ("chosen", "pruned, before fine-tuning"),
        ("finetune/last", "pruned"),
    ],
)
def test_a_model_folder_is_evaluated_with_the_configuration_of_its_run(
    place: str, name: str, pruned: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    entry.main(["--model", str(pruned() / place)])
    told = capsys.readouterr().out
    assert f"accuracy {row(pruned(), name)['accuracy']:.4g}" in told


def test_a_run_folder_means_its_best_network(pruned: Finished, values: dict[str, Any]) -> None:
    cfg = lower_values(values | {"exec_mode": "eval"})
    run, best = (
        entry.test(lower_values(values | {"weights": str(place)})) for place in (pruned(), pruned() / "best")
    )
    assert run == best
    assert cfg.run.exec_mode == "eval"


def test_an_original_file_is_evaluated(pruned: Finished, values: dict[str, Any], tmp_path: Path) -> None:
    model = load_network(pruned() / "last", lower_values(values).net)
    np.savez(tmp_path / "model.npz", **to_original(model))  # pyright: ignore[reportArgumentType]
    found = entry.test(lower_values(values | {"weights": str(tmp_path / "model.npz")}))
    assert found["accuracy"] == row(pruned(), "pruned")["accuracy"]


@pytest.mark.parametrize("learner", ["full-prec", "chn-pruned-rmt"])
def test_exec_mode_eval_evaluates_what_the_learner_wrote_and_needs_nothing_else(
    learner: str,
    full: Finished,
    pruned: Finished,
    values: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {
        "save_path": full() if learner == "full-prec" else Path("/nowhere"),
        "save_path_cpr": pruned(),
    }
    more = {"learner": learner, "exec_mode": "eval"} | {name: str(path) for name, path in paths.items()}
    train.main(words(values | more))
    told = capsys.readouterr().out
    assert "accuracy" in told
    assert str(full() if learner == "full-prec" else pruned()) in told


@pytest.mark.parametrize("preset", ["faithful", "fixed"])
def test_of_a_run_the_original_takes_the_last_network_and_ours_the_best(
    preset: str, full: Finished, values: dict[str, Any]
) -> None:
    more = {"save_path": str(full()), "preset": preset, "exec_mode": "eval"}
    spot = entry.trained(lower_values(values | more))
    assert spot == (full() / "last" if preset == "faithful" else full())


def test_every_picture_counts_once_whatever_the_batch(pruned: Finished, values: dict[str, Any]) -> None:
    found = [
        entry.test(lower_values(values | {"weights": str(pruned() / "last"), "batch_size_eval": batch}))
        for batch in (1, 13, PICTURES["test"], 100)
    ]
    assert all(one["accuracy"] == found[0]["accuracy"] for one in found)
    assert all(one["loss"] == pytest.approx(found[0]["loss"], rel=1e-5) for one in found)


def test_the_loss_has_decay_and_distillation_as_in_training(
    full: Finished, pruned: Finished, values: dict[str, Any]
) -> None:
    def loss(**more: Any) -> float:
        return entry.test(lower_values(values | {"weights": str(pruned() / "last")} | more))["loss"]

    plain = loss(loss_w_dcy=0.0)
    state = load_network(pruned() / "last", lower_values(values).net).named_parameters()
    squares = sum(float(p.detach().square().sum()) for name, p in state if ".bn" not in f".{name}")
    assert loss(loss_w_dcy=0.1) - plain == pytest.approx(0.05 * squares, rel=1e-4)
    taught = loss(loss_w_dcy=0.0, enbl_dst=True, save_path=str(full() / "last"))
    assert taught - plain > 1
    assert torch.isfinite(torch.tensor(taught))


def test_a_dry_run_needs_nothing(capsys: pytest.CaptureFixture[str], values: dict[str, Any]) -> None:
    entry.main(["--dry-run", *words(values)])
    assert "configuration is right; nothing was run" in capsys.readouterr().out
    entry.main(["--print-config", *words(values)])
    assert "exec_mode" in capsys.readouterr().out
