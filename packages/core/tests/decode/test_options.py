"""Options, length penalties, states."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from prunelab.decode import DecodeOptions, LengthPenalty, State
from prunelab.errors import UserError


@pytest.mark.parametrize(
    ("text", "length", "divisor"),
    [
        ("", 9, 1.0),
        ("wu_1", 7, 2.0),
        ("wu_0", 7, 1.0),
        ("wu_0.5", 19, 2.0),
        ("avg_0", 7, 7.0),
        ("avg_3", 7, 7.0),
    ],
)
def test_length_penalties_divide_by_the_published_numbers(text: str, length: int, divisor: float) -> None:
    assert LengthPenalty.parse(text).divisor(length) == pytest.approx(divisor)


@pytest.mark.parametrize("text", ["wu", "avg", "wu_", "wu_x", "mean_1", "wu_nan", "wu_inf"])
def test_other_length_penalties_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"length_penalty '{text}' is unknown: expected"):
        LengthPenalty.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 0}, "max_length 0"),
        ({"beam_size": 0}, "beam_size 0"),
        ({"num_samples": -1}, "num_samples -1"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"ranking": "product"}, "ranking 'product'"),
        ({"group_size": 0}, "group_size 0"),
        ({"beam_size": 4, "group_size": 3}, "group_size 3 does not divide beam_size 4"),
        ({"diversity_lambda": float("inf")}, "diversity_lambda inf"),
        ({"length_penalty": "long"}, "length_penalty 'long'"),
        ({"ranking": "mean", "length_penalty": "avg_0"}, "ranking 'mean'"),
        ({"ranking": "mean", "beam_size": 4, "group_size": 2}, "ranking 'mean'"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        DecodeOptions(**changes)
    assert "expected" in str(caught.value)


def test_samples_need_no_beam() -> None:
    assert DecodeOptions(beam_size=0, num_samples=5).num_samples == 5


class Pair(NamedTuple):
    a: torch.Tensor
    b: int


def test_states_keep_their_shape_and_their_other_leaves() -> None:
    weights = object()
    state = State(
        per_image={"x": torch.arange(3), "weights": weights},
        per_beam=(Pair(torch.arange(6).view(3, 2), 7), [None, torch.tensor([1.0, 2.0, 3.0])]),
    )
    assert state.size == (3, torch.device("cpu"))
    assert state.expand(1) is state
    wide = state.expand(2)
    assert wide.per_beam[0].a.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]]
    assert wide.per_beam[0].b == 7
    assert wide.per_beam[1][0] is None
    assert wide.per_image["x"] is state.per_image["x"]
    fewer = state.select_images(torch.tensor([2, 0])).select_rows(torch.tensor([1]))
    assert fewer.per_image["x"].tolist() == [2, 0]
    assert fewer.per_image["weights"] is weights
    assert fewer.per_beam[1][1].tolist() == [2.0]


def test_state_without_tensors_is_refused() -> None:
    with pytest.raises(UserError, match="expected at least one"):
        _ = State(per_image={"n": 3}).size


def test_state_may_have_its_tensors_per_beam_alone() -> None:
    assert State(per_beam=[torch.zeros(4, 2)]).size[0] == 4
