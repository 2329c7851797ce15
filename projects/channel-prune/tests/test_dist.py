"""Two processes: the choice and the steps of one, equal weights on both, every picture evaluated once."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from channel_prune.lowering import lower_values
from channel_prune.train import choose_channels
from testing.ranks import check_apart, check_as_one, check_cut, check_equal
from testing.runs import two_ranks

from .conftest import PICTURES, STEPS, Finished

pytestmark = pytest.mark.dist

SCRIPT = Path(__file__).parent / "two_ranks.py"
WAYS = ("crops", "scattered", "all")
KINDS = ("full", "pruned", "faithful", "all", "slim")
Ranks = tuple[list[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, full: Finished, pruning: Callable[..., dict[str, Any]]
) -> Ranks:
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    values = pruning(folder, batch_size=8)
    commands = {
        "full": values | {"learner": "full-prec"},
        "pruned": values,
        "faithful": values | {"preset": "faithful", "enbl_dst": True},
        "all": values | {"positions": "all", "nb_smpls": 48},
        "slim": values | {"slim_before_finetune": True},
    }
    (folder / "commands.json").write_text(json.dumps(commands))
    return two_ranks(SCRIPT, folder), folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_choose_and_fine_tune_as_one_with_the_whole_batch(way: str, ranks: Ranks) -> None:
    alone = runpy.run_path(str(SCRIPT))["histories"](way)
    check_as_one(ranks[0], way, alone, rtol=1e-7, atol=1e-9)
    zeros = [(values == 0).sum() for values in alone]
    assert zeros[0] > 1000
    assert zeros[-1] > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_equal_on_both_ranks_after_every_step(kind: str, ranks: Ranks) -> None:
    check_equal(ranks[0], kind, STEPS)
    check_apart(ranks[0], kind)


def test_a_run_of_two_ranks_that_was_cut_goes_on_with_the_same_bits(ranks: Ranks) -> None:
    check_cut(ranks[0], "pruned", STEPS)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_two_processes_choose_the_channels_that_one_chooses(kind: str, ranks: Ranks, tmp_path: Path) -> None:
    values = json.loads((ranks[1] / "commands.json").read_text())[kind]
    assert choose_channels(lower_values(values | {"output": str(tmp_path)}), tmp_path / "choose", quiet=True)
    two, one = (
        {record["name"]: record["kept"] for record in json.loads(file.read_text())["records"]}
        for file in (run / "choose/choice.json" for run in (ranks[1] / kind, tmp_path))
    )
    assert two == one
    assert torch.equal(ranks[0][0]["chosen"], ranks[0][1]["chosen"])


@pytest.mark.parametrize("size", [1, 7, 20])
def test_an_evaluation_counts_every_picture_once_and_gives_the_figures_of_one_process(
    size: int, ranks: Ranks
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    values = json.loads((ranks[1] / "commands.json").read_text())["pruned"] | {"batch_size_eval": size}
    alone: dict[str, Any] = {}
    script["evaluate"](values, ranks[1] / "pruned/last", alone)
    first, second = ranks[0]
    mine = [found[f"evaluation/mine/{size}"] for found in ranks[0]]
    assert sorted(mine[0] + mine[1]) == sorted(alone["evaluation/mine"])
    assert len(alone["evaluation/mine"]) == PICTURES["test"]
    expected = pytest.approx(alone["evaluation"], rel=1e-12)
    assert first[f"evaluation/{size}"] == second[f"evaluation/{size}"] == expected


def test_only_rank_0_writes_a_run_and_it_is_whole(ranks: Ranks) -> None:
    for kind in KINDS:
        run = ranks[1] / kind
        stage = run if kind == "full" else run / "finetune"
        assert len(list(stage.glob("events.*"))) == 1
        lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "lr" in line] == list(range(1, STEPS + 1))
        assert (stage / "finished.json").is_file()
        assert (run / "summary.json").is_file()
