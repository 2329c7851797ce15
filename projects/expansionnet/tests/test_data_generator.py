"""``data-generator``: files and stores, several processes, a kill, and what must not be overwritten."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from expansionnet import data_generator
from expansionnet.config import DataConfig, SwinConfig
from expansionnet.data import open_records
from expansionnet.data_generator import generate, main
from expansionnet.features import files as feature_files
from expansionnet.features.extractor import FeatureExtractor, Origin
from expansionnet.model.swin import build_swin, to_official
from expansionnet.options import GenerateOptions
from prunelab import dist
from prunelab.data.captions import CaptionRecord
from prunelab.data.features import open_features
from prunelab.data.store import FeatureStore
from prunelab.errors import UserError

SIZES = {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}


def options(folder: Path, output: str, **changes: Any) -> GenerateOptions:
    """Features of generated pictures."""
    usual = {
        "save_model_path": str(folder / "weights.pth"),
        "output_path": str(folder / output),
        "fake_data": True,
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "swin": SwinConfig(**SIZES),
    }
    return GenerateOptions(**(usual | changes))


def forked(work: Callable[[], Any], **environment: str) -> int:
    """Do some work in a copy of this process, which spares it the imports; its process id.

    What takes minutes waits for ever: the copy is ended.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses no thread of its parent
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(120)
        os.environ.update(environment)
        work()
        dist.stop()
        status = 0
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """A published backbone of a small size."""
    torch.manual_seed(3)
    return {"model": to_official(build_swin(SwinConfig(**SIZES)).state_dict())}


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Any]) -> Path:
    torch.save(weights, tmp_path / "weights.pth")
    return tmp_path


def arrays(file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as content:
        return {name: np.asarray(content[name]) for name in content}


def records_of(folder: Path) -> Sequence[CaptionRecord]:
    place = str(folder / "fake_data")
    return open_records(DataConfig(captions_path=place, images_path=f"{place}/MS_COCO_2014")).records


def count_of(folder: Path) -> int:
    return len(records_of(folder))


def test_a_file_and_a_store_hold_the_same_and_training_reads_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = generate(options(folder, "f.hdf5"))
    assert f"train with: --is_end_to_end False --features_path {file} --img_feature_dim 16" in (
        capsys.readouterr().out
    )
    store = generate(options(folder, "store", workers=1))
    found = arrays(file)
    assert len(found) == count_of(folder)
    assert isinstance(open_features(store), FeatureStore)
    extractor = FeatureExtractor.open(folder / "weights.pth")
    for record in records_of(folder):
        rows = found[f"{record.image_id}_features"]
        assert (rows.shape, rows.dtype) == ((16, 16), np.float32)
        assert np.allclose(rows, extractor([record.path])[0].numpy(), atol=1e-5)
        assert np.allclose(rows, open_features(store).get(record.image_id), atol=1e-5)
    origin = Origin.beside(file)
    assert origin is not None
    assert (origin.sha256, origin.weights) == (extractor.digest(), str(folder / "weights.pth"))
    assert (origin.swin, origin.dtype, origin.black_pictures) == (extractor.config, "fp32", True)
    assert origin.same_as(Origin.beside(store))


def test_the_file_begins_with_the_last_training_picture(folder: Path) -> None:
    file = generate(options(folder, "f.hdf5", dtype="fp16"))
    with h5py.File(file) as content:
        order = sorted(content, key=lambda name: content[name].id.get_offset())
        assert content[order[0]].dtype == np.float16
    splits: dict[str, list[int]] = {"train": [], "test": [], "val": []}
    for record in records_of(folder):
        splits[record.split].append(record.image_id)
    expected = [*splits["train"][::-1], *splits["test"], *splits["val"]]
    assert order == [f"{image_id}_features" for image_id in expected]


def test_a_killed_process_goes_on_where_it_was(folder: Path) -> None:
    whole = generate(options(folder, "whole.hdf5"))

    def work() -> None:
        feature_files.PartWriter.add = _dying(feature_files.PartWriter.add, 3)
        generate(options(folder, "killed.hdf5"))

    assert os.waitpid(forked(work), 0)[1] == signal.SIGKILL
    killed = folder / "killed.hdf5"
    assert not killed.exists()
    with pytest.raises(UserError, match=r"killed\.hdf5: an unfinished one is there already"):
        generate(options(folder, "killed.hdf5"))
    added: list[int] = []
    real = feature_files.PartWriter.add

    def add(self: Any, image_id: int, rows: np.ndarray) -> None:
        added.append(image_id)
        real(self, image_id, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_files.PartWriter, "add", add)
        generate(options(folder, "killed.hdf5", resume=True))
    assert len(added) == count_of(folder) - 3
    # Bit for bit where batches are the same; another batch may round differently.
    theirs = arrays(whole)
    assert all(np.allclose(rows, theirs[name], atol=1e-6) for name, rows in arrays(killed).items())


def _dying(add: Any, after: int) -> Any:
    count = 0

    def dying(self: Any, image_id: int, rows: np.ndarray) -> None:
        nonlocal count
        add(self, image_id, rows)
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)

    return dying


