from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.pictures import read_picture
from prunelab.data.segmentation import (
    Sample,
    check_labels,
    find_pictures,
    pair_by_name,
    read_image,
    read_label,
    read_list,
    read_sample,
    typed_pictures,
    write_list,
)
from prunelab.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (20, 30), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def sample(folder: Path, name: str = "a", labels: np.ndarray = LABELS) -> Sample:
    return Sample(
        save(folder / "images" / f"{name}.png", PIXELS), save(folder / "labels" / f"{name}.png", labels)
    )


def test_a_list_file_names_pairs_relative_to_a_root(tmp_path):
    (tmp_path / "list.txt").write_text("a/x.jpg b/y.png\n/c.jpg d.png \nmy x.jpg\tmy y.png\n")
    found = read_list(tmp_path / "list.txt", "root", "train")
    assert found == [
        Sample(Path("root/a/x.jpg"), Path("root/b/y.png")),
        Sample(Path("/c.jpg"), Path("root/d.png")),
        Sample(Path("root/my x.jpg"), Path("root/my y.png")),
    ]
    assert found[0].has_label


def test_pictures_without_labels_stand_for_them(tmp_path):
    (tmp_path / "list.txt").write_text("x.jpg\n")
    (found,) = read_list(tmp_path / "list.txt", tmp_path, "test")
    assert found.label == found.image == tmp_path / "x.jpg"
    assert not found.has_label


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("a b\na  b\n", "train", "line 2: 'a b' has 3 parts, expected 2, parted by one blank: a pic"),
        ("a b\n\n", "val", "line 2: '' has 1 parts, expected 2"),
        ("a b\n", "test", "line 1: 'a b' has 2 parts, expected 1, parted by one blank: a picture$"),
        ("a b c\n", "train", "line 1: 'a b c'"),
        ("a b\n", "valid", "split is 'valid', expected one of train, val, test"),
    ],
)
def test_a_malformed_list_file_is_refused_with_its_line(tmp_path, text, split, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / "list.txt", tmp_path, split)


def test_a_missing_list_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such list file"):
        read_list(tmp_path / "none.txt", tmp_path, "train")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x\.txt: cannot be read as a list file"):
        read_list(tmp_path / "x.txt", tmp_path, "train")


def test_a_written_list_is_read_again(tmp_path):
    samples = [
        Sample(tmp_path / "a/1.png", tmp_path / "b/1.png"),
        Sample(tmp_path / "a 2.png", tmp_path / "c"),
    ]
    write_list(tmp_path / "list/train.txt", samples, tmp_path)
    assert (tmp_path / "list/train.txt").read_text() == "a/1.png b/1.png\na 2.png\tc\n"
    assert read_list(tmp_path / "list/train.txt", tmp_path, "train") == samples


