"""Code of every kind is followed: what asks for sizes, layers with code of their own, padding, views."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.errors import UserError
from prunelab.surgery import compact, resize, shrink, trace

Keep = dict[str, dict[str, list[int]]]


def spread_statistics(model: nn.Module) -> nn.Module:
    """A network in double precision with statistics of a trained one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.double().eval()


def masked(model: nn.Module, keep: Keep) -> nn.Module:
    twin = copy.deepcopy(model)
    for path, kept in keep.items():
        weight = twin.get_submodule(path).get_parameter("weight").data
        weight[:, [c for c in range(weight.shape[1]) if c not in kept["in"]]] = 0
    return twin


def assert_shrinks(model: nn.Module, keep: Keep, *, size: int = 11) -> nn.Module:
    """Shrink, and compare with the masked network, also after compacting; returns the small network."""
    spread_statistics(model)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    small = shrink(model, x, keep)
    with torch.no_grad():
        expected = masked(model, keep)(x)
        torch.testing.assert_close(small.model(x), expected, rtol=0, atol=1e-11)
        folded = compact(masked(model, keep), x)
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(compact(small.model, x)(x), expected, rtol=0, atol=1e-11)
        again = resize(copy.deepcopy(model), small.structure)
        again.load_state_dict(small.model.state_dict(), strict=True)
        assert torch.equal(again(x), small.model(x))
    return small.model


class OptionA(nn.Module):
    """A residual block whose shortcut skips rows and columns and gets channels of zeros on both sides."""

    def __init__(self, *, pad: bool) -> None:
        super().__init__()
        self.pad = pad
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.norm(self.conv1(x))))
        half = x[:, :, ::2, ::2]
        if self.pad:
            shortcut = F.pad(half, (0, 0, 0, 0, 4, 4), "constant", 0)
        else:
            zeros = x.new_zeros(half.shape[0], 4, half.shape[2], half.shape[3])
            shortcut = torch.cat([zeros, half, zeros], 1)
        return self.last(F.relu(y + shortcut))


def test_shortcuts_with_channels_of_zeros_are_followed() -> None:
    torch.manual_seed(0)
    keep = {"conv1": {"in": [0, 3]}, "conv2": {"in": [1, 2, 9]}, "last": {"in": [0, 5, 9, 15]}}

    small = assert_shrinks(OptionA(pad=True), keep)

    assert isinstance(small.conv1, nn.Conv2d)
    assert small.conv1.out_channels == 3
    # of the sum, read at 0, 5, 9 and 15, the code puts zeros at 0 to 3 and 12 to 15; 4 + c is the stem's c
    assert isinstance(small.stem, nn.Conv2d)
    assert small.stem.out_channels == 4  # 0 and 3 of conv1, 1 and 5 of the sum


def test_zeros_put_beside_by_concatenation_stay() -> None:
    torch.manual_seed(0)
    model = spread_statistics(OptionA(pad=False))
    keep = {"conv1": {"in": [0, 3]}, "last": {"in": [0, 5, 9, 15]}}
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)

    small = shrink(model, x, keep)

    with torch.no_grad():
        torch.testing.assert_close(small.model(x), masked(model, keep)(x), rtol=0, atol=1e-11)
    assert "stem" in small.structure


class NormAct(nn.BatchNorm2d):
    """A batch norm that also activates, as a library may have it."""

    def forward(self, input: Tensor) -> Tensor:
        x = F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return F.silu(x)


