"""The best candidates, ties included."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.decode import top_candidates


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 4),
    beams=st.integers(1, 4),
    vocabulary=st.integers(1, 9),
    values=st.integers(1, 6),
    data=st.data(),
)
def test_result_is_that_of_a_stable_full_sort(
    seed: int, images: int, beams: int, vocabulary: int, values: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-values, 1, (images, beams, vocabulary), generator=generator).float()
    scores[scores == -values] = -torch.inf
    count = data.draw(st.integers(1, beams * vocabulary))
    found, index = top_candidates(scores, count)
    expected = scores.flatten(1).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found, expected.values[:, :count])
    assert torch.equal(index, expected.indices[:, :count])


def test_scores_without_ties_need_no_full_sort() -> None:
    scores = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    found, index = top_candidates(scores, 4)
    assert torch.equal(scores.flatten(1).gather(1, index), found)
    assert bool((found.diff(dim=1) < 0).all())
