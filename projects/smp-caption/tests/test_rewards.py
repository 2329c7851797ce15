"""Self-critical training as a user starts it: variants, after cross entropy, and tables that do not fit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab.caption.frequency import DocumentFrequency
from prunelab.mask import MASK_SUFFIX
from prunelab.mask.files import load_state
from smp_caption import train
from testing.mistakes import Fails

from .conftest import EIGHT_STEPS

pytestmark = pytest.mark.tiny

SHORT = ("--max_epochs", "1", "--batch_size", "6", "--scst_start_epoch", "0", "--scst_num_samples", "3")
"""Two steps, both by reward."""
VARIANTS = [
    ("up_down", "random", "sample", "fixed"),
    ("up_down", "beam_search", "greedy", "faithful"),
    ("transformer", "random", "greedy", "fixed"),
    ("ort", "beam_search", "sample", "fixed"),
    ("ort", "random", "sample", "faithful"),
    ("acort", "random", "greedy", "faithful"),
]
"""Family, way of sampling, baseline, preset."""
ALL = [
    (family, sample, baseline, preset)
    for family in ("up_down", "transformer", "ort", "acort")
    for sample in ("random", "beam_search")
    for baseline in ("sample", "greedy")
    for preset in ("fixed", "faithful")
]


def steps_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]


@pytest.mark.parametrize(
    ("family", "sample", "baseline", "preset"),
    [*VARIANTS, *(pytest.param(*one, marks=pytest.mark.slow) for one in ALL if one not in VARIANTS)],
)
def test_each_variant_trains_by_reward_and_logs_it(
    family: str,
    sample: str,
    baseline: str,
    preset: str,
    tmp_path: Path,
    command: Callable[..., list[str]],
    begun: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, source = tmp_path / "run", begun("dense", family)
    words = (*SHORT, "--scst_sample", sample, "--scst_baseline", baseline, "--scst_bleu_weight", "0,0,0,1")
    begin = ("--start_from", str(source), "--label_smoothing", "0")
    train.main(command(run, *words, *begin, model=family, preset=preset))
    made = steps_of(run)
    assert len(made) == 2
    for line in made:
        assert line["train/avg_reward"] >= 0
        assert math.isfinite(line["train/loss"])
        assert "train/caption_loss" not in line
    assert any(line["train/avg_reward"] > 0 for line in made)
    greedy = [line.get("train/greedy_reward") for line in made]
    wanted = [line["train/avg_baseline"] for line in made] if baseline == "greedy" else [None, None]
    assert greedy == wanted
    said = capsys.readouterr().out
    assert "document frequencies of 12 pictures: counted from the training captions" in said
    assert "train/avg_reward" in said
    then, now = (load_state(folder / "model.safetensors")[0] for folder in (source / "best", run / "last"))
    assert any(not torch.equal(now[name], value) for name, value in then.items())


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_masks_that_a_run_begins_with_stay_while_its_weights_are_trained_by_reward(
    preset: str, tmp_path: Path, command: Callable[..., list[str]], begun: Callable[..., Path]
) -> None:
    run, source = tmp_path / "run", begun("gradual", "ort")
    words = (*SHORT, "--prune_type", "mask_freeze", "--start_from", str(source))
    train.main(command(run, *words, model="ort", pruned=True, preset=preset))
    then, now = (load_state(folder / "model.safetensors")[0] for folder in (source / "best", run / "last"))
    same = {name: torch.equal(now[name], value) for name, value in then.items()}
    assert all(same[name] for name in same if name.endswith(MASK_SUFFIX))
    assert not all(same.values())
    assert all("train/caption_loss" in line and "train/avg_reward" in line for line in steps_of(run))


def test_supermasks_are_trained_by_reward_too(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    run = tmp_path / "run"
    train.main(command(run, *SHORT, model="transformer", pruned=True))
    for line in steps_of(run):
        assert line["train/loss"] == pytest.approx(
            line["train/caption_loss"] + line["sparsity_loss/loss_scaled"], abs=1e-5
        )
        assert "train/avg_reward" in line


def test_a_run_goes_over_from_cross_entropy_to_rewards_at_the_beginning_of_an_epoch(
    tmp_path: Path,
    command: Callable[..., list[str]],
    begun: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = steps_of(begun("dense", "ort"))
    capsys.readouterr()
    run, start = tmp_path / "run", ("--scst_start_epoch", "3", "--scst_num_samples", "3")
    train.main(command(run, *EIGHT_STEPS, *start, model="ort"))
    made = steps_of(run)
    assert ["train/avg_reward" in line for line in made] == [False] * 6 + [True] * 2
    said = [line for line in capsys.readouterr().out.splitlines() if " left  epoch " in line]
    assert [re.findall(r"[\d.e+]+ (\w+)/s", line) for line in said] == [["captions"], ["pictures"]]
    # Until then it is the run without rewards, and its schedule goes on as if nothing had happened.
    assert [line["train/loss"] for line in made[:6]] == [line["train/loss"] for line in alone[:6]]
    assert [line["train/learning_rate"] for line in made] == [line["train/learning_rate"] for line in alone]


def test_tables_that_do_not_fit_and_samples_that_cannot_be_are_named(
    tmp_path: Path, command: Callable[..., list[str]], fails: Fails
) -> None:
    run, other = tmp_path / "run", tmp_path / "other.npz"
    captions = [[["ein", "hund", "rennt"]], [["eine", "katze", "schläft"]]]
    DocumentFrequency.from_captions(captions).save(other)
    (tmp_path / "damaged.p").write_bytes(b"no table")
    for extra, said in (
        (
            ("--cached_tokens", str(other)),
            r"other.npz: knows 0 of \d+ words .*table and vocabulary do not ma",
        ),
        (("--cached_tokens", "/nowhere/words"), "cached_tokens /nowhere/words: no such file"),
        (("--cached_tokens", str(tmp_path / "damaged.p")), "damaged.p"),
        (("--scst_num_samples", "1"), "scst_num_samples 1 leaves scst_baseline sample no other one"),
        (("--scst_cider_weight", "0"), "scst_cider_weight|weigh"),
        (("--scst_sample", "greedy"), "scst_sample"),
    ):
        fails(train.main, command(run, *SHORT, *extra), said)
    assert not list(run.glob("checkpoints/*"))
