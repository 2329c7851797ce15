from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from prunelab.flops import Count, _formula, count
from prunelab.mask.layers import MaskedConv2d, MaskedEmbedding, MaskedLinear, MaskedLSTMCell
from prunelab.mask.supermask import MaskSpec


class Function(nn.Module):
    """A module that calls a function, with a few parameters of its own."""

    def __init__(self, function: Callable[..., Any], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def torchs_macs(model: nn.Module, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(3, 5), (2, 3), 2 * 15),
        (nn.Linear(3, 5, bias=False), (3,), 15),
        (nn.Linear(3, 5), (2, 4, 3), 8 * 15),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8), 4 * 4 * 6 * 2 * 9),
        (nn.Conv1d(2, 3, 5), (2, 2, 9), 2 * 5 * 3 * 2 * 5),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 3, 3), 9 * 4 * 6 * 4),
        (nn.Bilinear(3, 4, 2), None, 5 * 2 * 3 * 4),
        (nn.LayerNorm(4), (2, 4), 0),
    ],
)
def test_layers_by_hand(layer: nn.Module, shape: tuple[int, ...] | None, macs: int) -> None:
    inputs = [torch.rand(5, 3), torch.rand(5, 4)] if shape is None else [torch.rand(shape)]
    found = count(layer, *inputs)
    assert found.parameters == sum(p.numel() for p in layer.parameters())
    assert found.calls == 1
    assert found.macs == macs


def test_recurrent_layers_count_both_products_of_every_step() -> None:
    cell = nn.LSTMCell(3, 5)
    assert count(cell, torch.rand(2, 3)).macs == 2 * (4 * 5 * 3 + 4 * 5 * 5)
    lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    steps = 7 * 2
    first, second = 2 * (20 * 3 + 20 * 5), 2 * (20 * 10 + 20 * 5)
    assert count(lstm, torch.rand(7, 2, 3)).macs == steps * (first + second)
    gru = nn.GRU(3, 5, batch_first=True)
    assert count(gru, torch.rand(2, 7, 3)).macs == steps * (15 * 3 + 15 * 5)
    packed = nn.utils.rnn.pack_padded_sequence(torch.rand(4, 2, 3), torch.tensor([4, 3]))
    assert count(nn.LSTM(3, 5), packed).macs == 7 * (20 * 3 + 20 * 5)


def test_a_recurrent_stack_of_an_accelerator_is_counted_by_its_matrices() -> None:
    lstm = nn.LSTM(3, 5, num_layers=2)
    formula = _formula("_cudnn_rnn")
    assert formula is not None
    macs, _ = formula((torch.rand(7, 2, 3), list(lstm.parameters())), None)
    assert macs == count(lstm, torch.rand(7, 2, 3)).macs
    assert _formula("_scaled_dot_product_flash_attention_backward") is None


