"""Files of features agree with the recorded ones in layout, order and numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from expansionnet.data_generator import generate
from expansionnet.features.extractor import FeatureExtractor
from expansionnet.options import GenerateOptions
from testing.parity import Folder, of_kind

from .recorded import beside, swin_config


def options_of(folder: Folder, run: dict[str, str], place: Path) -> GenerateOptions:
    """The recorded command, with its pictures where the annotations say."""
    annotations = folder.json(folder.facts["annotations"])
    for image in annotations["images"]:
        target = place / "images" / image["filepath"] / "img"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(beside(folder, folder.facts["images_folder"]) / image["filename"], target)
    return GenerateOptions(
        save_model_path=str(folder.file(run["weights"])),
        output_path=str(place / f"{run['dtype']}.hdf5"),
        images_path=f"{place / 'images'}/",
        captions_path=str(folder.file(folder.facts["annotations"])),
        dtype=run["dtype"],
        batch_size=2,
        workers=0,
        device="cpu",
    )


@pytest.mark.parity
@of_kind("feature_generation")
def test_features_and_their_file_agree(folder: Folder, tmp_path: Path) -> None:
    layout = folder.json("layout.json")
    for run in folder.facts["runs"]:
        output = generate(options_of(folder, run, tmp_path))
        with h5py.File(output) as ours, h5py.File(folder.file(run["expected"])) as theirs:
            assert set(ours) == set(theirs)
            order = sorted(ours, key=lambda name: ours[name].id.get_offset())
            assert order == layout["dataset_names_in_written_order"]
            for name, about in layout["layout"][run["dtype"]].items():
                found = ours[name]
                assert list(found.shape) == about["shape"]
                assert found.dtype == np.dtype(about["dtype"])
                assert (found.chunks, found.compression) == (about["chunks"], about["compression"])
                off = np.abs(found[()].astype(np.float32) - theirs[name][()].astype(np.float32))
                assert off.max() <= folder.tolerance[run["dtype"]]
        assert FeatureExtractor.open(folder.file(run["weights"])).config == swin_config(
            {"drop_path_rate": 0.1, **folder.facts["swin"]}
        )
