"""Position embeddings on another grid: where the original's edge is lost, and grids that are no squares."""

from __future__ import annotations

import pytest
import torch

from apt_vit.files.positions import loses_edge, resize, square_side
from prunelab.errors import UserError


def table(side: int, width: int = 2) -> torch.Tensor:
    """Values that are the row and the column of a patch."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid = torch.stack([rows, columns], dim=-1).reshape(1, -1, 2).float()
    return torch.cat([torch.full((1, 1, width), -7.0), grid], dim=1)


def test_the_edge_is_lost_where_scipys_zoom_loses_it() -> None:
    lost = [(16, 30), (16, 59), (24, 22), (24, 42), (24, 43), (32, 16), (32, 31), (32, 60), (32, 61)]
    assert all(loses_edge(*pair) for pair in lost)
    assert not any(loses_edge(old, new) for old in (7, 12, 14) for new in range(2, 65))
    assert not loses_edge(5, 1)
    assert not loses_edge(1, 5)


def test_both_sides_of_a_square_are_resized_apart() -> None:
    found = resize(table(5), (3, 9), where="file")

    grid = found.table[0, 1:].reshape(3, 9, 2)
    assert found.table[0, 0].tolist() == [-7, -7]
    assert grid[:, 0, 0].tolist() == [0, 2, 4]
    assert grid[0, :, 1].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert found.printed == ("load_pretrained: grid-size from 5 to 3 x 9",)
    assert found.logged == (
        "load_pretrained: resized variant: torch.Size([1, 26, 2]) to torch.Size([1, 28, 2])",
    )


def test_a_grid_of_as_many_patches_in_other_proportions_is_resized() -> None:
    found = resize(table(4), (2, 8), where="file").table[0, 1:].reshape(2, 8, 2)
    assert found[:, 0, 0].tolist() == [0, 3]


def test_an_equal_grid_is_taken_as_it_is() -> None:
    mine = table(4)
    found = resize(mine, (4, 4), where="file", edge_zeros=True)
    assert found.table is mine
    assert found.printed == found.logged == ()
    oblong = torch.randn(1, 7, 2)
    assert resize(oblong, (2, 3), where="file").table is oblong


def test_the_originals_way_has_zeros_at_the_edge_and_no_oblong_grids() -> None:
    found = resize(table(24), (22, 22), where="file", edge_zeros=True).table[0, 1:].reshape(22, 22, 2)
    assert found[-1].abs().sum() == found[:, -1].abs().sum() == 0
    assert found[-2, -2, 0] > 20
    with pytest.raises(UserError, match=r"file: position embeddings of 17 rows for 2 x 8 patches"):
        resize(table(4), (2, 8), where="file", edge_zeros=True)
    with pytest.raises(UserError, match="expected squares on both sides"):
        resize(torch.randn(1, 7, 2), (3, 3), where="file", edge_zeros=True)


def test_a_table_of_no_square_cannot_be_resized() -> None:
    with pytest.raises(UserError, match="file: position embeddings of 7 rows, expected 10, or one more"):
        resize(torch.randn(1, 7, 2), (3, 3), where="file")
    assert [square_side(rows) for rows in (0, 1, 2, 5, 6, 197)] == [None, None, 1, 2, None, 14]
