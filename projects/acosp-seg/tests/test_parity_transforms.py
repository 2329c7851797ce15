"""The transforms agree with the recorded ones: pixels, labels, and the number and order of draws."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from prunelab.transforms import (
    RGB2BGR,
    Compose,
    Crop,
    Normalize,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    RandRotate,
    RandScale,
    Resize,
    ToTensor,
)
from testing.parity import Folder, of_kind


def made(facts: Mapping[str, Any], about: Mapping[str, Any]) -> Any:
    """The transform that a case describes."""
    padding, ignore = tuple(facts["mean"]), facts["ignore_label"]
    p = {"p": about["p"]} if "p" in about else {}
    match about["kind"]:
        case "RandScale":
            aspect = tuple(about["aspect"]) if about.get("aspect") else None
            return RandScale(scale=tuple(about["scale"]), aspect=aspect)
        case "RandRotate":
            return RandRotate(rotate=tuple(about["rotate"]), padding=padding, ignore_label=ignore, **p)
        case "RandomGaussianBlur":
            return RandomGaussianBlur(**({"radius": about["radius"]} if "radius" in about else {}))
        case "RandomHorizontalFlip":
            return RandomHorizontalFlip(**p)
        case "RandomVerticalFlip":
            return RandomVerticalFlip(**p)
        case "Crop":
            size = tuple(about["size"])
            return Crop(size=size, type=about["type"], padding=padding, ignore_label=ignore)
        case "Resize":
            return Resize(size=tuple(about["size"]))
        case "RGB2BGR" | "BGR2RGB":
            return RGB2BGR()
    raise AssertionError(f"unknown transform {about['kind']}")


def pipeline(facts: Mapping[str, Any], about: Mapping[str, Any]) -> Compose:
    """The whole pipeline that is described: of training where it scales, of validation else."""
    common = {"padding": tuple(facts["mean"]), "ignore_label": facts["ignore_label"]}
    size = tuple(about["crop"])
    last = [ToTensor(), Normalize(mean=facts["mean"], std=facts["std"])]
    if "scale" not in about:
        return Compose(transforms=[Crop(size=size, type="center", **common), *last])
    first = [
        RandScale(scale=tuple(about["scale"])),
        RandRotate(rotate=tuple(about["rotate"]), **common),
        RandomGaussianBlur(),
        RandomHorizontalFlip(),
        Crop(size=size, type="rand", **common),
    ]
    return Compose(transforms=[*first, *last])


def check_sums(found: np.ndarray, check: list[float], atol: float) -> None:
    values = found.astype(np.float64)
    sums = [values.sum(), np.abs(values).sum()]
    np.testing.assert_allclose(sums, check[:2], rtol=1e-6, atol=atol * values.size)
    np.testing.assert_allclose(values.ravel()[[0, -1]][: len(check) - 2], check[2:], atol=atol)


@pytest.mark.parity
@of_kind("transforms")
def test_single_transforms_give_the_recorded_pixels_labels_and_draws(folder: Folder) -> None:
    facts, arrays, expected = folder.facts, folder.numpy("data.npz"), folder.json("expected.json")
    image, label = arrays["image"].astype(np.float32), arrays["label"]
    atol, stride = folder.tolerance["image_atol"], facts["stored_stride"]
    cases = {name: about for name, about in expected.items() if "transform" in about}
    assert cases
    for name, about in cases.items():
        rng = random.Random(about["seed"])
        ours, ours_label = made(facts, facts["transforms"][about["transform"]])(image.copy(), label, rng)
        assert rng.random() == about["next_random"], name
        assert list(ours.shape) == about["shape"], name
        check_sums(ours, about["check"], atol)
        if not about["changed"]:
            assert np.array_equal(ours, image), name
            assert np.array_equal(ours_label, label), name
        if f"{name}_image" in arrays:
            np.testing.assert_allclose(ours[::stride, ::stride], arrays[f"{name}_image"], atol=atol, rtol=0)
            assert np.array_equal(ours_label, arrays[f"{name}_label"]), name


def recorded_pipelines(folder: Folder) -> dict[str, tuple[str, int]]:
    """Recorded name to the pipeline's name and its seed (0 for those that draw nothing)."""
    found = {}
    for key in folder.numpy("data.npz"):
        if key.startswith("pipe_") and key.endswith("_image"):
            name = key.removesuffix("_image")
            kind, _, seed = name.removeprefix("pipe_").rpartition("_")
            found[name] = (kind, int(seed)) if seed.isdigit() else (name.removeprefix("pipe_"), 0)
    return found


@pytest.mark.parity
@of_kind("transforms")
def test_whole_pipelines_give_the_recorded_samples(folder: Folder) -> None:
    facts, arrays, expected = folder.facts, folder.numpy("data.npz"), folder.json("expected.json")
    atol = folder.tolerance["normalised_image_atol"]
    recorded = recorded_pipelines(folder)
    if not recorded:
        pytest.skip(f"{folder.path} has no pipelines")
    for name, (kind, seed) in recorded.items():
        rng = random.Random(seed)
        image, label = arrays["image"].astype(np.float32), arrays["label"]
        ours, ours_label = pipeline(facts, facts["pipelines"][kind])(image, label, rng)
        np.testing.assert_allclose(ours, arrays[f"{name}_image"], atol=atol, rtol=0, err_msg=name)
        assert np.array_equal(ours_label, arrays[f"{name}_label"]), name
        if name in expected:
            assert rng.random() == expected[name]["next_random"], name
            check_sums(ours.numpy(), expected[name]["check"], atol)


@pytest.mark.parity
@of_kind("transforms")
def test_without_a_deviation_only_the_mean_is_subtracted(folder: Folder) -> None:
    check = folder.json("expected.json").get("normalize_mean_only")
    if check is None:
        pytest.skip(f"{folder.path} has no normalize_mean_only")
    arrays = folder.numpy("data.npz")
    image, label = ToTensor()(arrays["image"].astype(np.float32), arrays["label"])
    ours, same = Normalize(mean=folder.facts["mean"], std=None)(image, label)
    check_sums(ours.numpy(), check, folder.tolerance["image_atol"])
    assert torch.equal(same, label)
