"""Masks against the original's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expansionnet.model.masks import causal_mask, pad_mask
from testing.parity import Folder, of_kind


def assert_same(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    assert torch.equal(found.expand(expected.shape), expected.bool())


@pytest.mark.parity
@of_kind("masks")
def test_pad_masks_are_the_originals(folder: Folder) -> None:
    recorded = folder.arrays("masks.npz")
    for i, case in enumerate(folder.json("cases.json")["pad"]):
        _, rows, columns = case["size"]
        pads = torch.tensor(case["pad_row"]), torch.tensor(case["pad_column"])
        assert_same(pad_mask(rows, columns, *pads), recorded[f"pad_{i}"])


@pytest.mark.parity
@of_kind("masks")
def test_causal_masks_are_the_originals(folder: Folder) -> None:
    recorded = folder.arrays("masks.npz")
    for i, case in enumerate(folder.json("cases.json")["causal"]):
        assert_same(causal_mask(case["size"][1], torch.tensor(case["num_pads"])), recorded[f"causal_{i}"])
