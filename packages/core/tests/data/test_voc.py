from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.voc import (
    CLASSES,
    VocSample,
    check_objects,
    collect_classes,
    every_picture,
    find_voc,
    read_class_names,
    read_image_set,
    read_objects,
)
from prunelab.errors import UserError


def an_object(name: str = "cat", box: tuple[object, ...] = (1, 2, 30, 40), difficult: str = "0") -> str:
    corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def an_annotation(*objects: str, size: str = "<width>60</width><height>50</height>") -> str:
    return f"<annotation><size>{size}</size>{''.join(objects)}</annotation>"


def a_folder(root: Path, names: list[str], *, lists: dict[str, list[str]] | None = None) -> Path:
    for sub in ("JPEGImages", "Annotations"):
        (root / sub).mkdir(parents=True)
    for name in names:
        Image.new("RGB", (60, 50)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(an_annotation(an_object()))
    for split, listed in (lists or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


def names_of(samples: list[VocSample]) -> list[str]:
    return [sample.name for sample in samples]


def test_a_set_is_found_in_its_folder_beside_others_and_in_the_devkit(tmp_path):
    a_folder(tmp_path / "VOCdevkit" / "VOC2007", ["a", "b"], lists={"test": ["b", "a"]})
    a_folder(tmp_path / "VOCdevkit" / "VOC2012", ["c"], lists={"trainval": ["c"]})
    for root in (tmp_path, tmp_path / "VOCdevkit"):
        assert list(find_voc(root)) == ["VOC2007", "VOC2012"]
        assert names_of(read_image_set(root, "VOC2007/test")) == ["b", "a"]
    alone = tmp_path / "VOCdevkit" / "VOC2012"
    assert names_of(read_image_set(alone, "trainval")) == names_of(read_image_set(alone, "VOC2012/trainval"))
    sample = read_image_set(tmp_path, "VOC2012/trainval")[0]
    assert sample.image == alone / "JPEGImages" / "c.jpg"
    assert sample.annotation == alone / "Annotations" / "c.xml"


def test_every_picture_is_taken_but_those_of_the_test(tmp_path):
    folder = a_folder(tmp_path / "VOC2007", list("abcd"), lists={"test": ["b"], "trainval": ["a"]})
    (folder / "Annotations" / "d.xml").unlink()
    assert names_of(every_picture(tmp_path, "VOC2007")) == ["a", "c"]
    assert names_of(every_picture(tmp_path, "VOC2007", without="none")) == ["a", "b", "c"]
    with pytest.raises(UserError, match="no folder 'VOC2012', expected one of VOC2007"):
        every_picture(tmp_path, "VOC2012")


def test_own_pictures_without_lists_keep_every_tenth_for_validation(tmp_path):
    folder = a_folder(tmp_path / "mine", [f"{n:02d}" for n in range(20)])
    assert names_of(read_image_set(folder, "val")) == ["09", "19"]
    assert len(read_image_set(folder, "train")) == 18
    assert len(read_image_set(folder, "trainval")) == 20
    few = a_folder(tmp_path / "few", ["a", "b", "c"])
    assert names_of(read_image_set(few, "test")) == ["c"]
    assert names_of(read_image_set(few, "train")) == ["a", "b"]
    with pytest.raises(UserError, match="'minival' needs ImageSets"):
        read_image_set(few, "minival")


def test_objects_are_read_as_the_file_has_them(tmp_path):
    file = tmp_path / "a.xml"
    file.write_text(an_annotation(an_object("dog", (1, 2.5, 60, 50), "1"), an_object("aeroplane")))
    found = read_objects(file, CLASSES)
    assert found.labels.tolist() == [12, 1]
    assert found.boxes.tolist() == [[1, 2.5, 60, 50], [1, 2, 30, 40]]
    assert found.difficult.tolist() == [True, False]
    assert (found.height, found.width) == (50, 60)
    file.write_text(an_annotation())
    assert read_objects(file, CLASSES).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            an_annotation(an_object(), an_object("cta")),
            r"a.xml, object 2: class 'cta' is unknown, did you mean",
        ),
        (
            an_annotation(an_object(box=(5, 2, 5, 40))),
            r"object 1: the box of 'cat' is \(5, 2, 5, 40\), expected xmin",
        ),
        (an_annotation(an_object(box=(70, 2, 80, 40))), r"expected one in the picture of 60x50"),
        (an_annotation(an_object(box=("x", 2, 5, 40))), r"object 1: bndbox/xmin is 'x', expected a number"),
        (an_annotation(an_object(box=("nan", 2, 5, 40))), r"bndbox/xmin is 'nan', expected a number"),
        (an_annotation(size="<width>60</width>"), r"a.xml: size/height is None, expected a number"),
        (an_annotation(size="<width>0</width><height>5</height>"), r"size is 0x5, expected the picture's"),
        ("<annotation><size>", r"a.xml: cannot be read as an annotation in XML"),
    ],
)
def test_a_broken_annotation_is_told_in_one_line(tmp_path, text, error):
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(UserError, match=error):
        read_objects(file, CLASSES)


