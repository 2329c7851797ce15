"""The loss and its gradient agree with recorded ones."""

from __future__ import annotations

import pytest
import torch

from expansionnet.learning.loss import smoothed_cross_entropy
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("loss_label_smoothing")
def test_losses_and_gradients_are_those_recorded(folder: Folder) -> None:
    expected, arrays, tolerance = folder.json("expected*.json"), folder.arrays("io*.npz"), folder.tolerance
    pad = folder.facts["pad"]
    for case in folder.facts["cases"]:
        for overwrite in (False, True):
            logits = arrays["logits"].clone().requires_grad_()
            loss, total = (
                smoothed_cross_entropy(
                    logits.clone(),
                    arrays["targets"],
                    pad=pad,
                    smoothing=case["smoothing"],
                    mean=mean,
                    overwrite=overwrite,
                )
                for mean in (True, False)
            )
            loss.backward()
            found = expected[case["expected_key"]]
            assert float(loss.detach()) == pytest.approx(found["loss"], rel=tolerance["loss_rel"])
            assert float(total.detach()) == pytest.approx(found["loss_sum"], rel=tolerance["loss_rel"])
            torch.testing.assert_close(
                logits.grad, arrays[case["grad_key"]], rtol=0, atol=tolerance["grad_abs"]
            )
