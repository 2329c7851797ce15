"""Batch norms measured again: exact over batches of any size, and scales that are kept."""

from __future__ import annotations

import torch
from torch import nn

from channel_prune.choosing.recalibrate import Statistics, by_batch, recalibrate


def test_statistics_are_those_of_all_batches_together() -> None:
    x = torch.randn(30, 5, 4, 3, dtype=torch.float64) * 3 + 2
    seen, norm = Statistics(), nn.BatchNorm2d(5).double()
    for part in x.split([7, 20, 3]):
        seen.add(Statistics.of(part))
    seen.give(norm)
    rows = x.movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(norm.running_mean, rows.mean(0))
    torch.testing.assert_close(norm.running_var, rows.var(0))


@torch.no_grad()
def test_a_scale_that_is_kept_does_what_was_done_before_and_adds_the_mean() -> None:
    norm = nn.BatchNorm2d(4).double().eval()
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    norm.weight.uniform_(-2, 2)
    x, added = torch.randn(50, 4, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    seen = Statistics()
    seen.add(Statistics.of(x))
    before = norm(x)
    mean = norm.bias + norm.weight * added / (norm.running_var + norm.eps).sqrt()
    seen.give(norm, added=added)
    after = norm(x)
    torch.testing.assert_close(after.mean((0, 2, 3)), mean)
    torch.testing.assert_close(
        after - after.mean((0, 2, 3), keepdim=True), before - before.mean((0, 2, 3), keepdim=True)
    )


def test_recalibration_touches_statistics_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    )
    batches = [torch.randn(8, 3, 6, 6), torch.randn(5, 3, 6, 6)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recalibrate(model, batches)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{i}.running_{kind}" for i in (1, 4) for kind in ("mean", "var")}
    assert all(module.training for module in model.modules())
    first = model[0](torch.cat(batches)).movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(model[1].running_var, first.var(0).detach(), rtol=1e-4, atol=1e-5)


def test_by_batch_remembers_nothing() -> None:
    norm = nn.BatchNorm2d(3).eval()
    with by_batch(norm):
        y = norm(torch.randn(9, 3, 4, 4) + 5)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert not norm.training
    assert norm.momentum == 0.1
