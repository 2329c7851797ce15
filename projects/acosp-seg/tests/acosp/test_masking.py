"""A masked convolution gives the same whether its mask is multiplied onto the weights or the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acosp.masking import MaskingSequential, pixels_out, set_form
from acosp.pruner import SoftTopKPruner
from acosp.soft_topk import ChannelMaskLayer, SigmoidSoftTopK

CONVS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided, dilated, no bias": {
        "kernel_size": 3,
        "stride": 2,
        "padding": 2,
        "dilation": 2,
        "bias": False,
    },
    "grouped": {"kernel_size": (1, 3), "groups": 2},
    "same": {"kernel_size": 3, "padding": "same"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


def make(form: str, dtype: torch.dtype = torch.float64, **geometry: Any) -> MaskingSequential:
    torch.manual_seed(0)
    module = MaskingSequential(nn.Conv2d(4, 12, **geometry), SigmoidSoftTopK(12, 5)).to(dtype)
    set_form(module, form)  # type: ignore[arg-type]
    return module


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = module(x)
    y.square().sum().backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert x.grad is not None
    return [y.detach(), x.grad, *grads]


@pytest.mark.parametrize("name", CONVS)
def test_both_forms_agree_forwards_and_backwards(name: str) -> None:
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, plain = (
            results(make(form, **CONVS[name]), x.contiguous(memory_format=layout))
            for form in ("weight", "activation")
        )
        assert len(ours) == len(plain)
        for mine, theirs in zip(ours, plain, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_a_fixed_mask_gives_pruned_filters_no_gradient_in_either_form() -> None:
    mask = torch.tensor([1.0, 0, 1, 0])
    for form in ("weight", "activation"):
        module = MaskingSequential(nn.Conv2d(3, 4, 3), ChannelMaskLayer(mask))
        set_form(module, form)  # type: ignore[arg-type]
        module(torch.randn(1, 3, 5, 5)).square().sum().backward()
        grad = module[0].weight.grad
        assert grad[mask == 0].eq(0).all()
        assert grad[mask == 1].ne(0).any()


def test_only_what_is_asked_for_is_differentiated() -> None:
    module = make("weight", **CONVS["plain"])
    module[0].requires_grad_(False)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    module(x).square().sum().backward()
    assert module[0].weight.grad is None
    assert module[1].weight.grad is not None
    plain = make("activation", **CONVS["plain"])
    plain(x).square().sum().backward()
    torch.testing.assert_close(module[1].weight.grad, plain[1].weight.grad)


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that the way back holds, without parameters and input, each memory once."""
    known = {p.untyped_storage().data_ptr() for p in [*module.parameters(), x]}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x).sum()
    return sum(held.values())


def test_masked_weights_hold_no_memory_between_the_two_ways() -> None:
    x = torch.randn(2, 4, 32, 32, dtype=torch.float64)
    output = 2 * 12 * 32 * 32 * 8
    assert saved_bytes(make("weight", **CONVS["plain"]), x) < 2000
    assert saved_bytes(make("activation", **CONVS["plain"]), x) > output


def test_the_form_follows_from_pixels_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("auto", kernel_size=3, padding=1)  # 36 weights a filter
    used: list[str] = []
    plain = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda *args: used.append("activation") or plain(*args))
    wide, narrow = (torch.randn(1, 4, side, side, dtype=torch.float64) for side in (6, 5))
    module(narrow)
    assert used == ["activation"]
    module(wide)
    assert used == ["activation"]
    module.pixels_per_weight = 2
    module(wide)
    assert used == ["activation"] * 2


@pytest.mark.parametrize("name", CONVS)
def test_output_pixels_are_counted(name: str) -> None:
    conv = nn.Conv2d(4, 12, **CONVS[name])
    x = torch.randn(3, 4, 11, 8)
    assert pixels_out(x, conv) == conv(x)[:, 0].numel()


def test_what_watches_the_convolution_sees_it_called() -> None:
    module = make("weight", **CONVS["plain"])
    seen: list[torch.Size] = []
    handle = module[0].register_forward_hook(lambda m, args, output: seen.append(output.shape))
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    watched = module(x)
    assert seen == [(2, 12, 7, 9)]
    handle.remove()
    torch.testing.assert_close(module(x), watched)
    assert len(seen) == 1


def test_a_convolution_with_a_forward_of_its_own_is_called() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    module = MaskingSequential(Doubled(4, 12, 3), SigmoidSoftTopK(12, 5))
    set_form(module, "weight")
    x = torch.randn(1, 4, 5, 5)
    y = module(x)
    torch.testing.assert_close(y, module[0](x) * module.mask.view(-1, 1, 1))


def test_transposed_convolutions_and_unbatched_pictures_are_masked() -> None:
    module = MaskingSequential(nn.ConvTranspose2d(4, 12, 2, stride=2), SigmoidSoftTopK(12, 5))
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(module(x), module[0](x) * module.mask.view(-1, 1, 1))
    module = make("weight", **CONVS["plain"])
    x = torch.randn(4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), module[0](x) * module.mask.view(-1, 1, 1))


def test_a_tracer_sees_convolution_and_mask() -> None:
    model = nn.Sequential(make("weight", torch.float32, **CONVS["plain"])).eval()
    traced = torch.fx.symbolic_trace(model)
    assert "0.0" in {node.target for node in traced.graph.nodes}
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("form", ["weight", "activation"])
def test_short_types_come_out_where_autocast_makes_them(form: str) -> None:
    module = make(form, torch.float32, **CONVS["plain"])
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
    torch.testing.assert_close(y.float(), module(x), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo of 2.11 looks
def test_compiled_training_gives_what_eager_training_gives() -> None:
    def train(compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3)
        )
        pruner = SoftTopKPruner(0.5, 4)
        pruner.configure_model(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        # Before 2.12 the graph breaks at torch.quantile.
        whole = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)
        step = torch.compile(model, backend="aot_eager", fullgraph=whole) if compiled else model
        for epoch in range(3):
            optimizer.zero_grad()
            step(torch.randn(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()
            pruner.update_mask_layers(model, epoch)
        return list(model.state_dict().values())

    for mine, theirs in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'both', expected one of auto, activation, weight"):
        set_form(nn.Sequential(), "both")  # type: ignore[arg-type]
