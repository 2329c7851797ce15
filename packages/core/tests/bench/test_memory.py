"""Memory of this process and of a fresh one."""

from __future__ import annotations

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


def held(side: str, size: int, threads: int) -> int:
    assert torch.get_num_threads() >= threads  # of a figure's side nothing else is asked
    return peak_above(lambda: len(np.ones(size * (1 if side == "ours" else 3), np.uint8)))


@pytest.mark.skipif(not memory.STATUS.exists(), reason="this system does not tell a process's memory")
def test_both_sides_of_a_figure_are_measured_in_processes_of_their_own() -> None:
    figure = peak_figure("ones", held, LARGE, most=0.5, note="bytes")
    assert 0.9 * 64 < figure.ours < 1.2 * 64
    assert figure.reference is not None
    assert 0.9 * 192 < figure.reference < 1.2 * 192
    assert (figure.unit, figure.at_most) == ("MiB", 0.5 * figure.reference)
    assert peak_figure("ones", held, LARGE, note="bytes").at_most is None
