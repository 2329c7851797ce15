import random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.errors import UserError
from prunelab.transforms import Compose, Normalize, ToTensor, normalised
from prunelab.transforms.window import Box, RandomCrop, resize_linear, resize_nearest

CLOSE = 1e-4  # grey levels: a few units in the last place
TINY = 1e-3  # where a side has a pixel or two, OpenCV leaves Intel's library and its way to round places


def picture(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 20, (height, width), dtype=np.uint8)


def assert_same(
    crop: RandomCrop, image: np.ndarray, label: np.ndarray, seed: int, atol: float = CLOSE
) -> None:
    """The crop must be that of whole pictures, after the same draws."""
    long, short = random.Random(seed), random.Random(seed)
    theirs, their_label = Compose(transforms=crop.steps)(image.astype(np.float32), label, long)
    ours, our_label = crop(image, label, short)
    assert long.random() == short.random()
    assert ours.dtype == theirs.dtype
    assert our_label.dtype == their_label.dtype
    np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)
    assert np.array_equal(our_label, their_label)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    scale=st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.5)),
    angle=st.floats(0.0, 180.0),
    seed=st.integers(0, 10_000),
)
def test_what_a_crop_shows_is_what_the_whole_picture_would_give(size, crop, scale, angle, seed):
    image, label = picture(*size, seed)
    random_crop = RandomCrop(scale=scale, rotate=(-angle, angle), size=crop, ignore_label=33)
    if round(min(size) * scale[0]) > 0:  # there is something left of it
        assert_same(random_crop, image, label, seed, TINY)


@pytest.mark.parametrize("intel", [True, False])
def test_crops_of_a_larger_picture_agree_whichever_way_opencv_computes(intel):
    image, label = picture(301, 517)
    crop = RandomCrop(scale=(0.5, 2.0), rotate=(-10, 10), size=(129, 161))
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(intel)
    try:
        for seed in range(12):
            assert_same(crop, image, label, seed)
        drawn = [crop.draw(301, 517, random.Random(seed)) for seed in range(12)]
    finally:
        cv2.ipp.setUseIPP(before)
    assert {(d.angle is None, d.blur) for d in drawn} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert {d.flip for d in drawn} == {True, False}


def test_a_picture_of_floats_gives_the_same_as_one_of_bytes():
    image, label = picture(40, 60)
    crop = RandomCrop(scale=(0.5, 2.0), rotate=(-10, 10), size=(33, 25))
    one, other = (crop(i, label, random.Random(4))[0] for i in (image, image.astype(np.float32)))
    assert np.array_equal(one, other)


def test_normalising_in_one_go_gives_the_same_numbers():
    image = picture(37, 21)[0].astype(np.float32) * 0.99
    wanted, _ = Normalize()(*ToTensor()(image, image[..., 0]))
    assert np.array_equal(normalised(image), wanted.numpy())
    assert np.array_equal(normalised(image[:, ::-1]), wanted.numpy()[:, :, ::-1])


def test_parts_of_a_resized_picture_join_to_the_whole():
    image, label = picture(23, 31)
    whole = cv2.resize(image.astype(np.float32), None, fx=1.7, fy=1.7)
    whole_label = cv2.resize(label, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_NEAREST)
    for box in (Box(0, 20, 0, 10), Box(20, 39, 10, 53), Box(5, 6, 52, 53)):
        np.testing.assert_allclose(resize_linear(image, 1.7, box), box.of(whole), atol=CLOSE, rtol=0)
        assert np.array_equal(resize_nearest(label, 1.7, box), box.of(whole_label))


def test_a_picture_that_scaling_leaves_nothing_of_is_refused():
    image, label = picture(1, 9)
    with pytest.raises(UserError, match=r"a picture of 1x9 is too small to be scaled by 0\.3"):
        RandomCrop(scale=(0.3, 0.3), rotate=(-1, 1), size=(4, 4))(image, label)
    with pytest.raises(UserError, match="rotate is"):
        RandomCrop(scale=(1, 2), rotate=(1, -1), size=(4, 4))
