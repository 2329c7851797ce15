"""The residual network for small pictures: outputs, losses, gradients and training steps of the original."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import DistillConfig, OptimConfig
from channel_prune.distill import distillation_loss
from channel_prune.model.decay import decay_factors, decay_groups
from channel_prune.model.names import from_original, original_names, to_original, to_torch
from channel_prune.model.resnet_v2 import ResNetV2
from testing.parity import Folder, of_kind


@lru_cache(maxsize=4)
def inputs(folder: Folder) -> dict[str, Tensor]:
    """Pictures (B, 3, H, W), one-hot labels, the teacher's logits, and what was recorded; float64."""
    io = {name: value.double() for name, value in folder.arrays("io.npz").items()}
    io["X"] = io["X"].permute(0, 3, 1, 2)
    return io


def configurations(folder: Folder) -> tuple[OptimConfig, DistillConfig]:
    """How the recorded steps were taken."""
    facts = folder.facts
    optim = OptimConfig(momentum=facts["momentum"], loss_w_dcy=facts["loss_w_dcy"])
    return optim, DistillConfig(enbl_dst=True, loss_w_dst=facts["loss_w_dst"], tempr_dst=facts["tempr_dst"])


def network(folder: Folder) -> nn.Module:
    """The network with the recorded first weights, in float64."""
    arrays = folder.numpy("w0.npz")
    first = next(array for array in arrays.values() if array.ndim == 4)
    blocks = (folder.facts["resnet_size"] - 2) // 6
    model = ResNetV2((blocks,) * 3, first.shape[3], folder.facts["nb_classes"], bottleneck=False, large=False)
    missing, unused = model.load_state_dict(from_original(arrays, model), strict=False)
    assert not unused
    assert all(name.endswith("num_batches_tracked") for name in missing)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == pytest.approx(1 - folder.facts["bn_momentum"])
            assert module.eps == folder.facts["bn_eps"]
    return model.double()


def losses(folder: Folder, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """The network's own loss, that of distillation, and the logits, for the recorded batch."""
    io = inputs(folder)
    optim, distill = configurations(folder)
    factors = decay_factors(model, optim)
    decay = sum(factors[name] * p.pow(2).sum() / 2 for name, p in model.named_parameters())
    logits = model(io["X"])
    own = F.cross_entropy(logits, io["Y"]) + optim.loss_w_dcy * decay
    return own, distillation_loss(logits, io["T"], distill), logits


def assert_recorded(folder: Folder, model: nn.Module, prefix: str, tolerance: float) -> None:
    """All recorded variables with a prefix are those of the network."""
    own, found = to_original(model), 0
    for name, expected in inputs(folder).items():
        if name.startswith(prefix):
            got = torch.from_numpy(own[name.removeprefix(prefix)])
            torch.testing.assert_close(
                got, expected, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )
            found += 1
    assert found


@pytest.mark.parity
@of_kind("resnet_v2")
def test_variables_have_the_names_shapes_and_order_of_the_original(folder: Folder) -> None:
    recorded: list[Any] = folder.json("values.json")["variables"]
    own = to_original(network(folder))
    assert [[name, list(array.shape)] for name, array in own.items()] == recorded
    for name, array in folder.numpy("w0.npz").items():
        assert (own[name] == array).all(), name


@pytest.mark.parity
@of_kind("resnet_v2")
def test_logits_losses_and_accuracy_agree(folder: Folder) -> None:
    model, io, values = network(folder), inputs(folder), folder.json("values.json")
    tolerance = folder.tolerance
    with torch.no_grad():
        evaluated = model.eval()(io["X"])
        own, distilled, logits = losses(folder, model.train())
    for got, name in ((evaluated, "logits_eval"), (logits, "logits_train")):
        torch.testing.assert_close(got, io[name], rtol=0, atol=tolerance["logits_abs"])
    assert float(own) == pytest.approx(values["loss"], abs=tolerance["loss_abs"])
    assert float(distilled) == pytest.approx(values["dst"], abs=tolerance["dst_abs"])
    right = (logits.argmax(1) == io["Y"].argmax(1)).double().mean()
    assert float(right) == pytest.approx(values["accuracy"])


@pytest.mark.parity
@of_kind("resnet_v2")
def test_gradients_of_both_losses_agree(folder: Folder) -> None:
    model = network(folder).train()
    own, distilled, _ = losses(folder, model)
    (own + distilled).backward()
    names = {theirs: ours for ours, theirs in original_names(model).items()}
    recorded = [name for name in inputs(folder) if name.startswith("grad/")]
    assert recorded
    for name in recorded:
        expected = to_torch(inputs(folder)[name].numpy())
        got = model.get_parameter(names[name.removeprefix("grad/")]).grad
        assert got is not None
        off = float((got - expected).abs().max() / expected.abs().max())
        assert off <= folder.tolerance["grad_rel_to_max"], name


@pytest.mark.parity
@of_kind("resnet_v2")
def test_steps_of_momentum_lead_to_the_recorded_weights_and_statistics(folder: Folder) -> None:
    model = network(folder).train()
    optim, distill = configurations(folder)
    groups = decay_groups(model, optim)
    optimizer = torch.optim.SGD(groups, lr=folder.facts["lrn_rate"], momentum=optim.momentum)
    io = inputs(folder)
    last = max(folder.facts["recorded_steps"])
    for step in range(1, last + 1):
        optimizer.zero_grad()
        logits = model(io["X"])
        (F.cross_entropy(logits, io["Y"]) + distillation_loss(logits, io["T"], distill)).backward()
        optimizer.step()
        if step in folder.facts["recorded_steps"]:
            assert_recorded(folder, model, f"w{step}/", folder.tolerance[f"w{step}_abs"])
    name = f"logits_eval_after{last}"
    if name in io:
        with torch.no_grad():
            got = model.eval()(io["X"])
        torch.testing.assert_close(got, io[name], rtol=0, atol=folder.tolerance[f"logits_after{last}_abs"])
