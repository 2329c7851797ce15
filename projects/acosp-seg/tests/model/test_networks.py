"""Building: sizes, order of blocks, what is masked, what is refused, graphs and exports of all networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from acosp import SoftTopKPruner
from acosp.inject import masked_convs, soft_to_hard_k
from acosp.soft_topk import kept_channels
from acosp_seg.config import ModelConfig
from acosp_seg.model import NETWORKS, Network, build
from prunelab.errors import UserError
from prunelab.export import to_onnx

TINY = {
    "psp": ModelConfig(arch="psp", classes=4, width=8, dropout=0.0),
    "segnet": ModelConfig(arch="segnet", classes=4, width=8),
    "resnet18": ModelConfig(arch="resnet18", classes=4, width=8),
}
SIZES = {"psp": (33, 25), "segnet": (37, 45), "resnet18": (32, 32)}


def _on_meta(arch: str, classes: int, sparsity: float = 0.0) -> Network:
    with torch.device("meta"):
        model = build(ModelConfig(arch=arch, classes=classes))
        SoftTopKPruner(sparsity, 1, active=sparsity > 0).configure_model(model)
    return model


def _pictures(arch: str, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZES[arch], generator=torch.Generator().manual_seed(0))


def _masked(arch: str, sparsity: float = 0.5) -> Network:
    torch.manual_seed(0)
    model = build(TINY[arch])
    SoftTopKPruner(sparsity, 1, min_remaining_elements=2).configure_model(model)
    model.train().losses(_pictures(arch), _labels(arch))  # stores masks that are not ones
    return model


def _labels(arch: str) -> Tensor:
    shape = (2,) if arch == "resnet18" else (2, *SIZES[arch])
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("arch", "classes", "parameters"),
    [
        ("psp", 21, 49_081_578),
        ("psp", 19, 49_080_038),
        ("psp", 150, 49_180_908),
        ("segnet", 11, 29_449_377),
        ("segnet", 19, 29_454_009),
    ],
)
def test_published_networks_have_as_many_parameters_as_specified(
    arch: str, classes: int, parameters: int
) -> None:
    assert sum(p.numel() for p in _on_meta(arch, classes).parameters()) == parameters


@pytest.mark.parametrize(
    ("arch", "classes", "left"),
    [
        ("psp", 19, (24_517_766, 12_266_198, 6_140_414, 3_089_406)),
        ("segnet", 11, (14_719_915, 7_363_131, 3_684_739, 1_854_883)),
    ],
)
def test_filters_that_stay_have_as_many_weights_as_published(
    arch: str, classes: int, left: tuple[int, ...]
) -> None:
    convs = [m for m in _on_meta(arch, classes).modules() if isinstance(m, nn.Conv2d)]
    for sparsity, expected in zip((0.5, 0.75, 0.875, 0.9375), left, strict=True):
        count = 0
        for conv in convs:
            per_filter = conv.weight[0].numel() + (conv.bias is not None)
            free = getattr(conv, "unprunable", False)
            kept = conv.out_channels if free else kept_channels(conv.out_channels, sparsity)
            count += kept * per_filter
        assert count == expected, sparsity


@pytest.mark.parametrize(
    ("arch", "convs", "channels"), [("psp", 61, 29_568), ("segnet", 25, 7_936), ("resnet18", 20, 4_800)]
)
def test_all_convolutions_but_those_of_the_logits_are_masked(arch: str, convs: int, channels: int) -> None:
    masked = dict(masked_convs(_on_meta(arch, 10, sparsity=0.5)))
    assert len(masked) == convs
    assert sum(len(module.mask) for module in masked.values()) == channels


@pytest.mark.parametrize("arch", NETWORKS)
def test_groups_hold_every_parameter_once(arch: str) -> None:
    model = _on_meta(arch, 10, sparsity=0.5)
    base, new = model.groups()
    names = [
        f"{block}.{name}"
        for block in (*base, *new)
        for name, _ in model.get_submodule(block).named_parameters()
    ]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_segnets_decoder_is_registered_from_the_inside_but_grouped_from_the_outside() -> None:
    model = _on_meta("segnet", 11)
    blocks = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    assert blocks == [f"down{i}" for i in (1, 2, 3, 4, 5)] + [f"up{i}" for i in (5, 4, 3, 2, 1)]
    assert model.groups()[1] == ("up1", "up2", "up3", "up4", "up5")


@pytest.mark.parametrize("arch", NETWORKS)
def test_losses_come_from_the_logits_of_the_forward_pass(arch: str) -> None:
    model, x, y = build(TINY[arch], criterion_ignore=3).train(), _pictures(arch), _labels(arch)
    prediction, main, aux = model.losses(x, y)
    logits = model(x)
    torch.testing.assert_close(main, nn.functional.cross_entropy(logits, y, ignore_index=3))
    assert torch.equal(prediction, logits.argmax(1))
    assert (aux.item() == 0) == (arch != "psp")


@pytest.mark.parametrize("arch", NETWORKS)
def test_outputs_have_the_size_of_the_labels(arch: str) -> None:
    model, x = build(TINY[arch]).eval(), _pictures(arch)
    size = () if arch == "resnet18" else SIZES[arch]
    assert model(x).shape == (2, 4, *size)


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize("phase", ["dense", "soft", "hard"])
def test_torch_fx_traces_the_network_in_every_phase(arch: str, phase: str) -> None:
    model, x = (build(TINY[arch]) if phase == "dense" else _masked(arch)), _pictures(arch)
    if phase == "hard":
        soft_to_hard_k(model)
    model.eval()
    graph = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)
        other = torch.nn.functional.pad(x, (0, 8, 0, 16))  # no size is part of the graph
        torch.testing.assert_close(graph(other), model(other), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETWORKS)
def test_masked_network_is_exported_to_onnx(arch: str, tmp_path: Path) -> None:
    model = _masked(arch)
    soft_to_hard_k(model)
    report = to_onnx(
        model.eval(),
        (_pictures(arch, 1),),
        tmp_path / "model.onnx",
        input_names=["image"],
        output_names=["logits"],
    )
    assert report.difference <= 1e-4
    assert report.path.is_file()


def test_pretrained_file_is_not_read_where_there_is_no_memory() -> None:
    cfg = ModelConfig(arch="segnet", classes=3, width=8, pretrained="absent.pth")
    with torch.device("meta"):
        assert next(build(cfg).parameters()).is_meta
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        build(cfg)
