"""Names and colours of classes, and the ids of Cityscapes, are the recorded ones."""

from __future__ import annotations

import pytest

from acosp_seg.palette import read_colors, read_names, table_file
from acosp_seg.prepare import TRAIN_IDS
from testing.parity import Folder, of_kind


@pytest.mark.parity
@of_kind("palettes")
def test_names_and_colours_are_the_recorded_ones(folder: Folder) -> None:
    recorded = {k: v for k, v in folder.json("palettes.json").items() if "names" in v or "colors" in v}
    assert recorded
    for dataset, table in recorded.items():
        # The path as the configurations of the original write it.
        names, colors = (table_file(f"data/{dataset}/{dataset}_{kind}.txt") for kind in ("names", "colors"))
        assert names is not None
        assert colors is not None
        assert read_names(names) == table["names"]
        assert read_colors(colors).tolist() == table["colors"]


@pytest.mark.parity
@of_kind("palettes")
def test_cityscapes_ids_become_the_recorded_training_ids(folder: Folder) -> None:
    recorded = folder.json("palettes.json").get("cityscapes_id_to_train_id")
    if recorded is None:
        pytest.skip(f"{folder.path} has no map of ids")
    # Files have 8 bits: -1 is 255 in them.
    assert {int(k) % 256: v % 256 for k, v in recorded.items()} == {
        k: TRAIN_IDS[k] for k in (int(k) % 256 for k in recorded)
    }
