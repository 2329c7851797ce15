"""Tokens as rows: which row is which token, in each form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apt_vit.tokens.packed import Rows, rows_of

RAGGED = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
EVEN = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)


def values(keep: Tensor) -> Tensor:
    """Row (B N, 1) of each token: its number."""
    return torch.arange(keep.numel(), dtype=torch.float32)[:, None]


def everything(keep: Tensor) -> Rows:
    return Rows.all(len(keep), keep.shape[1], keep.device)


def test_pictures_of_equal_lengths_are_a_rectangle_in_every_layout() -> None:
    for rows in (
        *(rows_of(EVEN, layout) for layout in ("auto", "packed", "padded")),
        rows_of(EVEN, length=2),
    ):
        assert rows.places.tolist() == [0, 2, 4, 7]
        assert not rows.lengths
        assert rows.valid is None


def test_packed_rows_are_the_kept_tokens() -> None:
    for layout in ("auto", "packed"):
        rows = rows_of(RAGGED, layout)
        assert rows.places.tolist() == [0, 2, 3, 4, 5, 8]
        assert rows.lengths == (3, 2, 1)
    x = everything(RAGGED).take(values(RAGGED), rows.places)
    assert rows.first(x)[:, 0].tolist() == [0, 4, 8]
    assert rows.per_row(torch.tensor([7, 8, 9])).tolist() == [7, 7, 7, 8, 8, 9]
    assert rows.dot(x, torch.tensor([[1.0], [10.0], [100.0]])).tolist() == [0, 2, 3, 40, 50, 800]
    assert rows.spread(x[:, 0]).tolist() == [[0, 0, 2, 3], [4, 5, 0, 0], [8, 0, 0, 0]]


def test_padded_rows_are_as_many_for_each_picture() -> None:
    rows = rows_of(RAGGED, "padded")
    assert rows.valid is not None
    assert rows.valid.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert rows.places[rows.valid.flatten()].tolist() == [0, 2, 3, 4, 5, 8]
    assert len(set(rows.places.tolist())) == 9
    x = everything(RAGGED).take(values(RAGGED), rows.places)
    assert rows.first(x)[:, 0].tolist() == [0, 4, 8]
    assert rows.dot(x, torch.tensor([[1.0], [10.0], [100.0]]))[rows.valid.flatten()].tolist() == [
        *(0, 2, 3, 40, 50, 800)
    ]


def test_rows_of_rows_that_are_gone_are_the_first_one() -> None:
    rows, left = rows_of(RAGGED, "packed"), torch.tensor([5, 6])
    x = everything(RAGGED).take(values(RAGGED), rows.places)
    assert rows.take(x, left)[:, 0].tolist() == [5, 0]


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_attention_is_that_of_each_picture_alone(pictures: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(pictures, tokens, generator=generator) < 0.6
    keep[:, 0] = True
    heads, width = 2, 6
    query, key, value = torch.randn(3, pictures * tokens, width, generator=generator)

    def split(x: Tensor) -> Tensor:
        return x.view(len(x), heads, -1).transpose(0, 1)

    def expected(places: Tensor, asks: Tensor) -> tuple[Tensor, Tensor]:
        scores = split(query[asks]) @ split(key[places]).transpose(1, 2) / (width // heads) ** 0.5
        seen = scores.softmax(-1)
        return (seen @ split(value[places])).transpose(0, 1).flatten(1), seen.mean(0)

    whole = everything(keep)
    for layout in ("packed", "padded"):
        rows = rows_of(keep, layout)
        q, k, v = (whole.take(each, rows.places) for each in (query, key, value))
        all_ask, first_asks = rows.attend(q, k, v, heads), rows.attend(rows.first(q), k, v, heads)
        seen = rows.spread(rows.seen(rows.first(q), k, heads))
        found = torch.zeros(pictures * tokens, width).index_copy(0, rows.places, all_ask)
        for picture, row in enumerate(keep):
            places = row.nonzero()[:, 0] + picture * tokens
            context, probabilities = expected(places, places)
            torch.testing.assert_close(found[places], context, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(first_asks[picture], context[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(seen[picture][row], probabilities[0], atol=1e-5, rtol=1e-5)
            assert not seen[picture][~row].any()


def test_a_length_that_is_known_needs_no_count() -> None:
    with torch.device("meta"):
        rows = rows_of(torch.ones(2, 5, dtype=torch.bool), length=3)
    assert rows.places.shape == (6,)
    with pytest.raises((NotImplementedError, RuntimeError)), torch.device("meta"):
        rows_of(torch.ones(2, 5, dtype=torch.bool))
