import numpy as np
import pytest
from PIL import Image

from prunelab.transforms.classify import Colours, Window
from prunelab.transforms.crops import resized_crops

PLAIN = Colours(mean=(0.0, 0.0, 0.0))
HALVES = Colours(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), scale=255.0)


def by_pillow(image: np.ndarray, window: Window, flip: bool, size: tuple[int, int]) -> np.ndarray:
    top, left, height, width = window
    part = Image.fromarray(image[top : top + height, left : left + width])
    found = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR))
    return found[:, ::-1] if flip else found


@pytest.mark.parametrize(
    ("size", "exact"), [((32, 32), True), ((48, 40), True), ((24, 60), False), ((7, 5), False)]
)
def test_windows_are_resized_as_pillow_resizes_them(size, exact):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 30, 3), dtype=np.uint8)
    images[4] = images[4] // 128 * 255
    places, flips = rng.integers(0, 5, 60), rng.integers(0, 2, 60).astype(bool)
    tall, wide = rng.integers(1, 33, 60), rng.integers(1, 31, 60)
    windows = [
        Window(int(rng.integers(33 - h)), int(rng.integers(31 - w)), h, w)
        for h, w in zip(tall, wide, strict=True)
    ]
    found = resized_crops(images, places, windows, flips, size, PLAIN)
    wanted = [by_pillow(images[p], w, f, size) for p, w, f in zip(places, windows, flips, strict=True)]
    off = np.abs(found - np.stack(wanted).transpose(0, 3, 1, 2))
    assert found.dtype == np.float32
    # Where columns shrink much, Pillow may take them first, and rounds in another order.
    assert off.max() <= (0 if exact else 1)
    assert off.mean() < 0.05


def test_values_are_normalised_as_colours_say():
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    found = resized_crops(image, [0], [Window(0, 0, 32, 32)], [False], (32, 32), HALVES)
    assert np.array_equal(found[0], HALVES(image[0]).transpose(2, 0, 1))
    assert resized_crops(image, [], [], [], (4, 6), HALVES).shape == (0, 3, 4, 6)


def test_pictures_and_windows_that_are_not_there_are_refused():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(IndexError, match="places 2 to 2 of 2 pictures"):
        resized_crops(images, [2], [Window(0, 0, 32, 32)], [False], (8, 8), PLAIN)
    for window in (Window(1, 0, 32, 32), Window(0, -1, 8, 8), Window(0, 0, 0, 8)):
        with pytest.raises(IndexError, match="a window does not lie in a picture of 32x32"):
            resized_crops(images, [0], [window], [False], (8, 8), PLAIN)
