import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.cifar import (
    CIFAR10,
    CIFAR100,
    CLASSES,
    CifarSplit,
    find,
    open_cifar,
    write_binary,
)
from prunelab.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = [i % 10 for i in range(12)]


def dump(path: Path, content: object) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)  # noqa: TID251 - the official files are pickles


def batches(folder: Path) -> Path:
    place = folder / CIFAR10.batches
    place.mkdir()
    planes = IMAGES.transpose(0, 3, 1, 2).reshape(12, -1)
    for name, part in (
        ("data_batch_1", slice(0, 6)),
        ("data_batch_2", slice(6, 12)),
        ("test_batch", slice(4)),
    ):
        dump(place / name, {b"data": planes[part], b"labels": LABELS[part], b"batch_label": name.encode()})
    return place


def folders(root: Path) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(IMAGES[number]).save(root / split / name / f"{split}.png")
    return root


def test_the_official_batches_are_read_in_order(tmp_path):
    place = batches(tmp_path)
    for folder in (tmp_path, place):
        train, test = (open_cifar(folder, split) for split in ("train", "test"))
        assert np.array_equal(train.images, IMAGES)
        assert train.labels.tolist() == LABELS
        assert len(test) == 4
        assert test.images.flags.c_contiguous


def test_folders_of_pictures_are_read_by_class(tmp_path):
    train = open_cifar(folders(tmp_path), "train")
    assert np.array_equal(train.images, IMAGES[:10])
    assert train.labels.tolist() == list(range(10))
    Image.fromarray(IMAGES[0][:8]).save(tmp_path / "test/cat/small.png")
    with pytest.raises(UserError, match=r"small\.png: picture of 8x32, expected 32x32"):
        open_cifar(tmp_path, "test")
    (tmp_path / "test/cat").rename(tmp_path / "test/lion")
    with pytest.raises(UserError, match=r"test: folders .*lion.*; expected airplane, .* truck"):
        open_cifar(tmp_path, "test")


def test_a_folder_without_cifar_is_refused(tmp_path):
    assert find(tmp_path) is None
    with pytest.raises(
        UserError, match="no CIFAR-10 in it; expected cifar-10-batches-py or cifar-10-batches-bin, or"
    ):
        open_cifar(tmp_path, "train")
    with pytest.raises(UserError, match="split is 'val'"):
        open_cifar(tmp_path, "val")
    batches(tmp_path)
    for file in (tmp_path / CIFAR10.batches).glob("data_batch_*"):
        file.unlink()
    with pytest.raises(UserError, match=r"data_batch_\*: no such file"):
        open_cifar(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"labels": [1]}, "not a batch of CIFAR-10; expected labels, and data of 3072 bytes"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [1, 2]}, "and data of 3072 bytes"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "expected one label from 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "expected one label from 0 to 9"),
        ({b"data": np.zeros((1, 3072)), b"labels": [1]}, "expected one label from 0 to 9"),
        ([1], "not a batch of CIFAR-10"),
        (Path("x"), r"refused: the pickle names pathlib"),
    ],
)
def test_a_file_that_is_no_batch_is_refused(tmp_path, content, message):
    dump(batches(tmp_path) / "test_batch", content)
    with pytest.raises(UserError, match=message):
        open_cifar(tmp_path, "test")


def binary(folder: Path) -> Path:
    data = CifarSplit(IMAGES, np.array(LABELS))
    return write_binary(folder, data, CifarSplit(IMAGES[:4], np.array(LABELS[:4])))


def test_the_binary_version_is_written_record_by_record(tmp_path):
    place = binary(tmp_path)
    assert place == tmp_path / CIFAR10.binary
    first = (place / "data_batch_1.bin").read_bytes()
    assert len(first) == 3 * 3073
    assert first[0] == 0
    assert first[3073] == 1
    assert first[1] == IMAGES[0, 0, 0, 0]
    assert first[2] == IMAGES[0, 0, 1, 0]
    assert first[1 + 1024] == IMAGES[0, 0, 0, 1]
    assert (place / "batches.meta.txt").read_text().split() == list(CLASSES)


