"""Published layouts become list files and labels that training reads; the source stays as it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acosp_seg import prepare
from acosp_seg.palette import read_names, table_file
from acosp_seg.prepare import CAMVID_COLORS, SEGNET_ORDER
from prunelab.data.segmentation import check_labels, read_label, read_list

SIZE = (6, 8)
PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def label(path: Path, *values: int) -> Path:
    """A label map with these values, over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), SIZE)).save(path)
    return path


def ade20k(root: Path) -> Path:
    for split in ("training", "validation"):
        picture(root / f"images/{split}/ADE_1.jpg")
        label(root / f"annotations/{split}/ADE_1.png", 0, 1, 2, 150)
    return root


def voc2012(root: Path, aug: bool = True) -> Path:
    for stem in ("a", "b", "c"):
        picture(root / f"JPEGImages/{stem}.jpg")
        if aug:
            label(root / f"SegmentationClassAug/{stem}.png", 0, 20, 255)
    for stem in ("a", "b"):
        colours = Image.fromarray(np.resize(np.array([0, 5, 255], np.uint8), SIZE)).convert("P")
        colours.putdata(np.resize([0, 5, 255], SIZE).ravel().tolist())
        colours.putpalette([v * 7 % 256 for v in range(768)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        colours.save(root / f"SegmentationClass/{stem}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n\n")
    return root


def cityscapes(root: Path) -> Path:
    for split in ("train", "val"):
        for city in ("aachen", "bonn"):
            picture(root / f"leftImg8bit/{split}/{city}/{city}_1_leftImg8bit.png")
            label(root / f"gtFine/{split}/{city}/{city}_1_gtFine_labelIds.png", 7, 33, 0, 255)
    return root


def camvid(root: Path) -> Path:
    for split in ("train", "val", "test"):
        picture(root / f"{split}/x.png")
    label(root / "trainannot/x.png", *range(12), 255)
    label(root / "valannot/x.png", 10)
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[:3] = (64, 128, 192)  # one of the classes that are joined to Car
    colours[4:] = (128, 128, 128)
    (root / "testannot").mkdir()
    Image.fromarray(colours).save(root / "testannot/x.png")
    return root


MAKERS = {"ade20k": ade20k, "voc2012": voc2012, "cityscapes": cityscapes, "camvid": camvid}
WANTED = {
    "ade20k": ({"training": 1, "validation": 1}, [255, 0, 1, 149]),
    "voc2012": ({"train_aug": 2, "train": 1, "val": 1}, [0, 20, 255]),
    "cityscapes": ({"fine_train": 2, "fine_val": 2}, [0, 18, 255, 255]),
    "camvid": ({"train": 1, "val": 1, "test": 1}, [2, 0, 8, 5, 9, 1, 4, 7, 3, 6, 10, 11, 11]),
}
"""Samples of each list file, and what the first label of the first one holds."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dataset", MAKERS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_published_set_becomes_lists_and_labels(
    dataset: str, elsewhere: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = MAKERS[dataset](tmp_path / "source")
    before, target = files(source), tmp_path / "target" if elsewhere else source
    command = [dataset, "--source", str(source), "--output", str(target)]
    prepare.main([*command, "--dry-run"])
    assert files(source) == before
    assert not (target / "list").exists()
    prepare.main(command)
    counts, values = WANTED[dataset]
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    assert capsys.readouterr().out == f"{dataset} found: {told}\n{dataset} ready: {told}\n"
    after = files(source)
    assert {name: after[name] for name in before} == before
    for name, count in counts.items():
        samples = read_list(target / f"list/{name}.txt", target, "val")
        assert len(samples) == count
        assert all(s.image.is_relative_to(target) and s.image.is_file() for s in samples)
        names = table_file(dataset=dataset)
        assert names is not None
        check_labels(samples, len(read_names(names)), 11 if dataset == "camvid" else 255)
    first = read_list(target / f"list/{next(iter(counts))}.txt", target, "train")[0]
    assert np.array_equal(read_label(first.label), np.resize(np.array(values, np.uint8), SIZE))
    prepare.main(command)  # once more changes nothing
    prepare.main([*command[:1], "--source", str(target), "--check"])
    assert f"{dataset} checked: " in capsys.readouterr().out


def test_pictures_are_linked_where_that_is_possible_and_copied_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = camvid(tmp_path / "source")
    prepare.main(["camvid", "--source", str(source), "--output", str(tmp_path / "one")])
    assert (tmp_path / "one/train/x.png").samefile(source / "train/x.png")

    def refuse(*args: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    prepare.main(["camvid", "--source", str(source), "--output", str(tmp_path / "two")])
    assert not (tmp_path / "two/train/x.png").samefile(source / "train/x.png")
    assert (tmp_path / "two/train/x.png").read_bytes() == (source / "train/x.png").read_bytes()


def test_colours_of_camvid_are_classes_and_unknown_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = camvid(tmp_path)
    prepare.main(["camvid", "--source", str(source), "--ignore-label", "255"])
    found = read_label(source / "labels/test/x.png")
    names = table_file(dataset="camvid")
    assert names is not None
    order = read_names(names)
    assert order == list(CAMVID_COLORS)
    assert sorted(order) == sorted(SEGNET_ORDER)
    assert found[0, 0] == order.index("Car")
    assert found[3, 0] == 255
    assert found[5, 0] == order.index("Sky")
    wrong = np.full((*SIZE, 3), 77, np.uint8)
    Image.fromarray(wrong).save(source / "testannot/x.png")
    with pytest.raises(SystemExit, match="2"):
        prepare.main(["camvid", "--source", str(source)])
    assert "testannot/x.png: colour [77, 77, 77] is none of CamVid's classes" in capsys.readouterr().err


def test_the_lists_of_own_pictures_hold_back_some_for_validation(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / f"images/my {number:02d}.png")
        label(tmp_path / f"labels/my {number:02d}.png", 0, 1)
    prepare.main(["folder", "--source", str(tmp_path), "--val-share", "0.2"])
    found = {s: read_list(tmp_path / f"list/{s}.txt", tmp_path, s) for s in ("train", "val")}
    assert [s.image.stem for s in found["val"]] == ["my 02", "my 07", "my 12", "my 17"]
    assert len(found["train"]) == 16
    for split in ("train", "val"):
        picture(tmp_path / f"split/images/{split}/x.png")
        label(tmp_path / f"split/labels/{split}/x.png", 3)
    prepare.main(["folder", "--source", str(tmp_path / "split")])
    assert (tmp_path / "split/list/val.txt").read_text() == "images/val/x.png labels/val/x.png\n"
    prepare.main(["folder", "--source", str(tmp_path / "split"), "--check", "--limit", "1"])


def test_voc_without_its_larger_half_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.main(["voc2012", "--source", str(voc2012(tmp_path, aug=False))])
    out = capsys.readouterr().out
    assert "voc2012 ready: train 1, val 1\n" in out
    assert "train_aug.txt, which is not made" in out


def spoilt(dataset: str, root: Path) -> list[str]:
    MAKERS[dataset](root)
    return [dataset, "--source", str(root)]


@pytest.mark.parametrize(
    ("dataset", "spoil", "message"),
    [
        (
            "ade20k",
            lambda r: label(r / "annotations/training/ADE_1.png", 151),
            "values 151, expected 0 to 150",
        ),
        ("ade20k", lambda r: (r / "annotations/validation/ADE_1.png").unlink(), "no such label map"),
        ("voc2012", lambda r: (r / "JPEGImages/c.jpg").unlink(), "c.jpg: no such picture"),
        ("voc2012", lambda r: (r / "ImageSets/Segmentation/val.txt").unlink(), "val.txt: no such list"),
        (
            "cityscapes",
            lambda r: label(r / "gtFine/val/bonn/bonn_1_gtFine_labelIds.png", 40),
            "label values 40, expected 0 to 33, 255",
        ),
        ("camvid", lambda r: label(r / "valannot/x.png", 12), "label values 12, expected 0 to 11, 255"),
        ("camvid", lambda r: (r / "valannot/x.png").write_bytes(b""), "colour"),
    ],
)
def test_a_source_that_is_not_whole_is_refused_and_gets_no_lists(
    dataset: str, spoil, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = spoilt(dataset, tmp_path)
    spoil(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        prepare.main(command)
    error = capsys.readouterr().err
    assert message in error or ("not a picture" in error and message == "colour")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "list").exists()


def test_a_missing_source_and_a_folder_without_lists_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNELAB_DATA", str(tmp_path))
    for command, message in (
        (["camvid"], f"source {tmp_path}/camvid: no such folder, expected the unpacked data set camvid"),
        (["camvid", "--source", str(tmp_path), "--check"], "no list files, expected those that `prepare`"),
        (["cifar10", "--check"], "no CIFAR-10 in it"),
    ):
        with pytest.raises(SystemExit, match="2"):
            prepare.main(command)
        assert message in capsys.readouterr().err


@pytest.mark.data
def test_the_real_camvid_is_prepared_for_the_published_configurations(
    real_data: Path, tmp_path: Path
) -> None:
    if not (real_data / "camvid").is_dir():
        pytest.skip(f"needs real data: {real_data / 'camvid'} is missing")
    prepare.main(["camvid", "--source", str(real_data / "camvid"), "--output", str(tmp_path)])
    samples = {s: read_list(tmp_path / f"list/{s}.txt", tmp_path, "val") for s in ("train", "val", "test")}
    assert [len(found) for found in samples.values()] == [367, 101, 233]
    report = check_labels(samples["val"], 11, 11)
    assert report["missing"] == []
    names = table_file(dataset="camvid")
    assert names is not None
    order = read_names(names)
    rows = np.zeros(12)
    for sample in samples["val"][::10]:
        made = read_label(sample.label)
        rows[:11] += [np.append(np.nonzero(made == c)[0], 180).mean() for c in range(11)]
    assert rows[order.index("Sky")] == rows[:11].min()  # the sky is above
    assert rows[order.index("Road")] == rows[:11].max()