def test_own_pictures_are_paired_with_labels_by_their_names(tmp_path):
    save(tmp_path / "images/b.JPG", PIXELS, format="JPEG")
    save(tmp_path / "images/sub/a.png", PIXELS)
    (tmp_path / "images/notes.txt").write_text("no picture")
    save(tmp_path / "labels/b.png", LABELS)
    save(tmp_path / "labels/sub/a.png", LABELS)
    found = pair_by_name(tmp_path / "images", tmp_path / "labels")
    assert [s.label.relative_to(tmp_path).as_posix() for s in found] == ["labels/b.png", "labels/sub/a.png"]
    (tmp_path / "labels/b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: no such label map, expected one for the picture .*b\.JPG"):
        pair_by_name(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(UserError, match="no such folder"):
        find_pictures(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in it"):
        find_pictures(tmp_path / "empty")


def test_typed_pictures_are_files_as_they_are_and_all_in_folders(tmp_path):
    for name in ("in/b.png", "in/deep/a.jpg"):
        save(tmp_path / name, PIXELS)
    (tmp_path / "in/notes.txt").touch()
    found = typed_pictures(["z.png", str(tmp_path / "in"), "no.jpg"])
    assert found == [Path("z.png"), tmp_path / "in/b.png", tmp_path / "in/deep/a.jpg", Path("no.jpg")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in it"):
        typed_pictures([tmp_path / "empty"])


def test_pictures_come_as_red_green_blue_and_labels_as_they_are(tmp_path):
    image, label = read_sample(sample(tmp_path))
    assert np.array_equal(image, PIXELS)
    assert np.array_equal(label, LABELS)
    alone = Sample(tmp_path / "images/a.png", tmp_path / "images/a.png")
    assert read_sample(alone)[1] is None
    jpeg = save(tmp_path / "x.jpg", PIXELS)
    assert np.abs(read_image(jpeg).astype(int) - np.asarray(read_picture(jpeg))).max() <= 2


def test_pictures_are_turned_as_their_camera_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (30, 20, 3)
    turned = Sample(tmp_path / "x.jpg", save(tmp_path / "y.png", np.zeros((30, 20), np.uint8)))
    assert check_labels([turned], 1, 255)["files"] == 1


def test_a_label_map_with_a_palette_gives_its_numbers(tmp_path):
    label = Image.fromarray(LABELS, "L").convert("P")
    label.putdata(LABELS.ravel().tolist())
    label.putpalette([9, 8, 7] * 256)
    label.save(tmp_path / "p.png")
    assert np.array_equal(read_label(tmp_path / "p.png"), LABELS)
    cut = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(cut[:60] + b"\0" * 30 + cut[90:])
    with pytest.raises(UserError, match=r"p\.png: label map is damaged"):
        read_label(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a.jpg", LABELS, "label map is a JPEG file, expected a PNG file of class ids"),
        ("a.png", PIXELS, "label map has 8 bits, colour, expected 8 bits of grey"),
        ("a.png", LABELS.astype(np.uint16), "label map has 16 bits, grey"),
        ("a.png", LABELS > 1, "label map has 1 bits, grey"),
    ],
)
def test_label_maps_of_another_kind_are_refused(tmp_path, name, array, message):
    with pytest.raises(UserError, match=message):
        read_label(save(tmp_path / name, array))


def test_files_that_are_missing_cut_off_damaged_or_no_pictures_are_named(tmp_path):
    for name in ("a.png", "a.jpg"):
        whole = save(tmp_path / name, PIXELS).read_bytes()
        (tmp_path / name).write_bytes(whole + b"\0\0")  # some cameras write more after the end
        assert read_image(tmp_path / name).shape == (20, 30, 3)
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=rf"{name}: picture is damaged or cut off"):
            read_image(tmp_path / name)
    whole = save(tmp_path / "b.png", PIXELS).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:200] + b"\0" * 40 + whole[240:])
    with pytest.raises(UserError, match=r"b\.png: picture is damaged"):
        read_image(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("words")
    with pytest.raises(UserError, match=r"c\.png: not a label map"):
        read_label(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"d\.png: no such picture"):
        read_image(tmp_path / "d.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)


def test_a_label_map_of_another_size_is_refused(tmp_path):
    wrong = sample(tmp_path, labels=LABELS[:10])
    with pytest.raises(
        UserError, match=r"labels/a\.png: label map of 10x30, expected 20x30 as .*images/a\.png"
    ):
        read_sample(wrong)
    with pytest.raises(UserError, match="label map of 10x30, expected 20x30"):
        check_labels([wrong], 4, 255)


def test_label_values_are_counted(tmp_path):
    void = LABELS.copy()
    void[0] = 255
    found = check_labels([sample(tmp_path, "a"), sample(tmp_path, "b", void)], 5, 255, workers=2)
    assert found["files"] == 2
    assert found["pixels"] == [int((c == LABELS).sum() + (void == c).sum()) for c in range(5)]
    assert found["ignored"] == 30
    assert found["missing"] == [4]
    assert check_labels([Sample(Path("x"), Path("x"))], 5, 255)["files"] == 0


def test_values_outside_the_classes_are_named_with_their_files(tmp_path):
    labels = LABELS.copy()
    labels[0, :9] = range(20, 29)
    samples = [sample(tmp_path, name, labels if name != "c" else LABELS) for name in "abcdef"]
    message = r"labels/a\.png has 20, 21, .* 27, \.\.\.; .*b\.png .*d\.png .* \(5 files of 6 in all\); "
    with pytest.raises(UserError, match=message + "expected 0 to 3, and 255 for pixels without a class"):
        check_labels(samples, 4, 255)
    with pytest.raises(UserError, match=r"a\.png has 2, 3; expected 0 to 1, and 9"):
        check_labels([sample(tmp_path)], 2, 9)
