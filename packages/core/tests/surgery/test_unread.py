"""Compact networks of pruned inputs: nobody computes what nobody reads, whatever lies between."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.surgery import Program, compact
from prunelab.surgery import program as program_module


class PreActivation(nn.Module):
    """Residual blocks whose norm and activation stand before the convolutions, after a padded pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.n1, self.n2, self.n3 = (nn.BatchNorm2d(16) for _ in range(3))
        self.shortcut = nn.Conv2d(16, 16, 1, bias=False)
        self.a1, self.a2 = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.b1, self.b2 = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.m1, self.m2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
        p = F.relu(self.n1(x))
        x = self.a2(F.relu(self.m1(self.a1(p)))) + self.shortcut(p)
        x = x + self.b2(F.relu(self.m2(self.b1(F.relu(self.n2(x))))))
        return self.head(F.relu(self.n3(x)).mean((2, 3)))


def pruned(seed: int, keep: int = 6) -> nn.Module:
    """Every convolution but the first reads only some channels, each its own."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = PreActivation()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Conv2d) and name != "stem":
            gone = torch.randperm(16, generator=generator)[keep:]
            module.weight.data[:, gone] = 0
    return model.double().eval()


@pytest.mark.parametrize("seed", range(3))
def test_results_stay_at_every_size(seed: int) -> None:
    model = pruned(seed)
    small = compact(model, torch.randn(1, 3, 10, 10, dtype=torch.float64))

    with torch.no_grad():
        for size in ((2, 3, 10, 10), (1, 3, 9, 12), (3, 3, 11, 7)):
            x = torch.randn(size, dtype=torch.float64)
            torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-12)
    again = Program(small.structure).double()
    again.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), small(x))


def test_only_what_is_read_is_computed_and_readers_get_their_own() -> None:
    model = pruned(0)
    small = compact(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))

    widths = {name: tuple(p.shape[:2]) for name, p in small.named_parameters() if p.dim() == 4}
    assert widths["steps.m1.weight"] == (6, 6)
    assert widths["steps.a2.weight"][1] == 6
    assert widths["steps.m2.weight"] == (6, 6)
    assert widths["steps.stem.weight"][0] < 16
    kinds = [step["op"] for step in small.structure["steps"]]
    assert "pad" not in kinds  # the pool does it
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def test_large_batches_go_in_parts_with_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pruned(1)
    x = torch.randn(7, 3, 12, 12, dtype=torch.float64)
    small = compact(model, x[:1])
    whole = copy.deepcopy(small)
    runs: list[int] = []
    inner = small._run
    monkeypatch.setattr(small, "_run", lambda inputs: runs.append(len(inputs[0])) or inner(inputs))
    stem = small.get_parameter("steps.stem.weight").shape[0]
    monkeypatch.setattr(program_module, "LARGEST", 3 * stem * 12 * 12 * 8)

    with torch.no_grad():
        found, again = small(x), small(x)
        expected = whole(x[:3]), whole(x[3:6]), whole(x[6:])
    found_with_gradients = small(x)

    assert runs[0] == 1
    assert runs[1:-1] == [3, 3, 1, 3, 3, 1]
    assert runs[-1] == 7
    assert torch.equal(found, torch.cat(expected))
    assert torch.equal(again, found)
    torch.testing.assert_close(found_with_gradients.detach(), found, rtol=0, atol=1e-12)


def test_padded_pools_of_every_kind_agree() -> None:
    class Pools(nn.Module):
        def __init__(self, pad: tuple[int, ...]) -> None:
            super().__init__()
            self.conv, self.pad = nn.Conv2d(2, 3, 1), pad

        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(F.pad(self.conv(x), self.pad, value=-math.inf), 3, 2)

    for pad in ((0, 1, 0, 1), (1, 1, 1, 1), (1, 0, 0, 1), (0, 2, 0, 2), (2, 2, 2, 2)):
        model = Pools(pad)
        small = compact(model, torch.randn(1, 2, 8, 8))
        for size in ((6, 7), (7, 8), (9, 9)):
            x = torch.randn(1, 2, *size)
            with torch.no_grad():
                torch.testing.assert_close(small(x), model(x))
