"""Two processes: equal weights on both, the steps of one process with the whole batch, all pictures once."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import expansionnet
from expansionnet.files.original import checkpoints
from expansionnet.options import TestOptions
from expansionnet.test import test as score
from testing.ranks import check_as_one, check_cut, check_equal
from testing.runs import two_ranks

from .conftest import COUNTS, Command

pytestmark = pytest.mark.dist

SCRIPT = Path(__file__).parent / "two_ranks.py"
KINDS = {"xe": "xe", "rf": "end_to_end_rf"}
STEPS = {"xe": 6, "rf": 4}
"""The original's order drops four of the twelve pictures, so that two processes have two batches of four."""


@pytest.fixture(scope="module")
def ranks(
    tmp_path_factory: pytest.TempPathFactory, command: Command, finished: Callable[..., Path]
) -> tuple[list[dict[str, Tensor]], Path]:
    """What both ranks found, and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("two_ranks")
    short = ("--num_epochs", "1", "--num_accum", "2")
    body = ("--body_save_path", str(finished("end_to_end_xe", "faithful") / "best"))
    words = {
        "xe": command(folder, *short),
        "rf": command(
            folder, "--num_epochs", "2", "--num_accum", "1", *body, kind="end_to_end_rf", preset="faithful"
        ),
    }
    (folder / "command.json").write_text(json.dumps(words))
    return two_ranks(SCRIPT, folder), folder


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_equal_on_both_ranks_after_every_step(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path]
) -> None:
    first, second = ranks[0]
    check_equal(ranks[0], kind, STEPS[kind])
    assert not torch.equal(first[f"{kind}/history"][0], first[f"{kind}/history"][-1])
    pictures = [*first[f"{kind}/pictures"].tolist(), *second[f"{kind}/pictures"].tolist()]
    times = Counter(pictures)
    assert len(pictures) == 4 * STEPS[kind]
    assert set(times.values()) <= ({2} if kind == "xe" else {1, 2})  # two captions each; two epochs


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_two_ranks_that_was_stopped_goes_on_with_the_same_bits(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path]
) -> None:
    check_cut(ranks[0], kind, STEPS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_steps_of_one_with_the_whole_batch(
    kind: str, ranks: tuple[list[dict[str, Tensor]], Path]
) -> None:
    script: dict[str, Any] = runpy.run_path(str(SCRIPT))
    alone = script["histories"](kind)
    assert not torch.equal(alone[0], alone[-1])
    check_as_one(ranks[0], f"{kind}/steps", alone, rtol=1e-9, atol=1e-11)


def test_an_evaluation_counts_every_picture_once_and_gives_the_scores_of_one_process(
    ranks: tuple[list[dict[str, Tensor]], Path], tmp_path: Path
) -> None:
    (first, second), folder = ranks
    assert torch.equal(first["scores"], second["scores"])
    for split, start in (("val", COUNTS["train"]), ("test", COUNTS["train"] + COUNTS["val"])):
        captions = json.loads(next((folder / f"scored/{split}_beam_2").glob("caption_*")).read_text())
        assert [c["image_id"] for c in captions] == list(range(start + 1, start + COUNTS[split] + 1))
    options = TestOptions(save_model_path=str(folder / "xe"), output=str(tmp_path))
    assert list(score(options).values()) == pytest.approx(first["scores"].tolist())


def test_only_rank_0_writes_a_run_and_it_is_whole(ranks: tuple[list[dict[str, Tensor]], Path]) -> None:
    for kind in KINDS:
        run = ranks[1] / kind
        assert len(list(run.glob("events.*"))) == 1
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(1, STEPS[kind] + 1))
        assert len(json.loads(next((run / "val_beam_2").glob("caption_*")).read_text())) == COUNTS["val"]
        assert (run / "finished.json").is_file()
        assert expansionnet.load(run / "last").notes["step"] == STEPS[kind]
    assert len(checkpoints(ranks[1] / "rf/saves")) == 1
