"""Memory of this process and of a fresh one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from prunelab.bench import Skip, memory
from prunelab.bench.memory import in_fresh_process, peak_above, peak_figure, peak_resident, resident

LARGE = 64 * 2**20


@pytest.mark.skipif(not memory.STATUS.exists(), reason="this system does not tell a process's memory")
def test_the_peak_stays_when_memory_was_given_back() -> None:
    before = resident()
    held = np.ones(LARGE, np.uint8)
    assert resident() - before > 0.9 * LARGE
    del held
    assert peak_resident() - before > 0.9 * LARGE
    assert peak_resident() >= resident()


@pytest.mark.skipif(not memory.STATUS.exists(), reason="this system does not tell a process's memory")
def test_a_fresh_process_has_not_held_what_this_one_has() -> None:
    held = np.ones(4 * LARGE, np.uint8)
    assert in_fresh_process(peak_resident) < peak_resident() - LARGE
    assert len(held) == 4 * LARGE


def test_where_memory_is_not_told_the_row_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", Path("/nowhere/status"))
    with pytest.raises(Skip, match="/nowhere/status"):
        in_fresh_process(peak_resident)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="this system does not tell a process's memory")
def test_a_call_s_peak_is_what_it_needs_beyond_what_was_there() -> None:
    needed = in_fresh_process(peak_above, partial(np.ones, LARGE, np.uint8))
    assert 0.9 * LARGE < needed < 1.2 * LARGE


def test_a_figure_says_both_sides_and_the_goal_in_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak_of(side: str, size: int, threads: int) -> int:
        asked.append((side, size, threads))
        return {"ours": 2, "reference": 3}[side] * size

    monkeypatch.setattr(memory, "in_fresh_process", lambda work, *args: work(*args))
    figure = peak_figure("ones", peak_of, LARGE, most=0.5, note="bytes")
    threads = torch.get_num_threads()
    assert asked == [("ours", LARGE, threads), ("reference", LARGE, threads)]
    assert (figure.ours, figure.reference, figure.unit, figure.at_most) == (128, 192, "MiB", 96)
    assert peak_figure("ones", peak_of, LARGE, note="bytes").at_most is None
