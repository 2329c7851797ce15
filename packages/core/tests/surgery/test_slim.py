"""Training in a slim network and in the masked one: the same losses, weights and statistics, step by step."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.optim import carry_state
from prunelab.surgery.partial import Partial
from prunelab.surgery.slim import cut_of, slim, slim_layers, slim_structure, whole_state

from .nets import Attending, Mask, Mixed, Residual, Unpooling, trained

NETS: list[Callable[[], nn.Module]] = [Residual, Mixed, Attending, Unpooling]
STEPS = 4


def kept_of(model: nn.Module) -> dict[str, list[int]]:
    """What the masks behind convolutions of one group keep."""
    modules = dict(model.named_modules())
    return {
        f"{path}.0": unit[1].mask.nonzero().flatten().tolist()
        for path, unit in modules.items()
        if isinstance(unit, nn.Sequential)
        and len(unit) > 1
        and isinstance(unit[1], Mask)
        and unit[0].groups == 1
    }


def slimmed(model: nn.Module) -> nn.Module:
    """A slim copy; the masks of what was cut are gone."""
    model = copy.deepcopy(model)
    kept = kept_of(model)
    for path in kept:
        model.get_submodule(path.removesuffix(".0"))[1] = nn.Identity()
    return slim(model, kept)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    model.train()
    for step in steps:
        torch.manual_seed(step)  # of the picture and of what dropout drops
        x = torch.randn(3, 3, 14, 17).double()
        loss = sum(leaf.sin().square().mean() for leaf in tree_leaves(model(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("net", NETS)
def test_slim_training_is_masked_training(net: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = trained(net()).double()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(2))  # so that there is momentum
    small = slimmed(model)
    again = optimizer_of(small)
    carried = carry_state(
        optimizer, again, dict(model.named_parameters()), dict(small.named_parameters()), cut_of(small)
    )
    assert set(carried) == set(dict(small.named_parameters()))

    expected = train(model, optimizer, range(2, 2 + STEPS))
    found = train(small, again, range(2, 2 + STEPS))

    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    cut = cut_of(small)
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, cut(name, model.state_dict()[name]), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        x = torch.randn(2, 3, 15, 12).double()
        pairs = zip(tree_leaves(small.eval()(x)), tree_leaves(model.eval()(x)), strict=True)
        assert all((a - b).abs().max() <= 1e-10 for a, b in pairs)
        model.load_state_dict(whole_state(small), strict=False)
        assert all(
            (a - b).abs().max() <= 1e-10
            for a, b in zip(tree_leaves(model(x)), tree_leaves(small(x)), strict=True)
        )


def test_a_slim_network_may_be_evaluated_before_it_is_trained() -> None:
    torch.manual_seed(0)
    small = slimmed(trained(Unpooling()))
    with torch.inference_mode():
        small.eval()(torch.randn(1, 3, 16, 16))
    loss = small.train()(torch.randn(2, 3, 16, 16))[0].sum()
    loss.backward()
    assert all(p.grad is not None for p in small.d1.parameters())


def test_a_slim_network_is_built_again_from_plain_data() -> None:
    torch.manual_seed(0)
    model = trained(Residual())
    small = slimmed(model)
    text = json.dumps(slim_structure(small))

    again = copy.deepcopy(model)
    for path in json.loads(text):
        again.get_submodule(path.removesuffix(".0"))[1] = nn.Identity()
    slim(again, json.loads(text))
    again.load_state_dict(small.state_dict(), strict=True)

    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert "of 12" in repr(again)
    assert len(slim_layers(again)) == 5


class Doubling(nn.BatchNorm2d):
    """A batch norm with a way of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + input)


def test_a_batch_norm_with_its_own_way_sees_the_computed_channels_alone() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), Mask(8, 3), Doubling(8), nn.ReLU(), nn.Conv2d(8, 2, 3)]
    model = nn.ModuleList([nn.Sequential(*layers)]).double()[0]
    small = slimmed(nn.ModuleList([model]))[0]  # type: ignore[index]
    optimizers = optimizer_of(model), optimizer_of(small)

    losses = [train(m, o, range(3)) for m, o in zip((model, small), optimizers, strict=True)]

    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(model[2], name), getattr(small[2], name))


def test_what_a_partial_tensor_does_not_know_is_done_with_the_whole_one() -> None:
    part = Partial(torch.randn(2, 2, 4, 4), Partial.of(torch.zeros(1, 2), 5, (1, 3)).layout, torch.randn(3))
    whole = part.dense()

    assert part.shape == part.size() == whole.shape
    assert part.size(1) == 5
    assert torch.equal(torch.fft.fft2(part), torch.fft.fft2(whole))  # type: ignore[arg-type]
    assert torch.equal(part.mean((2, 3)), whole.mean((2, 3)))
    assert torch.equal(torch.cat([part, whole], 1), torch.cat([whole, whole], 1))
    assert torch.equal(part + 1, whole + 1)
    assert torch.equal(F.pad(part, (1, 1)), F.pad(whole, (1, 1)))  # type: ignore[arg-type]
    wide = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(
        F.conv2d(F.dropout2d(part, 0.0, True), wide, padding=1),  # type: ignore[arg-type]
        F.conv2d(whole, wide, padding=1),
    )


def test_numbers_that_differ_within_the_batch_meet_others() -> None:
    layout = Partial.of(torch.zeros(1, 2), 4, (0, 2)).layout
    first = Partial(torch.randn(3, 2, 5, 5), layout, torch.randn(3, 2))
    second = Partial.of(torch.randn(3, 1, 5, 5), 4, (1,))
    total = first + second
    assert isinstance(total, Partial)
    torch.testing.assert_close(total.dense(), first.dense() + second.dense())
    joined = torch.cat([first, second], 1)  # type: ignore[list-item]
    torch.testing.assert_close(joined.dense(), torch.cat([first.dense(), second.dense()], 1))
    weight = torch.randn(6, 8, 3, 3)
    for padding in (0, 1):
        torch.testing.assert_close(
            F.conv2d(joined, weight, padding=padding), F.conv2d(joined.dense(), weight, padding=padding)
        )


@pytest.mark.parametrize(
    ("path", "kept", "message"),
    [
        ("conv", [0], "conv: NoneType, expected a convolution"),
        ("0", [], "0: keeps"),
        ("0", [8], r"keeps \[8\] of 8 outputs"),
        ("1", [0], "1: BatchNorm2d, expected a convolution"),
    ],
)
def test_what_cannot_be_cut_is_said_in_one_line(path: str, kept: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        slim(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), {path: kept})
