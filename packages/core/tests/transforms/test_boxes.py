import colorsys
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.transforms.boxes import (
    ASPECTS,
    CANVAS,
    MEAN,
    PATCH,
    Colour,
    SsdChange,
    Window,
    cut_out,
    expand,
    flipped,
    relative,
    sample_patch,
    saturated,
    valid,
)
from prunelab.transforms.resize import resize_bilinear_tf1

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
WHOLE = Window(0, 0, 40, 60)
NO_CHANGE = Colour(0.0, 1.0, False)
BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.5, 0.9, 0.95]], np.float32)

edges = st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.05, 1.0)] * 2)
many_boxes = st.lists(edges, min_size=1, max_size=5).map(
    lambda rows: np.array([[y, x, min(y + h, 1), min(x + w, 1)] for y, x, h, w in rows], np.float32)
)


class Told:
    """Gives numbers that a test has written down."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def random(self) -> float:
        return float(self.values.pop(0))

    def randint(self, a: int, b: int) -> int:
        value = int(self.values.pop(0))
        assert a <= value <= b
        return value


@given(many_boxes, st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_boxes_stay_right_whatever_is_drawn(boxes, seed, third_attempt_lost):
    change = SsdChange(size=24, third_attempt_lost=third_attempt_lost)
    image, found, kept = change(PICTURE, boxes, random.Random(seed))
    assert image.shape == (24, 24, 3)
    assert image.dtype == found.dtype == np.float32
    assert (image == np.floor(image)).all()
    assert image.min() >= 0
    assert image.max() <= 255
    assert len(found) == len(kept) >= 1
    assert len(set(kept.tolist())) == len(kept)
    assert found.min() >= 0
    assert found.max() <= 1
    # Where something was cut only valid boxes are left; else all are there as they were.
    assert valid(found).all() or len(found) == len(boxes)


@given(many_boxes, st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_patch_holds_the_centres_and_overlaps_what_it_keeps(boxes, seed):
    rng = random.Random(seed)
    canvas = expand(WHOLE, rng)
    patch, inside = sample_patch(canvas, boxes, WHOLE, rng)
    assert len(inside) >= 1
    assert canvas.top <= patch.top <= patch.top + patch.height <= canvas.top + canvas.height
    assert canvas.left <= patch.left <= patch.left + patch.width <= canvas.left + canvas.width
    pixels = boxes[inside] * ([40, 60] * 2)
    middle = (pixels[:, :2] + pixels[:, 2:]) / 2
    assert (middle >= (patch.top, patch.left)).all()
    assert (middle <= (patch.top + patch.height, patch.left + patch.width)).all()
    if patch != canvas:
        # Sides are cut to whole pixels after they were drawn.
        assert int(canvas.width * PATCH[0]) <= patch.width <= canvas.width * PATCH[1]
        assert ASPECTS[0] - 0.1 < patch.width / patch.height < ASPECTS[1] + 0.1


def test_half_of_the_pictures_are_expanded_within_bounds_and_the_picture_lies_on_its_canvas():
    rng = random.Random(0)
    canvases = [expand(WHOLE, rng) for _ in range(2000)]
    grown = [c for c in canvases if c != WHOLE]
    assert 0.46 < len(grown) / 2000 < 0.54
    factors = np.array([c.width / 60 for c in grown])
    assert CANVAS[0] - 0.02 < factors.min() < 1.2
    assert 3.9 < factors.max() < CANVAS[1]
    for c in grown:
        assert c.top <= 0 <= c.top + c.height - 40
        assert c.left <= 0 <= c.left + c.width - 60


def test_a_seventh_of_the_patches_is_the_whole_and_half_of_the_pictures_are_flipped():
    rng = random.Random(1)
    bound = [sample_patch(WHOLE, BOXES[:1] * 0 + [0, 0, 1, 1], WHOLE, rng)[0] == WHOLE for _ in range(700)]
    # An object as large as the picture overlaps patches of a tenth or so of it: most bounds can be met.
    assert 1 / 7 < np.mean(bound) < 0.5
    change = SsdChange(size=16)
    mirrored = []
    for seed in range(300):
        draws = random.Random(seed)
        boxes = change(PICTURE, np.array([[0.0, 0.0, 1.0, 0.4]], np.float32), draws).boxes
        mirrored.append(boxes[0, 1] + boxes[0, 3] > 1)
    assert 0.35 < np.mean(mirrored) < 0.65


def test_what_is_drawn_is_what_is_done():
    # Colour: order 1, no brightness (0.5 of the range), factor 1; no expansion; the whole picture; no flip.
    image, boxes, kept = SsdChange(size=20)(PICTURE, BOXES, Told(1, 0.5, 0.5, 0.4, 6, 0.6))
    expected = resize_bilinear_tf1(PICTURE.astype(np.float32) / 255, 20, 20) * 255.5
    assert np.abs(image - np.floor(expected.clip(0, 255))).max() <= 1
    np.testing.assert_array_equal(boxes, BOXES)
    assert kept.tolist() == [0, 1]
    # The same with a flip.
    image, boxes, _ = SsdChange(size=20)(PICTURE, BOXES, Told(1, 0.5, 0.5, 0.4, 6, 0.4))
    np.testing.assert_array_equal(boxes, flipped(BOXES))
    # Twice as wide and high, the picture 10 pixels from the left and 5 from the top.
    factor = (2 - CANVAS[0]) / (CANVAS[1] - CANVAS[0]) + 1e-9
    told = Told(1, 0.5, 0.5, 0.6, factor, 10, 5, 6, 0.6)
    image, boxes, _ = SsdChange(size=80)(PICTURE, BOXES, told)
    np.testing.assert_allclose(
        boxes[0], [(5 + 4) / 80, (10 + 12) / 120, (5 + 20) / 80, (10 + 36) / 120], atol=1e-6
    )
    assert image[0, 0].tolist() == [123, 117, 104]  # 255.5 / 255 of the mean, cut
    assert not told.values


def test_the_third_attempt_counts_unless_it_is_to_be_lost():
    tiny = np.array([[0.5, 0.5, 0.56, 0.56]], np.float32)

    def drawn():
        # Twice a canvas of nearly four times the size, where the box is too small; then the picture itself.
        too_small = (0.6, 0.999, 0, 0, 6)
        return Told(1, 0.5, 0.5, *too_small, *too_small, 0.4, 0, 0.5, 0.5, 9, 12, 0.6)

    _, kept_boxes, _ = SsdChange(size=20)(PICTURE, tiny, drawn())
    _, lost_boxes, _ = SsdChange(size=20, third_attempt_lost=True)(PICTURE, tiny, drawn())
    np.testing.assert_array_equal(lost_boxes, tiny)
    assert kept_boxes[0, 2] - kept_boxes[0, 0] > 1.3 * 0.06


def test_a_picture_without_objects_changes_its_colours_and_may_flip_only():
    told = Told(1, 0.5, 0.5, 0.6)
    image, boxes, kept = SsdChange(size=20)(PICTURE, np.zeros((0, 4), np.float32), told)
    assert boxes.shape == (0, 4)
    assert not len(kept)
    assert not told.values
    assert np.abs(image - resize_bilinear_tf1(PICTURE, 20, 20)).max() < 2


@given(many_boxes)
@settings(max_examples=30, deadline=None)
def test_flipping_twice_is_nothing_and_keeps_boxes_right(boxes):
    np.testing.assert_allclose(flipped(flipped(boxes)), boxes, atol=1e-6)
    once = flipped(boxes)
    assert (once[:, :2] <= once[:, 2:]).all()


def test_a_window_of_the_picture_is_cut_with_the_mean_colour_beyond_it():
    inner = cut_out(PICTURE, Window(5, 10, 20, 30), NO_CHANGE)
    np.testing.assert_allclose(inner * 255, PICTURE[5:25, 10:40], atol=1e-4)
    outer = cut_out(PICTURE, Window(-5, -10, 50, 100), NO_CHANGE)
    np.testing.assert_allclose(outer[5:45, 10:70] * 255, PICTURE, atol=1e-4)
    outer[5:45, 10:70] = np.array(MEAN, np.float32) / 255
    np.testing.assert_allclose(outer * 255, np.broadcast_to(MEAN, outer.shape), atol=1e-4)
    beside = cut_out(PICTURE, Window(-50, -50, 10, 10), NO_CHANGE)
    np.testing.assert_allclose(beside * 255, np.broadcast_to(MEAN, beside.shape), atol=1e-4)


def test_boxes_are_told_relative_to_a_window_and_clipped():
    found = relative(BOXES, WHOLE, Window(10, 12, 20, 24))
    np.testing.assert_allclose(found[0], [0, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.3, 0.75, 1, 1], atol=1e-6)
    np.testing.assert_allclose(relative(BOXES, WHOLE, WHOLE), BOXES, atol=1e-6)


def test_too_small_and_too_large_boxes_are_not_valid():
    rows = [[0, 0, 0.02, 0.5], [0, 0, 0.03, 0.03], [0, 0, 0.04, 0.04], [0, 0, 0.95, 0.95], [0, 0, 0.9, 0.9]]
    assert valid(np.array(rows)).tolist() == [False, False, True, False, True]


@pytest.mark.oracle
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.37, 1.5])
def test_saturation_is_that_of_hue_saturation_and_value(factor):
    pixels = np.random.default_rng(2).random((6, 5, 3)).astype(np.float32)
    pixels[0, 0] = 0
    pixels[0, 1] = 0.5
    expected = np.empty_like(pixels)
    for place in np.ndindex(6, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[place].tolist())
        expected[place] = colorsys.hsv_to_rgb(hue, min(saturation * factor, 1), value)
    np.testing.assert_allclose(saturated(pixels, factor), expected, atol=1e-6)


def test_brightness_comes_first_in_one_case_of_four_and_pixels_are_clipped():
    orders = [Colour.draw(random.Random(seed)).brightness_first for seed in range(2000)]
    assert 0.22 < np.mean(orders) < 0.28
    first, last = Colour(-0.1, 1.5, True)(PICTURE), Colour(-0.1, 1.5, False)(PICTURE)
    assert np.abs(first - last).max() > 0.01
    for changed in (first, last):
        assert changed.min() == 0
        assert changed.max() <= 1
    np.testing.assert_allclose(NO_CHANGE(PICTURE) * 255, PICTURE, atol=1e-4)
