"""What the recorded classifiers have in common: weights, a training loss, gradients, running statistics.

A folder lists cases; each has an npz file with pictures ``X`` (B, H, W, 3), one-hot labels ``Y``, the weights
``w0/...`` under the original's names, and what came out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import OptimConfig
from channel_prune.model.decay import decay_factors
from channel_prune.model.names import from_original, original_names, to_original, to_torch
from testing.parity import Folder


@dataclass(frozen=True, kw_only=True)
class Case:
    """One recorded network."""

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    tolerance: dict[str, float]

    def tensor(self, name: str) -> Tensor:
        """An array in torch's layout, in float64."""
        value = torch.from_numpy(self.arrays[name].astype(np.float64))
        return value.permute(0, 3, 1, 2) if name == "X" else value

    def weights(self) -> dict[str, np.ndarray]:
        """The recorded weights by the original's name."""
        return self.under("w0/")

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Recorded arrays whose names begin so, by the rest of their names, in float64."""
        return {
            name.removeprefix(prefix): array.astype(np.float64)
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }


def cases(folder: Folder) -> Iterator[Case]:
    """The cases that a folder lists."""
    assert folder.facts["cases"]
    for facts in folder.facts["cases"]:
        yield Case(facts=facts, arrays=folder.numpy(facts["file"]), tolerance=folder.tolerance)


def filled(model: nn.Module, case: Case) -> nn.Module:
    """The network with the recorded weights, in float64 and without dropout."""
    model = model.double()
    missing, unused = model.load_state_dict(from_original(case.weights(), model), strict=False)
    assert not unused
    assert all(name.endswith("num_batches_tracked") for name in missing)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def check_norms(model: nn.Module, decay: float, eps: float) -> None:
    """Batch normalisations follow as fast, and divide by as much, as the original's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == pytest.approx(1 - decay)
            assert module.eps == eps


def off(got: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest recorded value."""
    largest = max(np.abs(expected).max(), np.finfo(float).tiny)
    return float(np.abs(np.asarray(got) - expected).max() / largest)


def check_counts(model: nn.Module, case: Case) -> None:
    """Numbers of trainable and of all variables are the original's."""
    names = original_names(model)
    trainable = [name for name, _ in model.named_parameters()]
    assert len(names) == case.facts["nb_variables"] == len(case.weights())
    assert len(trainable) == case.facts["nb_trainable"]
    assert set(names.values()) == set(case.weights())
    assert set(trainable) <= set(names)


def check_order_of_convolutions(model: nn.Module, case: Case) -> None:
    """Kernels, shapes, strides and feature maps of the pruned convolutions, in their order."""
    names, seen = original_names(model), []
    modules = dict(model.named_modules())
    order: list[str] = model.prune_order()  # type: ignore[operator]
    for path in order:

        def record(layer: nn.Module, inputs: tuple[Tensor], output: Tensor, path: str = path) -> None:
            seen.append((path, layer, inputs[0].shape, output.shape))

        modules[path].register_forward_hook(record)
    model.eval()(case.tensor("X"))
    assert [path for path, *_ in seen] == order
    by_path = {path: rest for path, *rest in seen}
    recorded = case.facts["conv_order"]
    assert [names[f"{path}.weight"] for path in order] == [conv["kernel"] for conv in recorded]
    for path, conv in zip(order, recorded, strict=True):
        layer, source, output = by_path[path]
        assert [*layer.weight.permute(2, 3, 1, 0).shape] == conv["shape"], path
        assert layer.stride == (conv["stride"],) * 2, path
        assert layer.dilation == (conv["dilation"],) * 2, path
        batch, height, width, channels = conv["output"]
        assert [*output] == [batch, channels, height, width], path
        # of the sums that SAME and an explicit padding make, the one that reaches the kernel is the same
        rows = [size + 2 * pad for size, pad in zip(source[2:], layer.padding, strict=True)]
        assert rows == _reached(conv), path
        assert source[1] == conv["input"][3], path


def _reached(conv: dict[str, Any]) -> list[int]:
    """Rows and columns that a recorded convolution sees, its own padding included."""
    found = []
    for size, kernel in zip(conv["input"][1:3], conv["shape"][:2], strict=True):
        stride = conv["stride"]
        rest = size % stride or stride
        reach = (kernel - 1) * conv["dilation"] + 1
        found.append(size + (max(reach - rest, 0) if conv["padding"] == "SAME" else 0))
    return found


def check_evaluation(model: nn.Module, case: Case) -> None:
    """Logits with running statistics."""
    with torch.no_grad():
        logits = model.eval()(case.tensor("X"))
    assert off(logits, case.arrays["logits_eval"]) <= case.tolerance["logits_eval_rel_to_max"]


def check_training(model: nn.Module, case: Case, cfg: OptimConfig) -> None:
    """Logits, loss and its share of decay, accuracies, gradients and running statistics of one batch."""
    facts, tolerance = case.facts, case.tolerance
    logits = model.train()(case.tensor("X"))
    assert off(logits.detach(), case.arrays["logits_train"]) <= tolerance["logits_train_rel_to_max"]
    factors = decay_factors(model, cfg)
    parameters = dict(model.named_parameters())
    decay = sum((f * parameters[name].pow(2).sum() / 2 for name, f in factors.items()), torch.zeros(()))
    assert decay.item() == pytest.approx(facts["decay_sum"], rel=tolerance["decay_sum_rel"])
    loss = F.cross_entropy(logits, case.tensor("Y")) + facts["loss_w_dcy"] * decay
    assert loss.item() == pytest.approx(facts["loss_train"], rel=tolerance["loss_rel"])
    ranks = logits.argsort(1, descending=True)
    right = ranks == case.tensor("Y").argmax(1, keepdim=True)
    metrics = facts["metrics_train"]
    assert right[:, :1].sum().item() / len(right) == pytest.approx(metrics["acc_top1"])
    assert right[:, :5].sum().item() / len(right) == pytest.approx(metrics["acc_top5"])
    loss.backward()
    ours = {theirs: name for name, theirs in original_names(model).items()}
    for name, expected in case.under("grad/").items():
        gradient = parameters[ours[name]].grad
        assert gradient is not None, name
        assert gradient.shape == parameters[ours[name]].shape
        wanted = to_torch(expected, depthwise="depthwise" in name).numpy()
        assert off(gradient, wanted) <= tolerance["grad_rel_to_max"], name
    own = to_original(model)
    for name, expected in case.under("moving1/").items():
        assert off(own[name], expected) <= tolerance["moving_rel_to_max"], name
