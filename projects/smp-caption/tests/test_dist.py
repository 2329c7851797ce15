"""Two processes: equal weights on both, the steps of one process with the whole batch, all pictures once."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.mask.files import load_state
from smp_caption.options import TestOptions
from smp_caption.test import test as score
from testing.ranks import check_as_one, check_cut, check_equal
from testing.runs import two_ranks

pytestmark = pytest.mark.dist

SCRIPT = Path(__file__).parent / "two_ranks.py"
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "dense": ({}, ()),
    "pruned": ({"model": "ort", "pruned": True}, ()),
    "snip": ({"pruned": True}, ("--prune_type", "snip")),
    "rewards": ({"model": "ort"}, ("--scst_start_epoch", "0", "--scst_num_samples", "2")),
}
STEPS = 3


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]
) -> tuple[list[dict[str, Tensor]], Path]:
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    short = ("--batch_size", "2", "--max_epochs", "1", "--save_checkpoint_every", "2")
    words = {kind: command(folder, *short, *extra, **settings) for kind, (settings, extra) in KINDS.items()}
    (folder / "command.json").write_text(json.dumps(words))
    return two_ranks(SCRIPT, folder), folder


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_equal_on_both_ranks_after_every_step(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path]
) -> None:
    check_equal(ranks[0], kind, STEPS)
    first, second = ranks[0]
    pictures = [*first[f"{kind}/pictures"].tolist(), *second[f"{kind}/pictures"].tolist()]
    assert sorted(pictures) == list(range(1, 13))


@pytest.mark.parametrize("kind", ["pruned", "rewards"])
def test_a_run_of_two_ranks_that_was_stopped_goes_on_with_the_same_bits(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path]
) -> None:
    check_cut(ranks[0], kind, STEPS)


@pytest.mark.parametrize("kind", ["dense", "pruned", "snip", "gradual", "rewards"])
def test_two_processes_make_the_steps_of_one_with_the_whole_batch(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path], tmp_path: Path
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    alone = script["histories"](kind, tmp_path)
    assert not torch.equal(alone[0], alone[-1])
    check_as_one(ranks[0], f"{kind}/steps", alone, rtol=1e-9, atol=1e-11)


def test_an_evaluation_counts_every_picture_once_and_gives_the_scores_of_one_process(
    ranks: tuple[list[dict[str, Tensor]], Path], tmp_path: Path
) -> None:
    first, second = ranks[0]
    assert sorted([*first["evaluation/mine"].tolist(), *second["evaluation/mine"].tolist()]) == [
        17,
        18,
        19,
        20,
        21,
    ]
    for found in (first, second):
        assert found["evaluation/pictures"].tolist() == [17, 18, 19, 20, 21]
    assert torch.equal(first["evaluation/scores"], second["evaluation/scores"])
    options = TestOptions(log_dir=str(ranks[1] / "dense"), output=str(tmp_path), num_workers=0)
    alone = score(options)
    assert list(alone.values()) == pytest.approx(first["evaluation/scores"].tolist())


def test_only_rank_0_writes_a_run_and_it_is_whole(ranks: tuple[list[dict[str, Tensor]], Path]) -> None:
    for kind in KINDS:
        run = ranks[1] / kind
        assert len(list(run.glob("events.*"))) == 1
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3]
        assert len(json.loads(next((run / "test_beam_2").glob("caption_*")).read_text())) == 5
        assert (run / "finished.json").is_file()
        assert load_state(run / "last/model.safetensors")[0]
    assert (ranks[1] / "fake/fake_data/dataset_coco.json").is_file()
