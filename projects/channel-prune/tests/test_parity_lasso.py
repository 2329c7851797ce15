"""Selection and reconstruction agree with the recorded problems: every case that a folder lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from channel_prune.choosing import lasso
from channel_prune.choosing.gram import Gram
from channel_prune.choosing.regression import adam, ridge
from testing.parity import Folder, of_kind


def problems(folder: Folder) -> list[tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]]:
    arrays, listed = folder.numpy("problems.npz"), folder.json("problems.json")
    assert listed
    return [
        (facts, arrays[f"A_{i}"], arrays[f"b_{i}"].ravel(), arrays[f"m0_{i}"].ravel())
        for i, facts in enumerate(listed)
    ]


@pytest.mark.parity
@of_kind("lasso")
def test_unfinished_steps_end_where_the_recorded_ones_do(folder: Folder) -> None:
    arrays, facts = folder.numpy("problems.npz"), folder.facts
    for i, (problem, a, b, start) in enumerate(problems(folder)):
        for j, gamma in enumerate(problem["gammas"]):
            rate, steps = facts["ista_lrn_rate"], facts["ista_nb_iters"]
            found = lasso.ista(a, b, start, gamma, rate=rate, steps=steps)
            expected = arrays[f"ista_{i}_{j}"].ravel()
            np.testing.assert_allclose(found, expected, rtol=0, atol=folder.tolerance["ista_abs"])
            assert np.count_nonzero(found) == problem["nnz_ista"][j]


@pytest.mark.parity
@of_kind("lasso")
def test_the_path_passes_through_the_recorded_minimisers(folder: Folder) -> None:
    arrays = folder.numpy("problems.npz")
    for i, (problem, a, b, _) in enumerate(problems(folder)):
        for j, gamma in enumerate(problem["gammas"]):
            found = lasso.minimiser(a, b, gamma)
            expected = arrays[f"conv_{i}_{j}"].ravel()
            np.testing.assert_allclose(found, expected, rtol=0, atol=folder.tolerance["conv_abs"])
            assert np.count_nonzero(found) == problem["nnz_conv"][j]


@pytest.mark.parity
@of_kind("lasso")
def test_the_search_tries_the_recorded_penalties(folder: Folder) -> None:
    facts = folder.facts
    assert facts["search_ub0"] == lasso.FIRST_GAMMA
    assert facts["search_tol"] == lasso.GAMMA_TOLERANCE
    for problem, a, b, start in problems(folder):
        for expected in problem["search"]:
            wanted = lasso.target(problem["ci"], expected["ratio"], least=0)
            assert wanted == expected["target"]
            rate, steps = facts["ista_lrn_rate"], facts["ista_nb_iters"]

            def solve(gamma: float, a=a, b=b, start=start, rate=rate, steps=steps) -> np.ndarray:
                return lasso.ista(a, b, start, gamma, rate=rate, steps=steps)

            found = lasso.search(solve, wanted)
            assert [list(one) for one in found.trace] == expected["trace"]
            assert found.gamma == expected["gamma"]
            assert found.kept == expected["kept"]
            assert len(found.kept) == expected["nnz"]


@pytest.mark.parity
@of_kind("lasso")
def test_both_reconstructions_end_at_the_recorded_kernels(folder: Folder) -> None:
    facts, tolerance = folder.facts, folder.tolerance
    arrays, losses = folder.arrays("lstsq.npz"), folder.json("lstsq.json")
    x, y, start = (arrays[name] for name in ("X", "Y", "W0"))
    gram = Gram(1, x.shape[1], y.shape[1])
    gram.add(x, y)
    everything = list(range(x.shape[1]))
    assert gram.loss(start.double()) == pytest.approx(losses["loss_start"], rel=tolerance["loss_rel"])
    most = max(facts["lstsq_nb_iters"])
    for steps in facts["lstsq_nb_iters"]:
        rate, decay = facts["lstsq_lrn_rate"], facts["loss_w_dcy"]
        found = adam(gram, start, everything, rate=rate, steps=steps, decay=decay)
        expected = arrays["W_adam" if steps == most else f"W_adam_{steps}"].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance["adam_abs"])
        assert gram.loss(found) == pytest.approx(losses[f"loss_adam{steps}"], rel=tolerance["loss_rel"])
    found = ridge(gram, everything, decay=facts["loss_w_dcy"])
    expected = arrays["W_ridge"].double()
    torch.testing.assert_close(found, expected, rtol=tolerance["ridge_rel"], atol=tolerance["ridge_rel"])
    assert gram.loss(found) == pytest.approx(losses["loss_ridge"], rel=tolerance["loss_rel"])
