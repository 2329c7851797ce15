"""Sliding windows: sizes, places, equal results however it is computed, arguments left alone."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from acosp_seg.benches.predict_reference import PlainSettings, predict_plain
from acosp_seg.predict import IMAGENET_MEAN, IMAGENET_STD, Predictor, Windows, scaled_size, starts
from prunelab.errors import UserError


class Downsampled(nn.Module):
    """Two convolutions and half the size, as a zoom_factor below 8 would give."""

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride, 1)
        self.second = nn.Conv2d(6, classes, 3, 1, 1)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.second(self.first(x).relu()) * 3


def network(classes: int = 4, stride: int = 1) -> Downsampled:
    torch.manual_seed(classes)
    return Downsampled(classes, stride).eval()


def picture(high: int, wide: int) -> np.ndarray:
    return np.random.default_rng(high * wide).integers(0, 256, (high, wide, 3), dtype=np.uint8)


def test_the_longer_side_is_scaled_and_halves_are_rounded_to_even() -> None:
    assert scaled_size((360, 480), 1.0, 512) == (384, 512)
    assert scaled_size((500, 333), 0.5, 45) == (22, 15)  # 22.5 becomes 22
    assert scaled_size((31, 31), 0.5, 45) == (22, 22)
    assert scaled_size((31, 62), 1.0, 0) == (31, 62)
    assert scaled_size((2, 4000), 0.1, 100) == (1, 10)  # and never 0


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 200))
def test_windows_cover_a_side_from_end_to_end_and_overlap_by_a_third(crop: int, more: int) -> None:
    length = crop + more
    found = starts(length, crop, 2 / 3)
    assert found[0] == 0
    assert found[-1] == length - crop
    assert all(0 < b - a <= math.ceil(crop * 2 / 3) for a, b in pairwise(found))


@pytest.mark.parametrize("size", [(20, 30), (9, 40), (33, 12), (1, 1)])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.25)])
def test_every_way_to_compute_gives_what_the_plain_way_gives(
    size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    image = picture(*size)
    for classes, stride in ((4, 1), (7, 2)):
        model = network(classes, stride)
        plain = PlainSettings(
            classes=classes,
            crop=(13, 16),
            base_size=32,
            scales=scales,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        expected = predict_plain(model, image, plain)
        for double, batch in ((False, 0), (False, 1), (True, 3)):
            windows = Windows(
                classes=classes, crop=(13, 16), base_size=32, scales=scales, batch=batch, double=double
            )
            predictor = Predictor(model, windows)
            np.testing.assert_allclose(predictor.probabilities(image).numpy(), expected, rtol=0, atol=1e-5)
            labels = predictor.labels(image)
            assert labels.dtype == np.uint8
            assert np.mean(labels == expected.argmax(axis=2)) > 0.995


def test_a_picture_that_was_predicted_is_as_it_was() -> None:
    predictor = Predictor(network(), Windows(classes=4, crop=(13, 16)))
    for image in (picture(20, 30), picture(13, 16).astype(np.float32)):
        before = image.copy()
        first = predictor.labels(image)
        assert np.array_equal(predictor.labels(image), first)
        predictor.at_scale(image.astype(np.float32), image.shape[:2])
        assert np.array_equal(image, before)


def test_windows_go_through_the_network_as_many_at_a_time_as_asked() -> None:
    image = picture(40, 40)
    for batch, flip, expected in ((5, True, [8, 8, 8, 8]), (5, False, [4, 4, 4, 4]), (0, True, [32])):
        model = network()
        Predictor(model, Windows(classes=4, crop=(16, 16), batch=batch, flip=flip)).labels(image)
        assert model.batches == expected


def test_a_large_window_and_its_mirror_image_go_one_after_the_other_on_a_cpu() -> None:
    model = network()
    predictor = Predictor(model, Windows(classes=4, crop=(100, 120)))
    assert predictor.labels(picture(100, 120)).shape == (100, 120)
    assert model.batches == [1, 1]


def test_bfloat16_is_near_and_sums_stay_in_single_precision() -> None:
    model, windows = network(), Windows(classes=4, crop=(13, 16))
    image = picture(20, 30)
    near = Predictor(model, windows, amp=True).probabilities(image)
    assert near.dtype == torch.float32
    assert 0 < float((near - Predictor(model, windows).probabilities(image)).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"crop": (0, 5)}, "test_h and test_w are 0 and 5"),
        ({"stride_rate": 0.0}, "stride_rate is 0.0"),
        ({"scales": ()}, r"scales are \[\]"),
        ({"scales": (1.0, -1.0)}, r"scales are \[1.0, -1.0\]"),
    ],
)
def test_settings_without_meaning_are_refused_in_one_line(setting: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        Windows(**{"classes": 4, "crop": (5, 5), **setting})  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("double", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(double: bool) -> None:
    model, image = network(stride=2), picture(45, 70)
    windows = Windows(classes=4, crop=(17, 17), base_size=60, scales=(0.5, 1.0), double=double)
    expected = Predictor(model, windows).probabilities(image)
    model.to("cuda")
    found = Predictor(model, windows)
    torch.testing.assert_close(found.probabilities(image).cpu(), expected, rtol=0, atol=1e-3)
    assert found.labels(image).shape == (45, 70)
