"""Evaluation mode for a while."""

from __future__ import annotations

import pytest
from torch import nn

from prunelab.modes import evaluating


def test_every_part_gets_its_mode_back_also_after_an_error() -> None:
    one, other = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())), nn.Dropout()
    one[1].eval()
    parts = [*one.modules(), other]
    before = [part.training for part in parts]
    assert True in before
    assert False in before

    def fail() -> None:
        with evaluating(one, other):
            raise KeyError([part for part in parts if part.training])

    with pytest.raises(KeyError, match=r"\[\]"):
        fail()
    assert [part.training for part in parts] == before
