"""Paths of the original's documents are found where they lie, and new things go where they belong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expansionnet import layout
from expansionnet.lowering import model_config
from prunelab.errors import UserError

pytestmark = pytest.mark.usefixtures("alone")

RAW, SAVES = Path("github_ignore_material/raw_data"), Path("github_ignore_material/saves")


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders of data and of runs elsewhere."""
    found = {name: tmp_path / name.lower() for name in ("PRUNELAB_DATA", "PRUNELAB_RUNS")}
    for name, folder in found.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    return found


def put(path: Path) -> Path:
    """An empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_what_is_there_as_typed_is_meant() -> None:
    path = put(SAVES / "phase2_checkpoint.pth")
    put(RAW / "phase2_checkpoint.pth")
    assert layout.found(f"./{path}") == path
    assert layout.found(path.resolve()) == path.resolve()


def test_a_checkpoint_is_found_with_and_without_its_ending_in_either_folder() -> None:
    put(SAVES / "phase3_checkpoint")
    put(SAVES / "phase5_checkpoint.pth")
    assert layout.found(SAVES / "phase3_checkpoint.pth") == SAVES / "phase3_checkpoint"
    assert layout.found(RAW / "phase3_checkpoint") == SAVES / "phase3_checkpoint"
    assert layout.found(SAVES / "phase5_checkpoint") == SAVES / "phase5_checkpoint.pth"
    assert layout.found("phase5_checkpoint.pt") == Path("phase5_checkpoint.pt")


def test_data_and_runs_elsewhere_are_found_by_the_same_names(roots: dict[str, Path]) -> None:
    data, runs = roots.values()
    pictures = put(data / "MS_COCO_2014/a.jpg").parent
    features, weights = put(runs / "features.hdf5"), put(runs / "xe/last/config.json").parent
    assert layout.found(f"./{RAW}/MS_COCO_2014/") == pictures
    assert layout.found("MS_COCO_2014") == pictures
    assert layout.found(f"./{RAW}/") == data
    assert layout.found(RAW / "features.hdf5") == features
    assert layout.found(SAVES / "xe/last") == weights
    assert layout.found("nowhere") == Path("nowhere")
    assert layout.found("/nowhere/MS_COCO_2014") == Path("/nowhere/MS_COCO_2014")


def test_new_things_stay_where_typed_if_their_folder_is_there(roots: dict[str, Path], tmp_path: Path) -> None:
    runs = roots["PRUNELAB_RUNS"]
    assert layout.written(RAW / "features.hdf5") == runs / "features.hdf5"
    assert layout.written("mine/features.hdf5") == runs / "mine/features.hdf5"
    assert layout.written("features.hdf5") == runs / "features.hdf5"
    assert layout.written(tmp_path / "features.hdf5") == tmp_path / "features.hdf5"
    (tmp_path / RAW).mkdir(parents=True)
    assert layout.written(RAW / "features.hdf5") == RAW / "features.hdf5"


def test_without_other_folders_everything_lies_in_the_originals() -> None:
    assert layout.written(RAW / "features.hdf5") == RAW / "features.hdf5"


def test_the_newest_model_is_found_among_tours_and_checkpoints() -> None:
    with pytest.raises(UserError, match=r"no trained model in runs and github_ignore_material/saves"):
        layout.newest_model()
    for age, place in enumerate(("runs/tour-001/rf", "runs/mine", f"{SAVES}/end_to_end_xe")):
        os.utime(put(Path(place) / "best/config.json"), (age, age))
        assert layout.newest_model() == Path(place) / "best"


def test_sizes_that_are_typed_go_over_those_that_are_known() -> None:
    base = model_config({"model_size": "testing", "N_enc": 1})
    assert model_config({}, base) == base
    wider = model_config({"swin_embed_dim": 24, "ff": 7}, base)
    assert (wider.ff, wider.N_enc, wider.swin.embed_dim, wider.img_feature_dim) == (7, 1, 24, 48)
    with pytest.raises(UserError, match="img_feature_dim is 5, expected the backbone's 48"):
        model_config({"swin_embed_dim": 24, "img_feature_dim": 5}, base)
