"""Two processes: the updates of one, equal weights on both, every picture evaluated once."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.ranks import check_apart, check_as_one, check_cut, check_equal
from testing.runs import figures, two_ranks

from .conftest import PICTURES, UPDATES

pytestmark = pytest.mark.dist

SCRIPT = Path(__file__).parent / "two_ranks.py"
WAYS = ("faithful", "fixed", "keep rate")
KINDS = ("fixed", "faithful")
Ranks = tuple[list[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, valued: Callable[..., dict[str, Any]]) -> Ranks:
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    commands = {preset: valued(folder, preset, train_batch_size=6) for preset in KINDS}
    (folder / "commands.json").write_text(json.dumps(commands))
    return two_ranks(SCRIPT, folder), folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_make_the_updates_of_one_with_the_whole_batch(way: str, ranks: Ranks) -> None:
    alone = runpy.run_path(str(SCRIPT))["histories"](way)
    check_as_one(ranks[0], way, alone, rtol=1e-7, atol=1e-9)
    assert float((alone[-1] - alone[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_equal_on_both_ranks_after_every_update(kind: str, ranks: Ranks) -> None:
    check_equal(ranks[0], kind, UPDATES)
    check_apart(ranks[0], kind)


def test_a_run_of_two_ranks_that_was_cut_goes_on_with_the_same_bits(ranks: Ranks) -> None:
    check_cut(ranks[0], "fixed", UPDATES)


@pytest.mark.parametrize("size", [1, 7, 20])
def test_an_evaluation_counts_every_picture_once_and_gives_the_figures_of_one_process(
    size: int, ranks: Ranks
) -> None:
    alone = runpy.run_path(str(SCRIPT))["evaluate"](ranks[1] / "fixed", size)
    first, second = (found[f"evaluation/{size}"] for found in ranks[0])
    assert first == second
    assert list(first) == list(alone)
    for mode, scores in alone.items():
        assert first[mode]["pictures"] == scores["pictures"] == PICTURES["test"]
        assert first[mode]["tokens"] == scores["tokens"]
        assert first[mode]["accuracy"] == scores["accuracy"]
        assert first[mode]["loss"] == pytest.approx(scores["loss"], rel=1e-9)
        assert first[mode]["macs"] == pytest.approx(scores["macs"], rel=1e-12)


def test_only_rank_0_writes_a_run_and_it_is_whole(ranks: Ranks) -> None:
    for kind in KINDS:
        run = ranks[1] / kind
        assert len(list(run.glob("events.*"))) == 1
        lines = figures(run / "metrics.jsonl")
        assert [line["updates"] for line in lines if "train/loss" in line] == list(range(1, UPDATES + 1))
        assert (run / "finished.json").is_file()
    assert (ranks[1] / "fixed/summary.json").is_file()
    assert len(list((ranks[1] / "faithful/logs/apt").glob("events.*"))) == 1
    assert (ranks[1] / "faithful/1_apt_checkpoint.bin").is_file()
