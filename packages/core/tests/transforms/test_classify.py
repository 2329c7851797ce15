import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from prunelab.errors import UserError
from prunelab.transforms.classify import (
    CIFAR,
    ILSVRC,
    IMAGENET,
    Colours,
    Shift,
    Window,
    central_crop,
    distorted_crop,
    draw_shift,
    draw_window,
    normalised_batch,
    pad_crop_flip,
    pad_crop_flip_batch,
    scaled_size,
    smooth_resize,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
PLAIN = Colours(mean=(0.0, 0.0, 0.0))


class Recorded:
    """Random numbers that were written down."""

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)

    def random(self) -> float:
        return next(self.values)

    def randint(self, a: int, b: int) -> int:
        value = int(next(self.values))
        assert a <= value <= b
        return value


def test_colours_are_scaled_then_shifted_then_divided():
    pixel = np.array([[[255, 51, 0]]], np.uint8)
    np.testing.assert_allclose(CIFAR(pixel)[0, 0], [129.7 / 63, -72 / 62.1, -113.9 / 66.7], rtol=1e-6)
    np.testing.assert_allclose(ILSVRC(pixel)[0, 0], [131.32, -65.78, -103.94], rtol=1e-6)
    np.testing.assert_allclose(
        IMAGENET(pixel)[0, 0], [0.515 / 0.229, -0.256 / 0.224, -0.406 / 0.225], rtol=1e-6
    )
    assert CIFAR.border().tolist() == [0, 0, 0]
    np.testing.assert_allclose(IMAGENET.border(), [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)


@pytest.mark.oracle
def test_colours_for_pytorch_are_those_of_torchvision():
    steps = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    theirs = v2.functional.normalize(steps(IMAGES[0]), list(IMAGENET.mean), list(IMAGENET.std))
    ours = torch.from_numpy(IMAGENET(IMAGES[0])).permute(2, 0, 1)
    torch.testing.assert_close(ours, theirs.as_subclass(torch.Tensor), atol=1e-6, rtol=1e-6)


def test_a_draw_is_row_then_column_then_mirror():
    assert draw_shift(Recorded(3, 8, 0.49)) == Shift(3, 8, True)
    assert draw_shift(Recorded(0, 1, 0.5)) == Shift(0, 1, False)


def test_a_crop_moves_the_picture_and_fills_with_the_border():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)  # red 0, 3 above 6, 9
    red = [pad_crop_flip(image, Shift(top, left, flip), PLAIN, padding=1)[0].tolist() for top, left, flip in
           ((1, 1, False), (1, 1, True), (2, 0, False), (0, 2, True))]  # fmt: skip
    assert red == [[[0, 3], [6, 9]], [[3, 0], [9, 6]], [[0, 6], [0, 0]], [[0, 0], [0, 3]]]


def test_padding_is_zero_after_normalisation_or_black_before_it():
    shift = Shift(0, 4, False)
    assert (pad_crop_flip(IMAGES[0], shift, CIFAR)[:, :4] == 0).all()
    black = pad_crop_flip(IMAGES[0], shift, IMAGENET)[:, 0, 0]
    assert np.array_equal(black, IMAGENET(np.zeros(3)))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 9),
    padding=st.integers(0, 6),
    colours=st.sampled_from([CIFAR, ILSVRC, IMAGENET]),
)
def test_many_at_once_are_the_same_bits_as_one_by_one(seed, count, padding, colours):
    rng = random.Random(seed)
    places = [rng.randrange(len(IMAGES)) for _ in range(count)]
    shifts = [draw_shift(rng, padding) for _ in range(count)]
    made = pad_crop_flip_batch(IMAGES, places, shifts, colours, padding=padding)
    assert made.shape == (count, 3, 32, 32)
    for picture, place, shift in zip(made, places, shifts, strict=True):
        assert np.array_equal(picture, pad_crop_flip(IMAGES[place], shift, colours, padding=padding))


def test_pictures_of_other_shapes_and_whole_batches_are_normalised():
    wide = np.random.default_rng(1).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    made = normalised_batch(wide, [2, 0], CIFAR)
    assert np.array_equal(made, CIFAR(wide[[2, 0]]).transpose(0, 3, 1, 2))
    with pytest.raises(IndexError, match="places 0 to 3 of 3"):
        normalised_batch(wide, [0, 3], CIFAR)
    with pytest.raises(IndexError, match="places -1"):
        normalised_batch(wide, [-1], CIFAR)