@pytest.mark.dist
def test_two_processes_write_what_one_writes(folder: Path) -> None:

    def work() -> None:
        generate(options(folder, "two.hdf5", max_steps=1))
        generate(options(folder, "two.hdf5", resume=True))
        generate(options(folder, "two", dtype="fp16"))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    children = [forked(work, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    whole = arrays(generate(options(folder, "one.hdf5")))
    found = arrays(folder / "two.hdf5")
    assert list(found) == list(whole)
    assert all(np.allclose(found[name], rows, atol=1e-6) for name, rows in whole.items())
    store = FeatureStore(folder / "two")
    assert len(store) == len(whole)
    assert len(list((folder / "two").glob("shard-*.idx"))) == 2
    assert all(np.allclose(store.get(int(n.split("_")[0])), r, atol=1e-2) for n, r in whole.items())


def test_a_stopped_store_goes_on_and_a_whole_one_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(options(folder, "store", max_steps=2))
    assert "are left; the same command with --resume goes on" in capsys.readouterr().out
    assert len(FeatureStore(folder / "store")) == 4
    with pytest.raises(UserError, match="store: an unfinished one is there already"):
        generate(options(folder, "store"))
    generate(options(folder, "store", resume=True))
    assert len(FeatureStore(folder / "store")) == count_of(folder)
    generate(options(folder, "store"))
    assert "store: holds these features already; nothing was computed" in capsys.readouterr().out
    with pytest.raises(UserError, match="store: holds other things, expected the features of this backbone"):
        generate(options(folder, "store", preset="fixed"))


def test_features_of_another_backbone_are_replaced_when_the_new_ones_are_whole_as_the_original_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = arrays(generate(options(folder, "f.hdf5")))
    other = {"save_model_path": "", "random_weights": True, "seed": 8}
    generate(options(folder, "f.hdf5", max_steps=1, **other))
    assert "f.hdf5: holds other features, which stay until the new ones are whole" in capsys.readouterr().out
    assert all(np.array_equal(rows, first[name]) for name, rows in arrays(folder / "f.hdf5").items())
    generate(options(folder, "f.hdf5", resume=True, **other))
    kept = FeatureExtractor.beside(folder / "f.hdf5")  # random weights, which would be lost otherwise
    origin = Origin.beside(folder / "f.hdf5")
    assert kept is not None
    assert origin is not None
    assert (origin.sha256, origin.weights) == (kept.digest(), str(folder.resolve() / "f.hdf5.backbone"))
    assert not any(np.allclose(rows, first[name]) for name, rows in arrays(folder / "f.hdf5").items())
    with pytest.raises(UserError, match=r"f\.hdf5: is there already, with other features"):
        generate(options(folder, "f.hdf5", preset="fixed"))
    (folder / "notes.hdf5").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.hdf5: is there already"):
        generate(options(folder, "notes.hdf5"))
    assert (folder / "notes.hdf5").read_text() == "mine"


def test_what_is_missing_or_wrong_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="save_model_path is empty, expected weights of a backbone"):
        generate(options(folder, "f.hdf5", save_model_path=""))
    generate(options(folder, "f.hdf5", max_steps=1))
    place = str(folder / "fake_data")
    real = {"fake_data": False, "captions_path": place, "images_path": f"{place}/MS_COCO_2014"}
    record = records_of(folder)[2]
    record.path.write_bytes(record.path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"\.jpg: picture is damaged or cut off"):
        generate(options(folder, "g.hdf5", **real))
    Image.new("CMYK", (5, 5)).save(record.path)
    generate(options(folder, "g.hdf5", resume=True, **real))
    assert f"{record.image_id}_features" in arrays(folder / "g.hdf5")
    record.path.unlink()
    with pytest.raises(UserError, match=r"\.jpg: picture is missing, and so are 0 more of \d+"):
        generate(options(folder, "h.hdf5", **real))


def test_the_command_checks_itself_and_tells_of_progress(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["--dry-run", "--dtype", "fp16"])
    assert "dtype='fp16'" in capsys.readouterr().out
    monkeypatch.setattr(data_generator, "LINE_SECONDS", 0.0)
    generate(options(folder, "f.hdf5", amp="bf16", channels_last=True))
    assert f"about 2 of {count_of(folder)} pictures, " in capsys.readouterr().out
    assert GenerateOptions().output_path.endswith(".hdf5")
