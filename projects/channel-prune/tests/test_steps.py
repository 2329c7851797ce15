"""One step: TensorFlow's momentum, decay by groups, masks after the mean over processes, distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune import steps
from channel_prune.choosing.masks import Masks
from channel_prune.choosing.prunable import prunable
from channel_prune.config import DistillConfig, OptimConfig
from channel_prune.distill import distillation_loss
from prunelab.errors import UserError

OPTIM = OptimConfig(lrn_rate_init=0.1, momentum=0.9, loss_w_dcy=0.01)


def network(zeroed: tuple[int, ...] = ()) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).double()
    with torch.no_grad():
        net[3].weight[:, list(zeroed)] = 0
    return net.train()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (6,), generator=generator),
        )
        for _ in range(count)
    ]


def test_steps_are_those_of_tensorflows_momentum_with_decay_in_the_gradient() -> None:
    net, mirror = network(), network()
    optimizer = steps.make_optimizer(net, OPTIM)
    slots = {name: torch.zeros_like(p) for name, p in mirror.named_parameters()}
    for x, y in batches(4):
        steps.set_rate(optimizer, 0.05)
        said = steps.classify_step(net, optimizer, x, y)
        decayed = {name: p for name, p in mirror.named_parameters() if not name.startswith("1.")}
        loss = F.cross_entropy(mirror(x), y)
        loss = loss + OPTIM.loss_w_dcy / 2 * torch.stack([p.square().sum() for p in decayed.values()]).sum()
        assert float(said["loss"]) == pytest.approx(float(loss.detach()), rel=1e-12)
        gradients = torch.autograd.grad(loss, list(mirror.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(mirror.named_parameters(), gradients, strict=True):
                slots[name].mul_(OPTIM.momentum).add_(g)
                p.sub_(0.05 * slots[name])
    for ours, theirs in zip(net.parameters(), mirror.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_channels_without_weights_stay_exactly_zero_and_all_else_learns() -> None:
    net = network(zeroed=(1, 3))
    masks = Masks.from_zeros(prunable(net, torch.zeros(1, 3, 8, 8, dtype=torch.float64)))
    optimizer = steps.make_optimizer(net, OPTIM)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for x, y in batches(3):
        steps.classify_step(net, optimizer, x, y, masks=masks)
    assert not net[3].weight[:, [1, 3]].any()
    assert all((p != before[name]).any() for name, p in net.named_parameters())
    free = network(zeroed=(1, 3))
    steps.classify_step(free, steps.make_optimizer(free, OPTIM), *batches(1)[0])
    assert free[3].weight[:, [1, 3]].all()


def test_a_teacher_adds_its_term_to_the_loss() -> None:
    cfg = DistillConfig(enbl_dst=True, loss_w_dst=2.0, tempr_dst=3.0)
    x, y = batches(1)[0]
    net, teacher = network(), network().eval()
    plain = steps.classify_step(network(), steps.make_optimizer(network(), OPTIM), x, y)
    s = network()(x)

    def term(x: Tensor, s: Tensor) -> Tensor:
        return distillation_loss(s, teacher(x), cfg)

    taught = steps.classify_step(net, steps.make_optimizer(net, OPTIM), x, y, distillation=term)
    softened = F.softmax(teacher(x) / 3, dim=1)
    expected = -2 * (softened * F.log_softmax(s / 3, dim=1)).sum(dim=1).mean()
    assert float(taught["loss"] - plain["loss"]) == pytest.approx(float(expected.detach()), rel=1e-10)


def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    net = network()
    optimizer = steps.make_optimizer(net, OPTIM)
    before = [p.detach().clone() for p in net.parameters()]
    x, y = batches(1)[0]
    x[0, 0, 0, 0] = torch.inf
    with pytest.raises(UserError, match=r"gradient is nan in \d+ of 7 parameters"):
        steps.classify_step(net, optimizer, x, y)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_figures_depend_on_the_number_of_classes() -> None:
    assert steps.tops(10) == {"accuracy": 1}
    assert steps.tops(1001) == {"acc_top1": 1, "acc_top5": 5}
    s = torch.zeros(3, 100)
    s[:, :6] = torch.arange(6.0).flip(0)  # classes 0, 1, 2, ... are the most likely ones
    right = steps.right_answers(s, torch.tensor([0, 4, 5]))
    assert {name: int(count) for name, count in right.items()} == {"acc_top1": 1, "acc_top5": 2}


def test_decay_counts_what_the_configuration_says() -> None:
    net = network()
    kernels = sum(float(net[i].weight.detach().square().sum()) for i in (0, 3, 6))
    biases = sum(float(net[i].bias.detach().square().sum()) for i in (3, 6))
    norm = float(net[1].weight.detach().square().sum())
    found = float(steps.decay(steps.make_optimizer(net, OPTIM)))
    assert found == pytest.approx(0.005 * (kernels + biases))
    every = OptimConfig(loss_w_dcy=0.01, decay_norms=True)
    assert float(steps.decay(steps.make_optimizer(net, every))) == pytest.approx(
        0.005 * (kernels + biases + norm)
    )
    none = OptimConfig(loss_w_dcy=0.0)
    assert float(steps.decay(steps.make_optimizer(net, none))) == 0
