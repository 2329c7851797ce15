import json
import os
from pathlib import Path

import numpy as np
import pytest

from prunelab.data import synthetic
from prunelab.data.captions import open_captions
from prunelab.data.coco import read_references
from prunelab.data.features import open_features
from prunelab.data.pictures import read_picture
from prunelab.data.synthetic.phrases import describe
from prunelab.errors import UserError

SMALL = {"train": 20, "val": 4, "test": 5, "feat_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.cached("captions", cache_dir=tmp_path_factory.mktemp("cache"), **SMALL)


def test_the_real_readers_read_the_embedded_set(folder: Path):
    found = open_captions(folder, check=100)
    assert [len(found.split(name)) for name in ("train", "val", "test")] == [20, 4, 5]
    assert sum(r.file.startswith("val2014/") for r in found.split("train")) == 2  # restval
    assert len(read_references(folder / "dataset_coco.json", split="test")) == 5
    sources = {k: open_features(folder / "bu" / f"cocobu_{k}") for k in ("att", "fc", "box", "box_relative")}
    counts = set()
    for record in found.records:
        assert len(record.references) == 5
        att, fc, box, relative = (source.get(record.image_id) for source in sources.values())
        counts.add(len(att))
        assert att.shape[1] == 16
        assert np.allclose(fc, att.mean(axis=0))
        assert np.allclose(box, relative * 72)
        boxes, features = synthetic.find_regions(read_picture(record.path), 16)
        assert np.array_equal(features, att)
        assert np.array_equal(boxes, relative)
    assert len(counts) > 1


def test_the_truth_of_a_written_picture_comes_from_the_generator(folder: Path):
    records = open_captions(folder).split("test")
    for record, scene in zip(records, synthetic.captions.scenes("test", 5), strict=True):
        assert record.image_id == scene.number
        difference = np.asarray(read_picture(record.path), int) - scene.image
        assert np.abs(difference).mean() < 10  # JPEG takes most of the noise
        assert list(record.references) == describe(0, scene)


def test_a_cached_set_is_used_again_and_a_damaged_one_made_anew(folder: Path):
    cache = folder.parent.parent
    file = next((folder / "bu" / "cocobu_att").iterdir())
    before = file.stat().st_mtime_ns, file.read_bytes()
    assert synthetic.cached("captions", cache_dir=cache, seed=0, **SMALL) == folder
    assert file.stat().st_mtime_ns == before[0]
    for damage in (
        lambda: file.write_bytes(before[1][:-1] + b"x"),
        file.unlink,
        (folder / "manifest.json").unlink,
    ):
        damage()
        assert synthetic.cached("captions", cache_dir=cache, **SMALL) == folder
        assert file.read_bytes() == before[1]
    (folder / "more.txt").write_text("not ours")
    assert synthetic.cached("captions", cache_dir=cache, **SMALL) == folder
    assert not (folder / "more.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left lying about


def test_several_processes_may_ask_for_the_same_set_at_once(tmp_path: Path):
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            code = 1
            try:
                made = synthetic.cached("captions", cache_dir=tmp_path, train=6, val=1, test=1)
                code = 0 if len(open_captions(made).records) == 8 else 1
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list((tmp_path / "synthetic").iterdir())) == 1


def test_a_larger_set_begins_with_the_smaller_ones_pictures_and_seeds_differ(tmp_path: Path):
    small = synthetic.captions.scenes("train", 2)
    large = synthetic.captions.scenes("train", 3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(small, large, strict=False))
    assert not np.array_equal(synthetic.captions.scenes("train", 1, seed=1)[0].image, small[0].image)
    manifest = json.loads(
        (synthetic.cached("captions", cache_dir=tmp_path, **SMALL) / "manifest.json").read_text()
    )
    assert manifest["params"] == {"seed": 0, "side": 72, **SMALL}


def test_wrong_requests_are_one_clear_line(tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match="embedded set 'masks' is unknown; expected one of captions"):
        synthetic.cached("masks", cache_dir=tmp_path)
    with pytest.raises(UserError, match="has no 'trian'; expected some of seed, train, val"):
        synthetic.cached("captions", cache_dir=tmp_path, trian=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        synthetic.captions.write(tmp_path)
    with pytest.raises(UserError, match=r"the cache cannot be written \(.*\); set PRUNELAB_CACHE"):
        synthetic.cached("captions", cache_dir=tmp_path / "file")
    monkeypatch.setenv("PRUNELAB_CACHE", str(tmp_path))
    assert synthetic.cache_folder() == tmp_path
    monkeypatch.delenv("PRUNELAB_CACHE")
    assert synthetic.cache_folder() == Path.home() / ".cache" / "prunelab"
