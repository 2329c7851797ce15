import numpy as np
import pytest

from channel_prune.benches import data
from channel_prune.benches.data_reference import training_batch_plain
from prunelab.bench import Row
from prunelab.transforms.classify import Shift, pad_crop_flip


def test_batches_of_both_ways_are_equal_and_counted(monkeypatch):
    for name, value in (("PICTURES", 20), ("BATCH", 6), ("BATCHES", 2)):
        monkeypatch.setattr(data, name, value)
    row = data.ROWS["training-batches"]()
    assert isinstance(row, Row)  # comparing the results comes first, and stops at a difference
    assert row.work == 12
    assert row.unit == "pictures"


def test_a_difference_stops_the_row(monkeypatch):
    monkeypatch.setattr(data, "PICTURES", 20)
    monkeypatch.setattr(data, "training_batch_plain", lambda *_: np.zeros(3))
    with pytest.raises(AssertionError, match="training batches"):
        data.training_batches()


def test_the_plain_way_does_what_the_transform_says():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    shifts = [Shift(0, 8, True), Shift(5, 2, False)]
    made = training_batch_plain(images, [2, 0], shifts)
    wanted = [pad_crop_flip(images[place], shift) for place, shift in zip((2, 0), shifts, strict=True)]
    assert np.array_equal(made, np.stack(wanted))
