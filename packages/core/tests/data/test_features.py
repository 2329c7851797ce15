from pathlib import Path

import h5py
import numpy as np
import pytest

from prunelab.data.features import (
    FolderFeatures,
    FolderWriter,
    Hdf5Features,
    check_features,
    copy_to_store,
    open_features,
    read_batch,
    write_hdf5,
    writing_features,
)
from prunelab.data.loader import make_loader
from prunelab.data.store import FeatureStore
from prunelab.errors import UserError

VALUES = {i: np.random.default_rng(i).standard_normal((i % 3 + 1, 5)).astype(np.float32) for i in range(9)}


def folder(path: Path) -> Path:
    path.mkdir()
    for image_id, rows in VALUES.items():
        if image_id % 2:
            np.save(path / f"{image_id}.npy", rows)
        else:
            np.savez(path / f"{image_id}.npz", feat=rows, box=rows[:, :4])
    return path


def hdf5(path: Path, suffix: str) -> Path:
    with h5py.File(path, "w") as file:
        for image_id, rows in VALUES.items():
            file.create_dataset(f"{image_id}{suffix}", data=rows)
    return path


def test_every_layout_is_recognised_and_gives_the_same_rows(tmp_path: Path):
    paths = [
        folder(tmp_path / "folder"),
        hdf5(tmp_path / "plain.h5", ""),
        hdf5(tmp_path / "features.data", "_features"),
    ]
    assert copy_to_store(open_features(paths[0]), VALUES, tmp_path / "store", dtype="float32") == 9
    assert copy_to_store(open_features(paths[0]), VALUES, tmp_path / "store", dtype="float32") == 0
    kinds = [FolderFeatures, Hdf5Features, Hdf5Features, FeatureStore]
    for path, kind in zip([*paths, tmp_path / "store"], kinds, strict=True):
        source = open_features(path)
        assert isinstance(source, kind)
        for image_id, rows in VALUES.items():
            assert image_id in source
            found = source.get(image_id)
            assert found.dtype == np.float32
            assert np.array_equal(found, rows)
        assert 77 not in source
        with pytest.raises(UserError, match="no features of image 77"):
            source.get(77)


@pytest.mark.parametrize("kind", ["folder", "hdf5", "store"])
def test_workers_read_what_the_main_process_reads_after_it_has_read(tmp_path: Path, kind: str):
    source = open_features(folder(tmp_path / "folder"))
    if kind == "hdf5":
        source = open_features(hdf5(tmp_path / "f.h5", ""))
    if kind == "store":
        copy_to_store(source, VALUES, tmp_path / "store", dtype="float32")
        source = open_features(tmp_path / "store")

    class Rows:
        def __len__(self) -> int:
            return len(VALUES)

        def __getitem__(self, index: int) -> np.ndarray:
            return source.get(index)

    source.get(0)
    options = {"batch_size": 2, "collate": list, "seed": 0, "shuffle": True, "drop_last": False}
    for none, two in zip(
        make_loader(Rows(), **options), make_loader(Rows(), workers=2, **options), strict=True
    ):
        assert all(np.array_equal(a, b) for a, b in zip(none, two, strict=True))