def test_the_crops_of_many_draws_are_uniform():
    rng = random.Random(0)
    shifts = np.array([draw_shift(rng) for _ in range(9000)])
    for column in (0, 1):
        assert np.abs(np.bincount(shifts[:, column], minlength=9) - 1000).max() < 150
    assert abs(shifts[:, 2].mean() - 0.5) < 0.03


@settings(max_examples=150, deadline=None)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), seed=st.integers(0, 10_000))
def test_windows_lie_in_the_picture_and_within_the_bounds(size, seed):
    height, width = size
    top, left, tall, wide = draw_window(height, width, random.Random(seed))
    assert 0 <= top <= height - tall
    assert 0 <= left <= width - wide
    if (tall, wide) != size:
        assert 0.1 * height * width <= tall * wide <= height * width
        # width is height times a proportion, rounded
        assert (wide - 0.5) / tall <= 1.33
        assert (wide + 0.5) / tall >= 0.75


def test_windows_vary_in_area_and_place_and_reach_every_corner():
    rng = random.Random(1)
    found = np.array([draw_window(200, 300, rng) for _ in range(3000)])
    share = found[:, 2] * found[:, 3] / 60_000
    assert share.min() < 0.13
    assert share.max() > 0.75  # a square of 200, nearly
    for place, size, most in ((0, 2, 200), (1, 3, 300)):
        assert found[:, place].min() == 0
        assert (found[:, place] + found[:, size]).max() == most


def test_a_window_is_drawn_as_proportion_height_row_and_column():
    # 100 x 100: height from round(sqrt(500)) = 22 to 100, width the same
    assert draw_window(100, 100, Recorded(0.25 / 0.58, 50, 7, 50)) == Window(7, 50, 50, 50)
    # a window of 31 pixels covers less than a tenth: the next try has the proportion 3/4 (115 at most)
    drawn = Recorded(0.25 / 0.58, 31, 0.0, 80, 20, 40)
    assert draw_window(100, 100, drawn) == Window(20, 40, 80, 60)


def test_a_picture_that_no_window_fits_is_taken_whole():
    assert draw_window(1, 100, random.Random(0)) == Window(0, 0, 1, 100)
    assert draw_window(30, 40, random.Random(0), attempts=0) == Window(0, 0, 30, 40)


def test_a_window_is_mirrored_before_it_is_resized():
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2:4] = [[10] * 3, [20] * 3]
    window = Window(1, 2, 1, 2)
    assert distorted_crop(image, window, False, side=4)[0, :, 0].tolist() == [10, 15, 20, 20]
    assert distorted_crop(image, window, True, side=4)[0, :, 0].tolist() == [20, 15, 10, 10]


def test_the_longer_side_is_rounded_down_and_the_middle_too():
    assert scaled_size(375, 500, 256) == (256, 341)
    assert scaled_size(500, 333, 256) == (384, 256)
    assert scaled_size(100, 100, 256) == (256, 256)
    image = np.zeros((8, 11, 3), np.uint8)
    image[:, :, 0] = np.arange(11)
    image[:, :, 1] = np.arange(8)[:, None]
    middle = central_crop(image, 8, 5)
    assert middle[0, :, 0].tolist() == [3, 4, 5, 6, 7]
    assert middle[:, 0, 1].tolist() == [1, 2, 3, 4, 5]


def test_the_evaluation_crop_has_the_published_size():
    rng = np.random.default_rng(0)
    for size in ((375, 500), (500, 333), (60, 60), (256, 256)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        assert central_crop(image).shape == (224, 224, 3)
    with pytest.raises(UserError, match="crop of 224 pixels does not fit a shorter side of 200"):
        central_crop(IMAGES[0], 200)


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(300, 500), (61, 40), (224, 224)])  # whose middles torchvision finds alike
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_the_smooth_evaluation_crop_is_that_of_torchvision(size, how):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    resize = v2.Resize(64, getattr(v2.InterpolationMode, how.upper()))
    theirs = v2.Compose([resize, v2.CenterCrop(56)])(v2.functional.to_pil_image(image))
    assert np.array_equal(central_crop(image, 64, 56, smooth_resize(how)), np.asarray(theirs, np.float32))
