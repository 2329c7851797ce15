from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.pictures import pixels
from prunelab.data.pictures_of_classes import (
    CLASS_FILE,
    check_pictures,
    kept_back,
    open_pictures_of_classes,
    spread,
)
from prunelab.errors import UserError

CLASSES = ("n02", "n01", "n03")  # made in this order


def picture(path: Path, size: tuple[int, int] = (12, 8), kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, kind)
    return path


def classes(root: Path, each: int) -> Path:
    for name in CLASSES:
        for number in range(each):
            picture(root / name / f"{name}_{number}.JPEG", (12 + number, 8))
    return root


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    classes(tmp_path / "train", 3)
    classes(tmp_path / "val", 1)
    return tmp_path


def test_classes_are_numbered_in_the_order_of_their_names(ilsvrc):
    found = open_pictures_of_classes(ilsvrc)
    assert found.folders == found.names == ("n01", "n02", "n03")
    train, val = found.splits["train"], found.splits["val"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [file.name for file in train.files[:4]] == ["n01_0.JPEG", "n01_1.JPEG", "n01_2.JPEG", "n02_0.JPEG"]
    assert val.labels.tolist() == [0, 1, 2]
    assert found.how == f"train and val as they lie in {ilsvrc}"


def test_a_list_of_classes_orders_and_names_them(ilsvrc):
    (ilsvrc / CLASS_FILE).write_text("n03\then\nn01\tgoldfish\nn02\tgreat white shark\n")
    found = open_pictures_of_classes(ilsvrc)
    assert found.folders == ("n03", "n01", "n02")
    assert found.names == ("hen", "goldfish", "great white shark")
    assert [file.parent.name for file in found.splits["val"].files] == ["n03", "n01", "n02"]
    (ilsvrc / CLASS_FILE).write_text("n03\nn01\nn02\n")
    assert open_pictures_of_classes(ilsvrc).names == ("n03", "n01", "n02")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n01\nn02\n", r"classes\.txt: 'n03' is missing there"),
        ("n01\nn02\nn03\nn04\n", r"classes\.txt: 'n04' has no folder in .*train"),
        ("n01\nn02\nn03\nn02\n", r"classes\.txt: 'n02' stands there twice"),
    ],
)
def test_a_list_of_other_classes_is_refused(ilsvrc, lines, message):
    (ilsvrc / CLASS_FILE).write_text(lines)
    with pytest.raises(UserError, match=message):
        open_pictures_of_classes(ilsvrc)


def test_a_list_that_is_no_text_is_refused(ilsvrc):
    (ilsvrc / CLASS_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"classes\.txt: cannot be read as a list of classes"):
        open_pictures_of_classes(ilsvrc)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_validation_may_have_other_names_and_lack_classes(ilsvrc, name):
    (ilsvrc / "val").rename(ilsvrc / name)
    for file in (ilsvrc / name / "n01").iterdir():
        file.unlink()
    (ilsvrc / name / "n01").rmdir()
    found = open_pictures_of_classes(ilsvrc)
    assert found.splits["val"].labels.tolist() == [1, 2]
    assert f"train and {name}" in found.how


@pytest.mark.parametrize("inside", ["", "train"])
def test_pictures_without_validation_are_split_by_a_seed_in_every_class(tmp_path, inside):
    classes(tmp_path / inside, 20)
    found, again, other = (open_pictures_of_classes(tmp_path, seed=seed) for seed in (3, 3, 4))
    train, val = found.splits["train"], found.splits["val"]
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert np.bincount(train.labels).tolist() == [18, 18, 18]
    assert not set(train.files) & set(val.files)
    assert again.splits["val"].files == val.files
    assert other.splits["val"].files != val.files
    assert "6 of 60 pictures were kept for it, chosen by seed 3" in found.how