class SameConv(nn.Conv2d):
    """A convolution that pads by the size of what arrives, and asks how much."""

    def forward(self, input: Tensor) -> Tensor:
        pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in input.shape[2:]]
        if sum(pads):
            input = F.pad(input, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        return F.conv2d(input, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class Library(nn.Module):
    """Layers with code of their own, and attention over channels in two spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = NormAct(8)
        self.down = SameConv(8, 12, 3, stride=2)
        self.squeeze, self.excite = nn.Linear(12, 6), nn.Linear(6, 12)
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        x = self.down(self.norm(self.stem(x)))
        b, c, _, _ = x.size()
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3)).view(b, c)))))
        x = x * weights.view(b, c, 1, 1).expand_as(x)
        return self.last(x)


def test_layers_with_code_of_their_own_are_looked_into() -> None:
    torch.manual_seed(0)
    keep = {"down": {"in": [1, 4, 6]}, "last": {"in": [0, 2, 7]}, "squeeze": {"in": [2, 3]}}

    small = assert_shrinks(Library(), keep)

    assert isinstance(small.stem, nn.Conv2d)
    assert isinstance(small.down, SameConv)
    assert small.stem.out_channels == 3
    assert small.down.out_channels == 4  # 0, 2, 7 and 3


def test_a_network_that_decided_by_its_size_is_compact_for_that_size_alone() -> None:
    model = spread_statistics(Library())
    graph = trace(model, torch.randn(1, 3, 11, 11, dtype=torch.float64))
    assert graph.fixed_size
    folded = compact(model, torch.randn(1, 3, 11, 11, dtype=torch.float64))

    with pytest.raises(UserError, match=r"is \[1, 3, 12, 11\], expected \[B, 3, 11, 11\]"):
        folded(torch.randn(1, 3, 12, 11, dtype=torch.float64))


class Standardised(nn.Conv2d):
    """Its weights are standardised over the inputs, so each input changes them all."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


def test_weights_that_are_computed_stay_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Standardised(6, 6, 3), nn.Conv2d(6, 2, 1))

    structure = shrink(model, torch.randn(1, 3, 6, 6), {"2": {"in": [1, 3]}}).structure

    assert structure == {"2": {"in": [1, 3], "select": [1, 3]}}
    with pytest.raises(UserError, match="calls no such layer"):
        shrink(model, torch.randn(1, 3, 6, 6), {"1": {"in": [1, 3]}})


def test_a_weight_that_is_used_twice_stays_whole() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) + self.first.weight.sum()

    structure = shrink(Tied(), torch.randn(1, 3, 6, 6), {"second": {"in": [1, 3]}}).structure

    assert "first" not in structure


def test_a_view_that_says_how_many_channels_there_are_keeps_them() -> None:
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).view(-1, 24))

    structure = shrink(Literal(), torch.randn(2, 3, 4, 4), {"head": {"in": [0, 1, 2, 3]}}).structure

    assert "conv" not in structure


def test_a_small_network_can_be_made_smaller() -> None:
    torch.manual_seed(0)
    model = OptionA(pad=True).double().eval()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    # the sum's channels 5, 6 and 9 are the stem's 1, 2 and 5, and its 3 is one of the zeros
    once = shrink(model, x, {"conv1": {"in": [0, 2, 3, 7]}, "last": {"in": [3, 5, 6, 9]}})
    assert once.structure["conv1"]["select"] == [0, 2, 3, 5]

    twice = shrink(once.model, x, {"conv1": {"in": [1, 3]}})

    expected = masked(model, {"conv1": {"in": [2, 7]}, "last": {"in": [3, 5, 6, 9]}})
    with torch.no_grad():
        torch.testing.assert_close(twice.model(x), expected(x), rtol=0, atol=1e-12)


def test_an_error_says_in_which_layer_and_line() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Asks())
    with pytest.raises(
        UserError, match=r"cannot be traced at 1, test_tracing.py line \d+: the code asks for"
    ):
        trace(model, torch.randn(1, 3, 4, 4))
    with pytest.raises(UserError, match=r"cannot be traced at 0: .*expected input.* to have 3 channels"):
        trace(model, torch.randn(1, 2, 4, 4))


def test_loops_over_sizes_and_dead_code_are_followed_in_inference_mode_too() -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            for axis in range(x.dim() - 2):
                x = x.flip(axis + 2) if x.shape[axis] > 100 else F.dropout(x, 0.5, self.training)
            rows, _columns = x.shape[2:]
            return self.last(x[:, :, : int(rows)].clone().relu_())

    model = Loops().eval()
    with torch.inference_mode():
        x = torch.randn(2, 3, 5, 6)
        small = shrink(model, x, {"last": {"in": [1, 2]}})
        folded = compact(small.model, x)
        expected = masked(model, {"last": {"in": [1, 2]}})(x)
        torch.testing.assert_close(small.model(x), expected)
        torch.testing.assert_close(folded(x), expected)
    assert not any(p.is_inference() for net in (small.model, folded) for p in net.parameters())
    assert small.structure["conv"] == {"out": [1, 2]}
