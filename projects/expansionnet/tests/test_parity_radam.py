"""The optimiser's weights and its table of factors agree with recorded ones."""

from __future__ import annotations

import pytest
import torch

from expansionnet.learning.radam import RAdam
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("radam")
def test_weights_and_factors_are_those_recorded(folder: Folder) -> None:
    arrays, tolerance = folder.arrays("io*.npz"), folder.tolerance
    cases = folder.json("table*.json")
    assert [case["name"] for case in cases] == folder.facts["cases"]
    for case in cases:
        weights = arrays["p0"].clone().requires_grad_()
        optimizer = RAdam([weights], lr=folder.facts["base_lr"], **case["args"])
        group = optimizer.param_groups[0]
        recorded = arrays[f"p_{case['name']}"]
        for place, row in enumerate(case["table"]):
            group["lr"] = float(arrays["lrs"][place])
            weights.grad = arrays["grads"][place].clone()
            optimizer.step()
            torch.testing.assert_close(
                weights.detach(), recorded[place], rtol=0, atol=tolerance["params_abs"]
            )
            kept = group["buffer"][row[0] % len(group["buffer"])]
            assert kept == pytest.approx(row, rel=0, abs=tolerance["table_abs"])