def test_a_split_depends_on_names_alone_and_keeps_a_picture_on_each_side(tmp_path):
    for place in ("a", "b"):
        classes(tmp_path / place, 2)
    here, there = (open_pictures_of_classes(tmp_path / place).splits["val"].files for place in ("a", "b"))
    assert [file.name for file in here] == [file.name for file in there]
    assert len(here) == 3


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder, expected one with train and val"):
        open_pictures_of_classes(tmp_path / "nothing")
    with pytest.raises(UserError, match="no folders of classes in it"):
        open_pictures_of_classes(tmp_path)
    picture(tmp_path / "train" / "flat.jpg")
    with pytest.raises(UserError, match="train: no folders of classes in it"):
        open_pictures_of_classes(tmp_path)
    classes(tmp_path / "train", 1)
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="val: no folders of classes in it"):
        open_pictures_of_classes(tmp_path)
    (tmp_path / "val" / "n01").mkdir()
    with pytest.raises(UserError, match="n01: no pictures in it"):
        open_pictures_of_classes(tmp_path)
    picture(tmp_path / "val" / "n09" / "0.png", kind="PNG")
    with pytest.raises(UserError, match=r"n09: a class of which .*train has no folder"):
        open_pictures_of_classes(tmp_path)


def test_pictures_are_read_as_red_green_blue_whatever_their_kind(tmp_path):
    file = tmp_path / "grey.png"
    Image.fromarray(np.full((3, 5), 7, np.uint8)).save(file)
    assert np.array_equal(pixels(file), np.full((3, 5, 3), 7, np.uint8))
    Image.new("CMYK", (4, 6), (255, 0, 0, 0)).save(tmp_path / "print.jpg")
    cyan = pixels(tmp_path / "print.jpg")
    assert cyan.shape == (6, 4, 3)
    assert cyan[0, 0, 0] < 20
    assert cyan[0, 0, 2] > 150


def test_a_look_at_files_counts_classes_and_sizes(ilsvrc):
    found = open_pictures_of_classes(ilsvrc).splits["train"]
    with (ilsvrc / "train/n01/n01_0.JPEG").open("ab") as file:
        file.write(b"something after the end")
    looked = check_pictures(found, 4, workers=2)
    assert looked == {"files": 9, "counts": [3, 3, 3, 0], "smallest": 8, "largest": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such picture"),
        (b"GIF89a", "not a picture; expected a JPEG or PNG file"),
        (b"", "not a picture"),
        ("cut", "damaged or cut off"),
    ],
)
def test_a_look_at_files_names_one_that_is_no_whole_picture(ilsvrc, content, message):
    file = ilsvrc / "train/n02/n02_1.JPEG"
    found = open_pictures_of_classes(ilsvrc).splits["train"]
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-200] if content == "cut" else content)
    for read in (lambda: check_pictures(found, 3), lambda: pixels(file)):
        with pytest.raises(UserError, match=rf"n02_1\.JPEG: .*{message}"):
            read()


def test_some_pictures_are_spread_over_all_classes(ilsvrc):
    found = open_pictures_of_classes(ilsvrc).splits["train"]
    assert found.some(3).labels.tolist() == [0, 1, 2]
    assert found.some(100).files == found.files
    places = spread(1000, 50)
    assert [place // 20 for place in places] == list(range(50))  # one from each part
    assert np.bincount(places % 10).min() > 0  # of classes that take turns, all
    assert spread(1000, 50).tolist() == places.tolist()
    assert spread(7, 9).tolist() == list(range(7))
    assert spread(3, 0).tolist() == []
    assert spread(0, 5).tolist() == []


def test_a_test_folder_besides_validation_is_a_split_of_its_own(ilsvrc):
    assert "test" not in open_pictures_of_classes(ilsvrc).splits
    classes(ilsvrc / "test", 2)
    found = open_pictures_of_classes(ilsvrc)
    assert (found.val_folder, len(found.splits["val"]), len(found.splits["test"])) == ("val", 3, 6)
    (ilsvrc / "val").rename(ilsvrc / "apart")
    found = open_pictures_of_classes(ilsvrc)
    assert (found.val_folder, sorted(found.splits)) == ("test", ["train", "val"])
    (ilsvrc / "apart").rename(ilsvrc / "val")
    picture(ilsvrc / "test/n99/unknown.JPEG")  # of unknown classes: no split
    assert "test" not in open_pictures_of_classes(ilsvrc).splits


def test_pictures_kept_back_are_a_share_of_each_class_and_always_the_same():
    labels = np.array([0] * 20 + [2] * 9 + [5] * 2 + [7])
    kept = kept_back(labels, 0.1)
    assert np.bincount(labels[kept], minlength=8).tolist() == [2, 0, 1, 0, 0, 1, 0, 0]
    assert np.array_equal(kept, kept_back(labels, 0.1))
    assert np.bincount(labels[kept_back(labels, 1.0)]).tolist() == [19, 0, 8, 0, 0, 1]
