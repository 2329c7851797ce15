"""The benchmark's rows of self-critical training at toy sizes: both sides agree and are timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from prunelab.bench import Result
from prunelab.bench import memory as bench_memory
from smp_caption.benches import scst as bench_scst
from smp_caption.benches.scst import ScstSize, memory, peak_of, rewards, share, step

from ..networks import SMALL

MODEL = replace(SMALL, vocab_size=31, max_seq_length=18, fc_feat_size=SMALL.att_feat_size)
SIZE = ScstSize(model=MODEL, images=2, samples=3, regions=4, pictures=6)
ORT = replace(SIZE, model=replace(MODEL, caption_model="relation_transformer"))


def test_a_step_costs_the_same_on_all_sides() -> None:
    row = step(ORT)
    sides = [row.ours, row.reference, *row.extra]
    assert [side.name for side in sides] == ["ours", "reference", "ours, gradients through samples"]
    assert row.work == 6
    assert "relation_transformer" in row.name
    assert "2 images x 3 samples" in row.note


def test_rewards_are_equal_and_timed() -> None:
    assert len(rewards(SIZE).ours.seconds) == 5


def test_other_rewards_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_scst, "cider_d", lambda *_: 3.0)
    with pytest.raises(AssertionError, match="rewards of a batch, strings included: the result of ours"):
        rewards(SIZE)
    with pytest.raises(AssertionError, match="self-critical step, up_down_lstm: the result of ours"):
        step(SIZE)


def test_the_share_of_rewards_is_told_in_per_cent_with_its_goal() -> None:
    figure = share(SIZE)
    assert figure.ours > 0
    assert figure.goals()[0][0] == "<= 0.5"


def test_memory_is_that_of_a_fresh_process_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def in_fresh_process(work: Callable[..., int], side: str, *rest: object) -> int:
        asked.append(side)
        assert work is peak_of
        assert peak_of(side, SIZE, 1) >= 0
        return {"ours": 2, "reference": 3}[side] * bench_memory.MEBI

    monkeypatch.setattr(bench_memory, "in_fresh_process", in_fresh_process)
    figure = memory(SIZE)
    assert asked == ["ours", "reference"]
    assert (figure.ours, figure.reference) == (2, 3)


def test_rows_have_names_that_the_command_lists() -> None:
    rows: dict[str, Callable[[], Result | list[Result]]] = bench_scst.ROWS
    assert all(name.startswith("scst-") for name in rows)