def test_the_binary_version_is_read_as_it_was_written(tmp_path):
    place = binary(tmp_path)
    assert len(list(place.glob("data_batch_*.bin"))) == 5
    for folder in (tmp_path, place):
        train, test = (open_cifar(folder, split) for split in ("train", "test"))
        assert np.array_equal(train.images, IMAGES)
        assert train.labels.tolist() == LABELS
        assert np.array_equal(test.images, IMAGES[:4])
        assert train.images.flags.c_contiguous


def test_binary_and_python_batches_in_one_folder_do_not_mix(tmp_path):
    place = batches(tmp_path)
    for file in binary(tmp_path).iterdir():
        file.rename(place / file.name)
    assert len(open_cifar(place, "train")) == len(IMAGES)


@pytest.mark.parametrize("size", [0, 3072, 3074, 5 * 3073 - 1])
def test_a_binary_file_of_another_size_is_refused(tmp_path, size):
    (binary(tmp_path) / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(UserError, match=rf"test_batch\.bin: {size} bytes, expected a multiple of 3073"):
        open_cifar(tmp_path, "test")


def test_a_binary_file_with_another_label_is_refused(tmp_path):
    file = binary(tmp_path) / "test_batch.bin"
    content = bytearray(file.read_bytes())
    content[2 * 3073] = 10
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"test_batch\.bin: label 10 in record 2, expected 0 to 9"):
        open_cifar(tmp_path, "test")


def test_cifar_100_is_read_by_its_fine_labels_and_written_in_its_own_binary_layout(tmp_path):
    place = tmp_path / CIFAR100.batches
    place.mkdir()
    planes, fine = IMAGES.transpose(0, 3, 1, 2).reshape(12, -1), [99 - i for i in range(12)]
    for name, count in (("train", 12), ("test", 5)):
        content = {b"data": planes[:count], b"fine_labels": fine[:count], b"coarse_labels": [3] * count}
        dump(place / name, content)
    train, test = (open_cifar(tmp_path, split, CIFAR100) for split in ("train", "test"))
    assert train.labels.tolist() == fine
    assert np.array_equal(test.images, IMAGES[:5])
    assert find(tmp_path) is None
    written = write_binary(tmp_path / "binary", train, test, of=CIFAR100)
    assert sorted(file.name for file in written.iterdir()) == [
        "fine_label_names.txt",
        "test.bin",
        "train.bin",
    ]
    assert (written / "train.bin").stat().st_size == 12 * 3074
    again = open_cifar(tmp_path / "binary", "train", CIFAR100)
    assert again.labels.tolist() == fine
    assert np.array_equal(again.images, IMAGES)
    (written / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(UserError, match="3073 bytes, expected a multiple of 3074: 2 labels and 3072 bytes"):
        open_cifar(tmp_path / "binary", "test", CIFAR100)
    with pytest.raises(UserError, match="no CIFAR-100 in it; expected cifar-100-python or cifar-100-binary"):
        open_cifar(tmp_path / "nothing", "test", CIFAR100)
    assert len(CIFAR100.classes) == len(set(CIFAR100.classes)) == 100


@pytest.mark.data
def test_real_pictures_are_read_in_both_layouts(real_data, tmp_path):
    unpack = real_data / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"needs real data: {unpack} is missing")
    sizes = ["--train", "3", "--test", "2", "--parts", "test,train_a"]
    for layout in ("folder", "pickle"):
        command = [sys.executable, str(unpack), str(tmp_path / layout), "--layout", layout, *sizes]
        subprocess.run(command, check=True, capture_output=True)
        train, test = (open_cifar(tmp_path / layout, split) for split in ("train", "test"))
        assert np.bincount(train.labels).tolist() == [3] * 10
        assert np.bincount(test.labels).tolist() == [2] * 10
        assert train.images.std() > 30
