"""The rows of compact networks, at a tenth of their size."""

from __future__ import annotations

import pytest

from acosp_seg.benches import compact as bench_compact
from prunelab.bench import Figure, Row


def test_a_compact_network_is_held_against_masked_and_dense_ones() -> None:
    row, figure = bench_compact.prediction("segnet", 3, (40, 48), 1.0, width=16)
    assert isinstance(row, Row)
    assert [side.name for side in row.extra] == ["masked"]
    assert isinstance(figure, Figure)
    assert figure.reference is not None
    assert figure.ours < figure.reference / 2


def test_a_network_that_computes_other_things_stops_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_compact, "CLOSE", -1.0)
    with pytest.raises(AssertionError, match="compact and masked network differ"):
        bench_compact.prediction("segnet", 3, (40, 48), 1.0, width=16)


@pytest.mark.parametrize("arch", ["segnet", "psp"])
def test_a_slim_step_has_the_loss_of_a_masked_one(arch: str) -> None:
    row = bench_compact.slim_step(arch, 3, (33, 41), width=16)
    assert isinstance(row, Row)
    assert [side.name for side in row.extra] == ["dense"]


def test_parameters_fall_faster_than_the_ratio_in_a_chain() -> None:
    figures = [f for f in bench_compact.parameters("segnet", 3, (2, 4), width=32) if isinstance(f, Figure)]
    half, quarter = (f.reference / f.ours for f in figures if f.reference is not None)
    assert half > 3
    assert quarter > 3 * half / 2
