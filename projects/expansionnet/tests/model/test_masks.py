"""Masks: as small as broadcasting allows, and none where nothing is padded."""

from __future__ import annotations

import torch

from expansionnet.model.masks import causal_mask, pad_mask, visible


def test_no_pads_make_no_mask() -> None:
    assert pad_mask(2, 3) is None
    assert causal_mask(3).shape == (1, 3, 3)


def test_pads_of_one_side_make_a_mask_that_broadcasts() -> None:
    columns = pad_mask(2, 3, column_pads=torch.tensor([1, 0]))
    rows = pad_mask(2, 3, row_pads=torch.tensor([1, 0]))
    assert columns is not None
    assert rows is not None
    assert columns.tolist() == [[[True, True, False]], [[True, True, True]]]
    assert rows.tolist() == [[[True], [False]], [[True], [True]]]


def test_causal_mask_hides_rows_and_columns_of_padded_words() -> None:
    mask = causal_mask(3, torch.tensor([1]))
    assert mask.int().tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 0]]]


def test_everything_may_be_padded() -> None:
    assert not visible(2, torch.tensor([2, 3])).any()
