"""The exact path: optimal at every knot, for dependent and dead channels too; targets; the search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channel_prune.choosing import lasso


def problem(channels: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    z = random.normal(size=(rows, channels)) + random.normal(size=(rows, 1))
    y = z @ random.normal(size=channels) + random.normal(size=rows)
    a, b, norm = lasso.scaled(z.T @ z, z.T @ y)
    assert norm > 0
    return a, b


def violation(a: np.ndarray, b: np.ndarray, gamma: float, m: np.ndarray) -> float:
    """By how much the conditions of optimality are missed."""
    slope = b - a @ m
    inside = np.abs(m) > 1e-12
    outside = max(0.0, float(np.abs(slope).max()) - gamma)
    return max(outside, float(np.abs(slope - gamma * np.sign(m))[inside].max(initial=0.0)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(2, 40), st.integers(0, 10_000))
@example(20, 20, 20)  # channels that explain one another but for 2e-9
def test_every_knot_of_the_path_is_optimal(channels: int, rows: int, seed: int) -> None:
    a, b = problem(channels, rows, seed)
    gammas = []
    for knot in lasso.path(a, b):
        m = np.zeros(channels)
        m[knot.support] = knot.values
        assert violation(a, b, knot.gamma, m) < 1e-9
        gammas.append(knot.gamma)
    assert gammas == sorted(gammas, reverse=True)
    assert gammas[-1] == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10_000), st.floats(0.01, 1.2))
def test_the_minimiser_between_knots_is_optimal(channels: int, seed: int, share: float) -> None:
    a, b = problem(channels, 3 * channels, seed)
    gamma = share * float(np.abs(b).max())
    assert violation(a, b, gamma, lasso.minimiser(a, b, gamma)) < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10_000), st.data())
def test_exactly_the_wanted_number_stays(channels: int, seed: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, channels))
    a, b = problem(channels, 2 * channels + 1, seed)
    found = lasso.exact(a, b, wanted)
    assert len(set(found.kept)) == wanted
    assert found.kept == sorted(found.kept) == lasso.exact(a, b, wanted).kept


def test_equal_channels_come_in_order_and_dead_ones_last() -> None:
    z = np.eye(4)[:, [0, 0, 1, 2]]
    z[:, 3] = 0
    y = np.array([2.0, 1.0, 0.0, 0.0])
    a, b, _ = lasso.scaled(z.T @ z, z.T @ y)
    assert [lasso.exact(a, b, wanted).kept for wanted in (1, 2, 3)] == [[0], [0, 2], [0, 1, 2]]
    assert lasso.exact(a, b, 4).kept == [0, 1, 2, 3]


def test_a_problem_of_zeros_is_no_problem() -> None:
    a, b, norm = lasso.scaled(np.zeros((3, 3)), np.zeros(3))
    assert norm == 0
    assert lasso.exact(a, b, 2).kept == [0, 1]
    assert not lasso.minimiser(a, b, 0.1).any()


@pytest.mark.parametrize(
    ("channels", "ratio", "options", "expected"),
    [
        (64, 0.2, {}, 51),
        (64, 0.7, {}, 19),
        (512, 0.3, {}, 358),
        (3, 0.9, {}, 1),
        (3, 0.9, {"least": 0}, 0),
        (64, 0.7, {"round_to": 8}, 24),
        (12, 0.1, {"round_to": 8}, 12),
        (5, 0.9, {"least": 9}, 5),
    ],
)
def test_targets_are_cut_off_then_rounded_up(
    channels: int, ratio: float, options: dict[str, int], expected: int
) -> None:
    assert lasso.target(channels, ratio, **options) == expected


def test_a_search_that_cannot_hit_its_target_ends_with_what_it_tried_last() -> None:
    found = lasso.search(lambda gamma: np.ones(4) if gamma < 0.05 else np.zeros(4), 2)
    assert found.kept in ([], [0, 1, 2, 3])
    assert len(found.trace) < 40
