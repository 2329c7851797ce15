"""Prepared pictures agree with the recorded ones."""

from __future__ import annotations

import numpy as np
import pytest

from expansionnet.features.preprocess import MEAN, STD, Preprocess
from prunelab.data.pictures import open_picture
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("image_preprocessing")
def test_pictures_of_every_mode_agree(folder: Folder) -> None:
    facts, expected = folder.facts, folder.numpy("expected.npz")
    assert (list(MEAN), list(STD)) == (facts["mean"], facts["std"])
    faithful = Preprocess(size=facts["target_size"], black=True)
    tolerance = facts["tolerance"]
    for image in facts["images"]:
        file = folder.file(image["file"])
        assert open_picture(file).mode == image["pil_mode"]
        found = faithful(file).numpy()
        off = np.abs(found - expected[image["expected_key"]])
        assert off.max() <= tolerance["one_level"]
        assert (off > tolerance["abs"]).mean() <= tolerance["max_fraction_off_by_one_level"]
        if image["becomes_black"]:
            converted = Preprocess(size=facts["target_size"])(file).numpy()
            assert found.std(axis=(1, 2)).max() < 1e-6
            assert np.abs(converted - found).max() > tolerance["one_level"]
