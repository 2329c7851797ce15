"""Sliding windows and the whole test program against recorded numbers of the original."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from acosp_seg.predict import Predictor, Windows, scaled_size

from .parity_roots import Folder, of_kind, pytest_generate_tests  # noqa: F401

BOTH = pytest.mark.parametrize("double", [False, True], ids=["single", "double"])


def strides(folder: Folder) -> list[int]:
    return folder.facts["model_strides"]


def network(folder: Folder, stride: int) -> nn.Module:
    """The recorded tiny network of a stride."""
    weights = {
        key.removeprefix(f"s{stride}_"): value
        for key, value in folder.arrays("data.npz").items()
        if re.fullmatch(rf"s{stride}_c\d\.(weight|bias)", key)
    }
    first, second = weights["c1.weight"], weights["c2.weight"]
    layers = OrderedDict(
        c1=nn.Conv2d(first.shape[1], first.shape[0], first.shape[2], stride, first.shape[2] // 2),
        relu=nn.ReLU(),
        c2=nn.Conv2d(second.shape[1], second.shape[0], second.shape[2], 1, second.shape[2] // 2),
    )
    model = nn.Sequential(layers)
    model.load_state_dict(weights)
    return model.eval()


def windows(folder: Folder, crop: list[int], **changes: Any) -> Windows:
    facts = folder.facts
    settings = {
        "classes": facts["classes"],
        "crop": tuple(crop),
        "mean": tuple(facts["mean"]),
        "std": tuple(facts["std"]),
        "stride_rate": facts["stride_rate"],
        "flip": facts["flip"],
    }
    return Windows(**{**settings, **changes})


def close(folder: Folder, found: torch.Tensor, expected: np.ndarray) -> None:
    assert found.dtype in (torch.float32, torch.float64)
    bound = folder.tolerance["probability_atol"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=bound)


@pytest.mark.parity
@of_kind("sliding_window")
def test_one_window_agrees_with_and_without_its_mirror_image(folder: Folder) -> None:
    arrays = folder.numpy("data.npz")
    image = arrays["image"].astype(np.float32)
    for stride in strides(folder):
        model = network(folder, stride)
        for flip, name in ((True, "net_process"), (False, "net_process_noflip")):
            predictor = Predictor(model, windows(folder, list(image.shape[:2]), flip=flip))
            for _ in range(2):  # a second time gives the same: nothing was overwritten
                close(folder, predictor.at_scale(image, image.shape[:2]), arrays[f"s{stride}_{name}"])
    assert np.array_equal(image, arrays["image"])


@BOTH
@pytest.mark.parity
@of_kind("sliding_window")
def test_every_crop_and_output_size_agrees(folder: Folder, double: bool) -> None:
    arrays = folder.numpy("data.npz")
    cases = {k: v for k, v in folder.json("expected.json").items() if re.fullmatch(r"s\d+_scale_\w+", k)}
    assert cases
    for name, case in cases.items():
        model = network(folder, int(name[1:].partition("_")[0]))
        predictor = Predictor(model, windows(folder, case["crop"], double=double, batch=3))
        found = predictor.at_scale(arrays["image"].astype(np.float32), tuple(case["out"]))
        close(folder, found, arrays[name])


@pytest.mark.parity
@of_kind("sliding_window")
def test_sizes_at_every_scale_agree(folder: Folder) -> None:
    sizes = folder.json("expected.json").get("sizes", {})
    if not sizes:
        pytest.skip(f"{folder.path} lists no sizes")
    for name, (long, new_w, new_h) in sizes.items():
        base, scale, size = name.split("_")
        high, wide = map(int, size.split("x"))
        found = scaled_size((high, wide), float(scale), int(base))
        assert found == (new_h, new_w), name
        assert max(found) == long, name
