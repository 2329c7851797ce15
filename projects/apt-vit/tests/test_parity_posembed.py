"""Resized position embeddings against the recorded ones."""

from __future__ import annotations

import pytest
import torch

from apt_vit.files.positions import loses_edge, resize
from testing.parity import Folder, of_kind

CLOSE = 1e-6  # the README finds 3e-8, and allows 1e-5


@pytest.mark.parity
@of_kind("posembed")
def test_tables_and_lines_are_the_recorded_ones(folder: Folder) -> None:
    arrays = folder.arrays("data.npz")
    for case in folder.json("cases.json"):
        number, old, new = case["case"], case["grid_old"], case["grid_new"]
        table, wanted = arrays[f"{number}_in"], arrays[f"{number}_out"]
        assert loses_edge(old, new) == case["edge_bug"]

        found = resize(table, (new, new), where="data.npz", edge_zeros=True)

        torch.testing.assert_close(found.table, wanted, atol=CLOSE, rtol=0)
        assert "".join(f"{line}\n" for line in found.printed) == case["printed"]
        fixed = resize(table, (new, new), where="data.npz").table
        if case["edge_bug"]:
            inner = wanted[:, 1:].reshape(new, new, -1)[:-1, :-1]
            assert not torch.equal(fixed, found.table)
            grid = fixed[:, 1:].reshape(new, new, -1)
            torch.testing.assert_close(grid[:-1, :-1], inner, atol=CLOSE, rtol=0)
            torch.testing.assert_close(grid[-1, -1], table[0, -1])
        else:
            assert torch.equal(fixed, found.table)