def test_empty_boxes_may_be_dropped(tmp_path):
    file = tmp_path / "a.xml"
    file.write_text(an_annotation(an_object(box=(5, 5, 5, 5)), an_object("dog")))
    assert read_objects(file, CLASSES, empty_boxes="drop").labels.tolist() == [12]


def test_a_missing_annotation_list_picture_or_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="no such annotation"):
        read_objects(tmp_path / "none.xml", CLASSES)
    with pytest.raises(UserError, match="no data set in the layout of Pascal VOC"):
        find_voc(tmp_path)
    folder = a_folder(tmp_path / "VOC2007", ["a"], lists={"test": ["a", "b"], "empty": []})
    with pytest.raises(UserError, match=r"test.txt, line 2: 'b' is no picture of .*JPEGImages"):
        read_image_set(folder, "test")
    with pytest.raises(
        UserError, match=r"train.txt: no such image set, expected one of those .*: empty, test"
    ):
        read_image_set(folder, "train")
    with pytest.raises(UserError, match=r"empty.txt: no pictures in it"):
        read_image_set(folder, "empty")
    with pytest.raises(UserError, match="expected FOLDER/SET with one of VOC2007"):
        read_image_set(folder, "VOC2012/train")
    (folder / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match="JPEGImages: no pictures in it"):
        read_image_set(folder, "test")


def test_own_classes_are_collected_or_read_from_a_file(tmp_path):
    folder = a_folder(tmp_path / "mine", ["a", "b", "c"])
    (folder / "Annotations" / "b.xml").write_text(an_annotation(an_object("zebra"), an_object("ant")))
    samples = read_image_set(folder, "trainval")
    classes = collect_classes(samples)
    assert classes == ("ant", "cat", "zebra")
    assert check_objects(samples, classes) == {"ant": 1, "cat": 2, "zebra": 1}
    with pytest.raises(UserError, match="class 'zebra' is unknown"):
        check_objects(samples, CLASSES)
    (folder / "Annotations" / "a.xml").write_text(an_annotation(an_object("")))
    with pytest.raises(UserError, match=r"a.xml, object 1: has no name"):
        collect_classes(samples)
    with pytest.raises(UserError, match="no object in any annotation"):
        collect_classes([])
    names = tmp_path / "names.txt"
    names.write_text("ant\nzebra\n\n")
    assert read_class_names(names) == ("ant", "zebra")
    names.write_text("ant\nant\n")
    with pytest.raises(UserError, match="2 names of 1 classes, expected each once"):
        read_class_names(names)
    with pytest.raises(UserError, match="cannot be read as a list of class names"):
        read_class_names(tmp_path / "none.txt")


@pytest.mark.data
def test_the_blood_cells_are_read(real_data):
    folder = real_data / "bccd_voc"
    samples = [s for split in ("trainval", "test") for s in read_image_set(folder, f"VOC2007/{split}")]
    assert len(samples) == len(every_picture(folder, "VOC2007", without=""))
    classes = collect_classes(samples)
    with pytest.raises(UserError, match="expected xmin < xmax"):
        check_objects(samples, classes)
    counts = check_objects(samples, classes, empty_boxes="drop")
    assert classes == ("Platelets", "RBC", "WBC")
    assert np.array(list(counts.values())).sum() == 4886
