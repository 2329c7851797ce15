import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.errors import UserError
from prunelab.transforms.resize import resize_bilinear_tf1


def grey(rows: list[list[float]], dtype: type = np.uint8) -> np.ndarray:
    return np.repeat(np.array(rows, dtype)[:, :, None], 3, axis=2)


def pixel_by_pixel(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The definition, with nothing shared: places are output index times input size by output size."""
    (rows, columns, _), image = image.shape, image.astype(np.float64)
    out = np.empty((height, width, 3))
    for i in range(height):
        for j in range(width):
            y, x = i * rows / height, j * columns / width
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, u = y - top, x - left
            upper = image[top, left] * (1 - u) + image[top, right] * u
            lower = image[bottom, left] * (1 - u) + image[bottom, right] * u
            out[i, j] = upper * (1 - v) + lower * v
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_row_of_two_grows_to_four_and_repeats_its_last_pixel(dtype):
    made = resize_bilinear_tf1(grey([[10, 20]], dtype), 1, 4)
    assert made.dtype == np.float32
    assert made[0, :, 0].tolist() == [10, 15, 20, 20]


def test_a_row_of_four_shrinks_to_two_by_taking_every_second_pixel():
    assert resize_bilinear_tf1(grey([[1, 2, 30, 4]]), 1, 2)[0, :, 0].tolist() == [1, 30]


def test_a_row_of_five_shrinks_to_two_on_the_asymmetric_grid():
    # places 0 and 2.5
    assert resize_bilinear_tf1(grey([[0, 10, 20, 30, 40]]), 1, 2)[0, :, 0].tolist() == [0, 25]


def test_a_square_of_two_grows_to_three_in_both_directions():
    # places 0, 2/3, 4/3: the last lies beyond the last pixel
    made = resize_bilinear_tf1(grey([[0, 30], [60, 90]]), 3, 3)
    np.testing.assert_allclose(made[:, :, 1], [[0, 20, 30], [40, 60, 70], [60, 80, 90]], atol=1e-5)


def test_a_picture_of_one_pixel_fills_any_size():
    assert (resize_bilinear_tf1(grey([[7]]), 3, 5) == 7).all()


@settings(max_examples=60, deadline=None)
@given(
    before=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    after=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 1000),
)
def test_every_size_agrees_with_the_definition_and_stays_between_its_neighbours(before, after, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*before, 3), dtype=np.uint8)
    made = resize_bilinear_tf1(image, *after)
    np.testing.assert_allclose(made, pixel_by_pixel(image, *after), atol=2e-3, rtol=0)
    assert image.min() <= made.min() <= made.max() <= image.max()
    if before == after:
        assert np.array_equal(made, image)


def test_a_part_of_a_picture_needs_no_copy_of_its_own():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    part = image[3:20, 5:33][:, ::-1]
    assert np.array_equal(resize_bilinear_tf1(part, 9, 31), resize_bilinear_tf1(part.copy(), 9, 31))


def test_sizes_and_pictures_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="cannot be resized to 0x5"):
        resize_bilinear_tf1(grey([[1]]), 0, 5)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8 or float32"):
            resize_bilinear_tf1(wrong, 2, 2)
