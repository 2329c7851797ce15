"""The file of features: a kill at any moment takes nothing back, and any number of processes may write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from expansionnet.config import SwinConfig
from expansionnet.features import files as feature_files
from expansionnet.features.extractor import Origin
from expansionnet.features.files import Hdf5Parts
from prunelab.errors import UserError
from testing.killing import Killed, Killer

SHAPE, IDS = (3, 4), [7, 3, 12, 5, 9]
ORIGIN = Origin(swin=SwinConfig(), sha256="0" * 64, weights="", dtype="fp32")


def rows_of(image_id: int) -> np.ndarray:
    return np.random.default_rng(image_id).standard_normal(SHAPE).astype(np.float32)


def parts(place: Path, dtype: str = "float32") -> Hdf5Parts:
    return Hdf5Parts(place / "f.hdf5", IDS, SHAPE, dtype)


def write(place: Path, ids: list[int], rank: int = 0, dtype: str = "float32") -> None:
    with parts(place, dtype).writer(rank) as writer:
        for image_id in ids:
            writer.add(image_id, rows_of(image_id))


def read(place: Path) -> dict[str, np.ndarray]:
    with h5py.File(place / "f.hdf5") as file:
        return {name: np.asarray(file[name]) for name in file}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_in_any_order_by_several_is_read_by_anyone(tmp_path: Path, dtype: str) -> None:
    target = parts(tmp_path, dtype)
    assert not target.begun
    assert target.prepare(ORIGIN) == IDS
    write(tmp_path, [9, 3], 0, dtype)
    write(tmp_path, [5, 7, 12], 1, dtype)
    assert target.begun
    assert not target.whole
    target.finish(ORIGIN)
    assert target.whole
    found = read(tmp_path)
    assert len(found) == len(IDS)
    for image_id in IDS:
        assert np.array_equal(found[f"{image_id}_features"], rows_of(image_id).astype(dtype))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.hdf5", "f.hdf5.json"]


def test_after_a_kill_only_what_is_whole_counts(tmp_path: Path) -> None:
    parts(tmp_path).prepare(ORIGIN)
    write(tmp_path, [9, 3], 0)
    write(tmp_path, [5], 1)
    target = parts(tmp_path)
    with target.writer(-1) as writer:  # as after a power failure: noted, but not on the disk
        os.pwrite(writer._data, b"\0" * 8, target.offsets()[3])
    with open(target.folder / "done-0001.txt", "a") as log:
        log.write("12 00")  # torn
    assert target.prepare(ORIGIN) == [7, 3, 12]
    assert parts(tmp_path).prepare(ORIGIN) == [7, 3, 12]
    write(tmp_path, [7, 3, 12], 2)
    assert parts(tmp_path).prepare(ORIGIN) == []
    parts(tmp_path).finish(ORIGIN)
    assert all(np.array_equal(read(tmp_path)[f"{i}_features"], rows_of(i)) for i in IDS)


def test_what_was_forced_to_the_disk_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_files, "SYNC_BYTES", 1)
    parts(tmp_path).prepare(ORIGIN)
    write(tmp_path, IDS[:3])
    monkeypatch.setattr(feature_files.PartWriter, "read", lambda *_: pytest.fail("read again"))
    assert parts(tmp_path).prepare(ORIGIN) == IDS[3:]


def test_a_kill_at_any_rename_or_write_leaves_what_can_be_gone_on_with(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_add = feature_files.PartWriter.add

    def add(self: Any, image_id: int, rows: np.ndarray) -> None:
        killer.tick("before a picture")
        whole_add(self, image_id, rows)

    monkeypatch.setattr(feature_files.PartWriter, "add", add)

    def work() -> None:
        target = parts(tmp_path / "out")
        if not target.whole:
            if left := target.prepare(ORIGIN):
                write(tmp_path / "out", left)
            target.finish(ORIGIN)

    (tmp_path / "out").mkdir()
    work()
    stages = killer.count
    assert stages >= len(IDS) + 4
    for at in range(1, stages + 1):
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        killer.arm(at)
        with pytest.raises(Killed):
            work()
        killer.arm(0)
        work()
        assert all(np.array_equal(read(tmp_path / "out")[f"{i}_features"], rows_of(i)) for i in IDS)
        assert Origin.beside(tmp_path / "out" / "f.hdf5") == ORIGIN


def test_an_unfinished_file_of_other_features_is_left_alone(tmp_path: Path) -> None:
    parts(tmp_path).prepare(ORIGIN)
    other = Origin(swin=SwinConfig(), sha256="1" * 64, weights="", dtype="fp32")
    for target, origin in ((parts(tmp_path), other), (parts(tmp_path, "float16"), ORIGIN)):
        with pytest.raises(UserError, match=r"f\.hdf5\.part: an unfinished file of other features"):
            target.prepare(origin)


def test_too_little_space_a_full_disk_and_values_out_of_range_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))  # type: ignore[attr-defined]
        with pytest.raises(
            UserError, match=r"f\.hdf5: needs 240 B, 100 B are free there; --dtype fp16 takes"
        ):
            parts(tmp_path).prepare(ORIGIN)
    parts(tmp_path, "float16").prepare(ORIGIN)
    with parts(tmp_path, "float16").writer(0) as writer:
        with pytest.raises(UserError, match="features of image 7 are not finite in float16"):
            writer.add(7, np.full(SHAPE, 1e6))

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="No space left on device; what is done is kept, --resume"):
            writer.add(7, rows_of(7))
