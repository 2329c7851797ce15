"""The whole detector at small width: its variables, and what it says of one picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from channel_prune.config import NetConfig
from channel_prune.detect.anchors import anchor_layers
from channel_prune.model.names import from_original, original_names, to_original
from channel_prune.model.ssd import Ssd, ssd_vgg16
from testing.parity import Folder, of_kind


def network(folder: Folder) -> Ssd:
    facts = folder.facts
    return ssd_vgg16(
        NetConfig(
            name="ssd_vgg16",
            image_size=facts["image_size"],
            nb_classes=facts["nb_classes"],
            width_divisor=facts["width_divisor"],
        )
    ).eval()


@pytest.mark.parity
@of_kind("ssd_forward")
def test_variables_and_order_of_convolutions_are_the_originals(folder: Folder) -> None:
    model = network(folder)
    names = original_names(model)
    assert list(names.values()) == folder.facts["trainable"]
    assert list(names) == [name for name, _ in model.named_parameters()]
    shapes = shapes_of_convolutions(model, folder.facts["batch"])
    kernels = to_original(model)
    assert len(model.prune_order()) == len(folder.facts["conv_order"])
    for path, recorded in zip(model.prune_order(), folder.facts["conv_order"], strict=True):
        assert names[f"{path}.weight"] == recorded["kernel"]
        assert list(kernels[recorded["kernel"]].shape) == recorded["shape"]
        conv = model.get_submodule(path)
        assert conv.stride == (recorded["stride"],) * 2
        # TensorFlow 1 cuts a map that a dilated kernel reads into one map for each phase of its taps, and
        # convolves these; a set may have been recorded with the dilated kernel itself.
        phases = math.isqrt(recorded["input"][0] // folder.facts["batch"])
        assert conv.dilation == (recorded["dilation"] * phases,) * 2
        inputs, outputs = shapes[path]
        # Ours may read a map that was padded before: only the channels of the input are the same.
        assert inputs == recorded["input"][3]
        if phases == 1:
            assert outputs == recorded["output"]
        else:
            assert outputs[3] == recorded["output"][3]
            assert outputs[1] <= recorded["output"][1] * phases


def shapes_of_convolutions(model: Ssd, batch: int) -> dict[str, tuple[int, list[int]]]:
    """Channels that each convolution reads, and the shape (B, H, W, C) that it makes."""
    shapes: dict[str, tuple[int, list[int]]] = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[path] = (inputs[0].shape[1], list(output.permute(0, 2, 3, 1).shape))

        return hook

    for path in model.prune_order():
        model.get_submodule(path).register_forward_hook(note(path))
    with torch.no_grad():
        model(torch.zeros(batch, 3, model.image_size, model.image_size))
    return shapes


@pytest.mark.parity
@of_kind("ssd_forward")
def test_predictions_agree_layer_by_layer(folder: Folder) -> None:
    facts, tolerance = folder.facts, folder.tolerance
    layers = anchor_layers(facts["image_size"])
    assert [layer.depth for layer in layers] == facts["anchors_per_position"]
    for name in facts["files"]:
        arrays = folder.numpy(name)
        found = predictions(network(folder), arrays)
        for kind in ("cls", "loc"):
            first, rows, of_sums = 0, arrays["rows"], tolerance["layer_sum_rel_to_abs_sum"]
            for layer, recorded in zip(layers, facts["layers"], strict=True):
                assert layer.grid**2 * layer.depth == recorded["anchors"]
                last = first + recorded["anchors"]
                part, largest = found[kind][first:last], recorded[f"{kind}_abs_max"]
                whole = recorded[f"{kind}_abs_sum"]
                assert part.sum().item() == pytest.approx(recorded[f"{kind}_sum"], abs=of_sums * whole)
                assert part.abs().sum().item() == pytest.approx(whole, rel=of_sums)
                limit = tolerance[f"{kind}_rel_to_layer_max"] * largest
                assert part.abs().max().item() == pytest.approx(largest, abs=limit)
                inside = (rows >= first) & (rows < last)
                got = found[kind].numpy()[rows[inside]]
                assert np.abs(got - arrays[kind][inside]).max(initial=0) <= limit
                first = last
            assert first == len(found[kind])


def predictions(model: Ssd, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """What the network says of the recorded picture, (A, n) each, in float64."""
    weights = {
        name.removeprefix("w0/"): array.astype(np.float64)
        for name, array in arrays.items()
        if name.startswith("w0/")
    }
    model.double().load_state_dict(from_original(weights, model))
    x = torch.from_numpy(arrays["X"]).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        return {kind: value[0] for kind, value in model(x).items()}
