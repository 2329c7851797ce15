"""Two processes: equal weights and masks on both, the steps of one process, all validation pictures once."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from testing.ranks import check_apart, check_as_one, check_cut, check_equal
from testing.runs import two_ranks

pytestmark = pytest.mark.dist

SCRIPT = Path(__file__).parent / "two_ranks.py"
KINDS = ("pruned", "refilled", "slim")
NETWORKS = ("segnet", "psp")
EPOCHS, STEPS = 2, 6
"""Of each run; masks become hard before the last epoch."""


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]
) -> tuple[list[dict[str, Any]], Path]:
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    words = {kind: command(folder, *short(kind), pruned=True) for kind in KINDS}
    (folder / "command.json").write_text(json.dumps(words))
    return two_ranks(SCRIPT, folder), folder


def short(kind: str) -> tuple[str, ...]:
    more = {"refilled": ("refill_pruned", "True"), "slim": ("slim_after_pruning", "True")}
    return ("epochs", str(EPOCHS), "ending_epoch", str(EPOCHS - 1), "width", "4", *more.get(kind, ()))


@pytest.mark.parametrize("network", NETWORKS)
def test_two_processes_make_the_steps_of_one_with_the_whole_batch(
    network: str, ranks: tuple[list[dict[str, Any]], Path]
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    alone, told = script["histories"](network)
    check_as_one(ranks[0], f"{network}/steps", alone, rtol=1e-7, atol=1e-10)
    assert len(alone[0]) > len(alone[-1])  # the logits are gone
    for found in ranks[0]:
        assert found[f"{network}/told"] == pytest.approx(told, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_masks_are_equal_on_both_ranks_after_every_step(
    kind: str, ranks: tuple[list[dict[str, Any]], Path]
) -> None:
    check_equal(ranks[0], kind, STEPS)
    check_apart(ranks[0], kind)


def test_a_run_of_two_ranks_stopped_before_hard_masks_goes_on_with_the_same_bits(
    ranks: tuple[list[dict[str, Any]], Path],
) -> None:
    check_cut(ranks[0], "pruned", STEPS)


def test_a_validation_counts_every_picture_once_and_gives_the_figures_of_one_process(
    ranks: tuple[list[dict[str, Any]], Path], command: Callable[..., list[str]]
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    alone: dict[str, Any] = {}
    script["evaluation"](ranks[1] / "pruned", command(ranks[1], *short("pruned"), pruned=True), alone)
    first, second = ranks[0]
    assert sorted(first["evaluation/mine"] + second["evaluation/mine"]) == sorted(alone["evaluation/mine"])
    assert len(alone["evaluation/mine"]) == 5
    assert first["evaluation"] == second["evaluation"] == pytest.approx(alone["evaluation"])


def test_only_rank_0_writes_a_run_and_it_is_whole(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    for kind in KINDS:
        run = ranks[1] / kind
        assert len(list(run.glob("events.*"))) == 1
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss_train_batch" in line] == list(range(1, STEPS + 1))
        assert (run / "finished.json").is_file()
        state = load_file(run / "last/model.safetensors")
        masks = [value for name, value in state.items() if name.endswith(".mask")]
        assert bool(masks) == (kind != "refilled")
        assert all(set(mask.tolist()) <= {0.0, 1.0} for mask in masks)