def test_look_ups_are_free_and_attention_counts_both_products() -> None:
    embed = nn.Embedding(10, 4)
    assert (count(embed, torch.tensor([1, 2])).macs, count(embed, torch.tensor([1])).parameters) == (0, 40)
    q, k, v = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8), torch.rand(2, 3, 7, 8)
    for function in (
        lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v),
        lambda _, q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v,
        lambda _, q, k, v: torch.einsum("bhls,bhsd->bhld", torch.einsum("bhld,bhsd->bhls", q, k), v),
    ):
        assert count(Function(function), q, k, v).macs == 2 * 3 * 5 * 7 * 16


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layer_is_counted_although_torch_has_a_fast_path(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    tokens, width = 5, 8
    found = count(layer, torch.rand(1, tokens, width))
    assert found.macs == 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.oracle
def test_resnet18_has_its_published_figures_and_those_of_torchs_counter() -> None:
    model = torchvision.models.resnet18()
    picture = torch.rand(1, 3, 224, 224)
    found = count(model, picture)
    assert found.parameters == 11_689_512
    assert found.macs == 1_814_073_344 == torchs_macs(model, picture)
    assert found.modules["layer1"].macs == sum(found.modules[f"layer1.{i}"].macs for i in (0, 1))
    assert found.modules["fc"].macs == 512_000


@pytest.mark.oracle
def test_a_model_on_the_meta_device_is_counted_without_values() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
        picture = torch.rand(1, 3, 224, 224)
    found = count(model, picture)
    assert found.parameters == found.nonzero_parameters == 86_567_656
    assert found.nonzero_macs == found.macs
    # block: 12 N D^2 + 2 N^2 D; patch embedding and head
    n, d = 197, 768
    assert found.macs == 12 * (12 * n * d * d + 2 * n * n * d) + 196 * d * d + d * 1000


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(5))
def test_random_convolutions_agree_with_torchs_counter(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    groups = pick(1, 3)
    layers = nn.Sequential(
        nn.Conv2d(2 * groups, 4 * groups, pick(1, 4), stride=pick(1, 3), padding=pick(0, 3), groups=groups),
        nn.ReLU(),
        nn.Conv2d(4 * groups, 5, 3, dilation=pick(1, 3), padding=2),
        nn.ConvTranspose2d(5, 4, pick(2, 4), stride=2),
        nn.Flatten(),
    )
    picture = torch.rand(2, 2 * groups, 16, 18)
    assert count(layers, picture).macs == torchs_macs(layers, picture)


def test_zeros_in_weights_save_macs_and_zeros_in_activations_do_not() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight[:3] = 0  # half of the rows
        model[0].bias.fill_(-100)  # all activations are zero
        model[2].weight[0, :3] = 0
    found = count(model, torch.rand(5, 4))
    assert found.macs == 5 * (24 + 12)
    assert found.nonzero_macs == 5 * (12 + 9)
    assert found.modules["0"].nonzero_macs == 60
    assert found.nonzero_parameters == 12 + 6 + 9 + 2
    assert found.parameters == 24 + 6 + 12 + 2


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: x @ m.w,
        lambda m, x: F.linear(x, m.w.t()),
        lambda m, x: x @ (m.w * (m.logits > 0)),
        lambda m, x: x @ m.w.masked_fill(m.logits <= 0, 0.0),
        lambda m, x: x @ torch.where(m.logits > 0, m.w, torch.zeros(())),
        lambda m, x: torch.bmm(x[None], m.w[None].expand(1, -1, -1)),
        lambda m, x: torch.einsum("bi,ij->bj", x, m.w * m.logits.sigmoid().round()),
        lambda m, x: (m.w.t() @ x.t()).t(),
    ],
)
def test_a_weight_is_known_through_what_is_made_of_it(use: Callable[..., Tensor]) -> None:
    w = torch.tensor([[1.0, 0, 0], [0, 2, 0]])
    logits = torch.tensor([[1.0, -1, -1], [-1, 1, -1]])
    found = count(Function(use, w=w, logits=logits), torch.rand(5, 2))
    assert (found.macs, found.nonzero_macs) == (30, 10)


def test_masked_layers_count_what_their_masks_leave() -> None:
    spec = MaskSpec(kind="supermask")
    layers: list[tuple[nn.Module, Tensor, int]] = [
        (MaskedLinear(4, 6, mask=spec), torch.rand(3, 4), 3 * 24),
        (MaskedConv2d(2, 4, 3, mask=spec), torch.rand(1, 2, 5, 5), 9 * 72),
        (MaskedLSTMCell(4, 4, mask=spec), torch.rand(3, 4), 3 * 128),
        (MaskedEmbedding(8, 4, mask=spec), torch.tensor([1, 2]), 0),
    ]
    for layer, inputs, macs in layers:
        assert isinstance(layer, (MaskedLinear, MaskedConv2d, MaskedLSTMCell, MaskedEmbedding))
        total = 0
        with torch.no_grad():
            for number, name in enumerate(layer.masked_names):
                mask = layer.mask_of(name)
                mask.fill_(5.0).view(-1)[:: 2 + 2 * number] = -5.0  # a half, then a quarter pruned
                total += mask.numel()
        found = count(layer.train(), inputs)
        assert layer.training
        assert found.macs == macs
        biases = found.parameters - total
        assert found.parameters == sum(p.numel() for n, p in layer.named_parameters() if "mask" not in n)
        if isinstance(layer, MaskedLSTMCell):
            assert found.nonzero_macs == 3 * (32 + 48)
            assert found.nonzero_parameters == 32 + 48 + biases
        else:
            assert found.nonzero_macs == macs // 2
            assert found.nonzero_parameters == total // 2 + biases


def test_tied_parameters_count_once_and_shared_modules_count_every_call() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens)) + self.head(self.embed(tokens))

    found = count(Tied(), torch.tensor([1, 2, 3]))
    assert found.parameters == 28
    assert found.modules["head"].parameters == 28
    assert found.modules["head"].calls == 2
    assert found.macs == 2 * 3 * 28


def test_a_caller_may_run_something_else_and_count_weights_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))

    def run() -> None:
        for _ in range(3):
            model(torch.rand(1, 2))
        torch.rand(2, 2) @ torch.rand(2, 2)

    found = count(model, run=run, weight_nnz=lambda module, name, parameter: 1)
    assert found.macs == 3 * 4 + 8
    assert found.modules["0"].macs == 12
    assert found.nonzero_parameters == 1


def test_modes_and_random_numbers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    model[1].eval()
    before = torch.get_rng_state()
    found = count(model, torch.zeros(3, 2))
    assert isinstance(found, Count)
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(before, torch.get_rng_state())
    assert int(model[1].num_batches_tracked) == 0


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        count(model, torch.rand(1, 3))
    assert model.training
    assert not model[0]._forward_hooks
