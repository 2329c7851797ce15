"""Written backward passes: the numbers and gradients of the plain forms, under every dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from expansionnet.config import ModelConfig
from expansionnet.model import ExpansionNet, build, fused
from expansionnet.model.dropout import Dropout, Kept
from expansionnet.model.dynamic import DynamicExpansion
from expansionnet.model.fused import chunks
from expansionnet.model.initialise import initialise
from expansionnet.model.masks import causal_mask, visible
from expansionnet.model.static import StaticExpansion
from prunelab import onednn

RATES = {
    "none": {},
    "all": dict.fromkeys(("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other"), 0.3),
    "encoder": {"enc_drop": 0.5},
    "decoder": {"dec_drop": 0.4},
    "nearly everything": {"enc_drop": 0.95, "dec_drop": 0.95},
}
NONE = dict.fromkeys(RATES["all"], 0.0)


def net(rates: dict[str, float]) -> ExpansionNet:
    """A small network in double precision and train mode."""
    torch.manual_seed(3)
    sizes = {"model_dim": 8, "N_enc": 2, "N_dec": 2, "ff": 12, "num_heads": 2, "img_feature_dim": 6}
    cfg = ModelConfig(
        is_end_to_end=False,
        num_exp_enc_list=(2, 3, 5),
        num_exp_dec=3,
        vocab_size=11,
        max_seq_len=9,
        **{**sizes, **NONE, **rates},
    )
    return build(cfg).double().train()


def step(model: ExpansionNet, *, padded: bool) -> dict[str, Tensor]:
    """Logits, and the gradients of a seeded step by name."""
    torch.manual_seed(5)
    weight = model.vocab_linear.weight
    x, tokens = torch.randn(3, 7, 6, dtype=weight.dtype).to(weight.device), torch.randint(11, (3, 5))
    tokens = tokens.to(weight.device)
    pads = [torch.tensor(p, device=weight.device) if padded else None for p in ([0, 3, 1], [2, 0, 4])]
    torch.manual_seed(6)
    model.zero_grad()
    logits = model(x, tokens, *pads)
    logits.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **{name: grad.clone() for name, grad in found.items()}}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max().clamp(min=1))
        torch.testing.assert_close(
            found[name], value, atol=1e-10 * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("chunk", [1, 1 << 20], ids=["one by one", "at once"])
def test_a_step_is_that_of_the_plain_form(
    rates: dict[str, float], padded: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    found = step(net(rates), padded=padded)
    monkeypatch.setattr(fused, "usable", lambda x: False)
    assert_same(found, step(net(rates), padded=padded))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_a_step_with_a_dropout_that_only_shrinks_is_that_of_the_plain_form(
    padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(self: Dropout, shape: Sequence[int], device: torch.device) -> Kept:
        return Kept(mask=torch.ones(tuple(shape), dtype=torch.uint8), scale=1 - self.p)

    monkeypatch.setattr(Dropout, "keep", keep)
    found = step(net(RATES["all"]), padded=padded)
    monkeypatch.setattr(fused, "usable", lambda x: False)
    assert_same(found, step(net(RATES["all"]), padded=padded))


def test_a_step_in_single_precision_by_onednn_is_near_that_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onednn, "LEAST", 1)
    model = net(RATES["all"]).float()
    found = step(model, padded=True)
    monkeypatch.setattr(fused, "usable", lambda x: False)
    monkeypatch.setattr(fused, "faster", lambda x, weight: False)
    expected = step(model, padded=True)
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5 * largest, rtol=1e-4, msg=name)


def assert_gradient(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare with differences; every call draws the same dropouts."""

    def seeded(*tensors: Tensor) -> Tensor:
        torch.manual_seed(1)
        return function(*tensors)

    assert torch.autograd.gradcheck(seeded, [x.requires_grad_() for x in inputs], atol=1e-6)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_gradient_of_static_expansion(rate: float, padded: bool) -> None:
    torch.manual_seed(0)
    block = StaticExpansion(4, (2, 3), rate, 1e-9).double().train()
    initialise(block)
    seen = visible(3, torch.tensor([0, 1])) if padded else None
    assert_gradient(lambda x, *_: block(x, seen), random(2, 3, 4), *block.parameters())


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_gradient_of_dynamic_expansion(rate: float, padded: bool) -> None:
    torch.manual_seed(0)
    block = DynamicExpansion(4, 2, rate, 1e-9).double().train()
    initialise(block)
    mask = causal_mask(3, torch.tensor([0, 1]) if padded else None)
    assert_gradient(lambda x, *_: block(x, mask), random(2, 3, 4), *block.parameters())


def test_gradients_of_the_small_pieces() -> None:
    torch.manual_seed(0)
    drop = Dropout(0.4)
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 4).double()
    assert_gradient(lambda x, y: fused.add_dropped(x, y, drop), random(2, 3, 4), random(2, 3, 4))
    assert_gradient(lambda a, b, s: fused.gate(a, b, s, drop, drop), *(random(2, 3, 4) for _ in range(3)))
    inputs = [*first.parameters(), *second.parameters()]
    assert_gradient(lambda x, *_: fused.feed_forward(x, first, second, drop), random(2, 3, 4), *inputs)


def kept_bytes(model: ExpansionNet) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides the weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(torch.randn(2, 16, 6), torch.randint(11, (2, 9))).sum()
    del loss
    return sum(found.values())


def test_less_than_half_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(RATES["all"]).float()
    found = kept_bytes(model)
    monkeypatch.setattr(fused, "usable", lambda x: False)
    assert found < 0.5 * kept_bytes(model)


def test_autocast_takes_the_plain_form() -> None:
    x = torch.randn(1, 2, 3)
    assert fused.usable(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fused.usable(x)
    with torch.no_grad():
        assert not fused.usable(x)


def test_compiled_training_takes_the_plain_form_and_gives_the_same() -> None:
    model = net({})
    expected = step(model, padded=True)
    model.compile(backend="aot_eager")
    assert_same(step(model, padded=True), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("rates", [{}, RATES["all"]], ids=["none", "all"])
def test_a_step_on_a_gpu_is_that_of_the_processor(
    rates: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def keep(self: Dropout, shape: Sequence[int], device: torch.device) -> Kept:
        count = torch.arange(torch.Size(shape).numel(), device=device)
        mask = (count * 7919 % 1000 >= 1000 * self.p).view(tuple(shape))
        return Kept(mask=mask.view(torch.uint8), scale=1 / (1 - self.p)) if self.active else Kept()

    monkeypatch.setattr(Dropout, "keep", keep)
    model = net(rates)
    expected = step(model, padded=True)
    found = step(model.cuda(), padded=True)
    assert_same({name: value.cpu() for name, value in found.items()}, expected)