def test_old_shapes_become_rows_of_float32(tmp_path: Path):
    np.save(tmp_path / "1.npy", np.arange(6.0))
    np.save(tmp_path / "2.npy", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    source = open_features(tmp_path)
    assert source.get(1).shape == (1, 6)
    assert source.get(2).shape == (6, 4)
    assert source.get(2).dtype == np.float32


def test_broken_files_are_one_clear_line_naming_the_file(tmp_path: Path):
    np.save(tmp_path / "1.npy", np.zeros((3, 4)))
    good = (tmp_path / "1.npy").read_bytes()
    broken = {
        2: good[:-1],
        3: good[:40],
        4: b"",
        5: b"<html>not found</html>",
        6: b"PK\x03\x04 half a zip",
    }
    for image_id, raw in broken.items():
        (tmp_path / f"{image_id}.npy").write_bytes(raw)
    np.save(tmp_path / "7.npy", np.array(["a", "b"]))
    np.save(tmp_path / "8.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "9.npy", np.zeros((0, 4)))
    np.savez(tmp_path / "10.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(tmp_path / "11.npy", np.float32(3))
    source = open_features(tmp_path)
    for image_id in (*broken, 7, 8, 9, 10, 11):
        with pytest.raises(UserError, match=rf"{tmp_path}/{image_id}\.np[yz]: ") as caught:
            source.get(image_id)
        assert "\n" not in str(caught.value)


def test_wrong_places_are_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_features(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no features found"):
        open_features(tmp_path)
    (tmp_path / "x.h5").write_text("text")
    with pytest.raises(UserError, match="not a file of features"):
        open_features(tmp_path / "x.h5")
    raw = hdf5(tmp_path / "y.h5", "").read_bytes()
    (tmp_path / "x.h5").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        open_features(tmp_path / "x.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(UserError, match="holds no data set"):
        open_features(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.create_group("1")
        file["2"] = "text"
    odd = open_features(tmp_path / "odd.h5")
    with pytest.raises(UserError, match="data set '1' cannot be read"):
        odd.get(1)
    with pytest.raises(UserError, match=r"data set '2': holds .*; expected rows of numbers"):
        odd.get(2)


def test_batches_of_every_layout_are_padded_and_equal(tmp_path: Path):
    source = open_features(folder(tmp_path / "folder"))
    copy_to_store(source, VALUES, tmp_path / "store", dtype="float32")
    ids = [3, 8, 3, 1]
    for each in (
        source,
        open_features(hdf5(tmp_path / "f.h5", "_features")),
        FeatureStore(tmp_path / "store"),
    ):
        batch, counts = read_batch(each, ids)
        assert (batch.shape, batch.dtype, counts.tolist()) == ((4, 3, 5), np.float32, [1, 3, 1, 2])
        for rows, count, image_id in zip(batch, counts, ids, strict=True):
            assert np.array_equal(rows[:count], VALUES[image_id])
            assert not rows[count:].any()


def test_an_hdf5_file_in_half_precision_stays_so_and_other_types_become_float32(tmp_path: Path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["1_features"] = np.ones((2, 3), np.float16)
        file["2_features"] = np.ones((2, 2, 3), np.float16)
        file["3_features"] = np.ones(3)
        file["4_features"] = np.ones((2, 4), np.float16)
        file["5_features"] = np.array(["a"], "S1")
        file["1_cls_prob"] = np.ones(2)
        file["1_img"] = np.ones((3, 2, 2), np.float32)
    source = Hdf5Features(tmp_path / "f.h5")
    assert read_batch(source, [1, 2])[0].dtype == np.float16
    batch, counts = read_batch(source, [2, 3])
    assert (batch.dtype, batch.shape, counts.tolist()) == (np.float32, (2, 4, 3), [4, 1])
    with pytest.raises(UserError, match=r"image 4 are 4 values wide; expected 3, as those of image 1"):
        read_batch(source, [1, 4])
    with pytest.raises(UserError, match=r"'5_features': holds \|S1"):
        read_batch(source, [5])
    assert Hdf5Features(tmp_path / "f.h5", suffix="_img").array(1).shape == (3, 2, 2)


def test_missing_features_are_counted_and_the_first_five_named(tmp_path: Path):
    source = open_features(hdf5(tmp_path / "f.h5", ""))
    check_features(source, VALUES, where="f.h5")
    with pytest.raises(UserError, match=r"^f.h5: no features of 7 of 12 images: 20, 21, 22, 23, 24, \.\.\.$"):
        check_features(source, [1, 2, 3, 4, 5, *range(20, 27)], where="f.h5")


def test_a_folder_is_written_file_by_file_and_knows_what_is_whole(tmp_path: Path, monkeypatch):
    writer = FolderWriter(tmp_path / "f")
    writer.add(3, VALUES[3])
    writer.add(4, np.arange(5.0))
    assert 3 in writer
    assert 5 not in writer
    assert open_features(tmp_path / "f").get(4).tolist() == [[0, 1, 2, 3, 4]]
    whole = (tmp_path / "f/3.npy").read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", bytes(len(whole))):
        (tmp_path / "f/3.npy").write_bytes(damaged)
        assert 3 not in writer

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"6\.npy: cannot be written: No space left"):
        writer.add(6, VALUES[6])
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["3.npy", "4.npy"]


def test_a_folder_and_a_store_are_written_alike(tmp_path: Path):
    for kind in (False, True):
        with writing_features(tmp_path / str(kind), store=kind, width=5) as writer:
            for image_id, rows in VALUES.items():
                writer.add(image_id, rows)
        source = open_features(tmp_path / str(kind))
        assert isinstance(source, FeatureStore if kind else FolderFeatures)
        assert all(np.array_equal(source.get(i), rows) for i, rows in VALUES.items())


def test_missing_images_are_found_by_one_look_at_the_folder(tmp_path: Path, monkeypatch):
    path = folder(tmp_path / "folder")
    (path / "notes.npy").touch()
    source = open_features(path)
    monkeypatch.setattr(FolderFeatures, "__contains__", None)
    check_features(source, VALUES, where=path)
    with pytest.raises(UserError, match=r"folder: no features of 7 of 9 images: 20, 21, 22, 23, 24, \.\.\.$"):
        check_features(source, [1, 2, *range(20, 27)], where=path)


def test_arrays_are_written_as_hdf5(tmp_path: Path):
    write_hdf5(tmp_path / "a.h5", {"x": np.arange(3, dtype=np.uint32)})
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"].dtype == np.uint32
        assert file["x"][:].tolist() == [0, 1, 2]
