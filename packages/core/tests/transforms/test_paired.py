import random

import numpy as np
import pytest
import torch

from prunelab.errors import UserError
from prunelab.transforms import (
    BGR2RGB,
    MEAN,
    RGB2BGR,
    STD,
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

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.float32)
LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8)


class Told:
    """Gives the numbers that it was told, and fails when asked for more."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)

    def randint(self, a: int, b: int) -> int:
        found = int(self.numbers.pop(0))
        assert a <= found <= b
        return found


def test_scaling_takes_the_drawn_factor_and_rounds_the_size_to_even_halves():
    image, label = RandScale(scale=(0.5, 1.5))(IMAGE, LABEL, Told(0.25))  # 0.75: 4.5 x 6
    assert image.shape == (4, 6, 3)
    assert label.shape == (4, 6)
    assert set(np.unique(label)) <= set(range(48))
    image, _ = RandScale(scale=(1.0, 3.0), aspect=(0.25, 4.25))(IMAGE, LABEL, Told(0.5, 0.9375))
    assert image.shape == (6, 32, 3)  # 2 * 2 wide, 2 / 2 high


def test_turning_fills_with_padding_and_the_ignored_label():
    turn = RandRotate(rotate=(80, 100), padding=(1, 2, 3), ignore_label=77)
    image, label = turn(IMAGE, LABEL, Told(0.1, 0.5))
    assert image.shape == IMAGE.shape
    assert image[0, 0].tolist() == [1, 2, 3]
    assert label[0, 0] == 77
    assert label[2, 4] == LABEL[3, 5]  # by 90 degrees about the corner of four pixels
    same = turn(IMAGE, LABEL, Told(0.5))
    assert same[0] is IMAGE
    assert same[1] is LABEL


def test_blurring_changes_the_picture_alone():
    image, label = RandomGaussianBlur()(IMAGE, LABEL, Told(0.49))
    assert image.std() < IMAGE.std()
    assert label is LABEL
    assert RandomGaussianBlur()(IMAGE, LABEL, Told(0.5))[0] is IMAGE


def test_mirroring_swaps_the_sides_of_both():
    image, label = RandomHorizontalFlip()(IMAGE, LABEL, Told(0.4))
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert np.array_equal(label, LABEL[:, ::-1])
    image, label = RandomVerticalFlip(p=0.9)(IMAGE, LABEL, Told(0.8))
    assert np.array_equal(image, IMAGE[::-1])
    assert np.array_equal(label, LABEL[::-1])
    assert RandomVerticalFlip()(IMAGE, LABEL, Told(0.6))[1] is LABEL


def test_a_random_crop_draws_its_row_first():
    image, label = Crop(size=(2, 3), type="rand")(IMAGE, LABEL, Told(4, 1))
    assert np.array_equal(label, LABEL[4:6, 1:4])
    assert np.array_equal(image, IMAGE[4:6, 1:4])


def test_a_small_picture_is_padded_around_with_the_odd_pixel_after_it():
    image, label = Crop(size=(9, 4), padding=(9, 8, 7), ignore_label=99)(IMAGE, LABEL)
    assert label[0].tolist() == [99] * 4
    assert label[7:].tolist() == [[99] * 4] * 2
    assert np.array_equal(label[1:7], LABEL[:, 2:6])
    assert image[8, 3].tolist() == [9, 8, 7]
    with pytest.raises(UserError, match=r"a picture of 6x8 is smaller than the crop \[9, 4\]"):
        Crop(size=(9, 4), padding=None)(IMAGE, LABEL)


def test_resizing_and_swapping_colours():
    image, label = Resize(size=(3, 4))(IMAGE, LABEL)
    assert image.shape == (3, 4, 3)
    assert label.tolist() == LABEL[::2, ::2].tolist()
    swapped, same = RGB2BGR()(IMAGE, LABEL)
    assert np.array_equal(swapped[..., 0], IMAGE[..., 2])
    assert same is LABEL
    assert np.array_equal(BGR2RGB()(swapped, LABEL)[0], IMAGE)


def test_tensors_are_normalised_and_arrays_left_alone():
    before = IMAGE.copy()
    image, label = Compose(transforms=[ToTensor(), Normalize()])(IMAGE, LABEL)
    assert np.array_equal(IMAGE, before)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    wanted = (IMAGE.astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(image.permute(1, 2, 0), wanted, atol=1e-5, rtol=0)
    image, _ = Normalize(mean=(1, 2, 3), std=None)(torch.ones(3, 2, 2), label)
    assert image[:, 0, 0].tolist() == [0, -1, -2]


def test_without_a_generator_pythons_own_is_drawn_from():
    steps = Compose(transforms=[RandScale(scale=(0.5, 2)), Crop(size=(5, 5), type="rand")])
    random.seed(3)
    one = steps(IMAGE, LABEL)
    other = steps(IMAGE, LABEL, random.Random(3))
    assert np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandScale(scale=(0, 1)), r"scale is \[0, 1\], expected two numbers with 0 < min <= max"),
        (lambda: RandScale(scale=(1, 2), aspect=(2, 1)), r"aspect is \[2, 1\]"),
        (
            lambda: RandRotate(rotate=(10, -10)),
            r"rotate is \[10, -10\], expected two numbers with min <= max",
        ),
        (lambda: Crop(size=(0, 4)), r"crop size is \[0, 4\]"),
        (lambda: Crop(size=(4, 4), type="middle"), "crop type is 'middle', expected rand or center"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
