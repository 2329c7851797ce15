"""Every family, dense and pruned, in mixed precision and compiled: by cross entropy, then by reward."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from smp_caption import train

pytestmark = pytest.mark.tiny

FAMILIES = ("up_down", "transformer", "ort", "acort")
REWARDED = (
    "--max_epochs",
    "2",
    "--scst_start_epoch",
    "1",
    "--scst_num_samples",
    "2",
    "--losses_log_every",
    "1",
)
CLOSE = {False: 0.01, True: 0.1}
"""Most that the first loss may differ, dense and pruned: a compiler draws other masks than torch does."""


def without_dropout(family: str) -> tuple[str, ...]:
    layers = ("--drop_prob_src", "0", "--drop-prob-layer", "0")
    return ("--drop_prob_lm", "0") if family == "up_down" else layers


def losses(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


# Between two of its graphs torch's compiler looks for gradients where there are none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "words"),
    [("bf16", ("--amp", "bf16")), pytest.param("compiled", ("--compile",), marks=pytest.mark.slow)],
)
def test_losses_begin_as_they_do_plainly_and_stay_finite(
    kind: str,
    words: tuple[str, ...],
    family: str,
    pruned: bool,
    tmp_path: Path,
    command: Callable[..., list[str]],
) -> None:
    name = "train/caption_loss" if pruned else "train/loss"
    for run, more in (("plain", ()), (kind, words)):
        extra = (*REWARDED, *without_dropout(family), *more)
        train.main(command(tmp_path / run, *extra, model=family, pruned=pruned))
    plain, found = losses(tmp_path / "plain", name), losses(tmp_path / kind, name)
    assert len(found) == len(plain) == 6
    assert all(map(math.isfinite, found))
    assert found[0] == pytest.approx(plain[0], rel=CLOSE[pruned])
