"""The distillation loss against recorded ones."""

from __future__ import annotations

import pytest
import torch

from channel_prune.config import DistillConfig
from channel_prune.distill import distillation_loss
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("distillation")
def test_losses_and_gradients_agree(folder: Folder) -> None:
    cfg = DistillConfig(
        enbl_dst=True, loss_w_dst=folder.facts["loss_w_dst"], tempr_dst=folder.facts["tempr_dst"]
    )
    cases = folder.json("cases.json")
    assert cases
    for case in cases:
        student = torch.tensor(case["student"], dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor(case["teacher"], dtype=torch.float64, requires_grad=True)
        loss = distillation_loss(student, teacher, cfg)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(case["loss"], rel=folder.tolerance["loss_rel"])
        expected = torch.tensor(case["grad_student"], dtype=torch.float64)
        off = (gradient - expected).abs().max() / expected.abs().max()
        assert off <= folder.tolerance["grad_rel_to_max"]
