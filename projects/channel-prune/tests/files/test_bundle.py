"""TensorFlow's checkpoint files, without TensorFlow: one that it wrote, and those that are written here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from channel_prune.files.bundle import find_bundle, read_bundle, write_bundle
from channel_prune.files.crc import crc32c, masked_crc32c
from prunelab.errors import UserError

WRITTEN_BY_TENSORFLOW = Path(__file__).parents[1] / "fixtures" / "tensorflow"
INDEX, DATA = "model.ckpt-1234.index", "model.ckpt-1234.data-00000-of-00001"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A copy of the checkpoint that TensorFlow wrote."""
    return Path(shutil.copytree(WRITTEN_BY_TENSORFLOW, tmp_path / "theirs"))


def ours(folder: Path, count: int = 3) -> Path:
    """A checkpoint written here, with enough names for several blocks of the index."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        f"model/layer_{number}/kernel": rng.standard_normal((3, 3, 2, 1)).astype(np.float32)
        for number in range(count)
    }
    return write_bundle(folder / "model.ckpt-7", arrays | {"model/global_step": np.array(7)})


def test_the_check_sum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert (
        masked_crc32c(bytes(32))
        == (0x8A9136AA >> 15 | 0x8A9136AA << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF
    )


def test_variables_that_tensorflow_wrote_are_read_with_types_and_shapes() -> None:
    found = find_bundle(WRITTEN_BY_TENSORFLOW)
    assert found == WRITTEN_BY_TENSORFLOW / "model.ckpt-1234"
    arrays = read_bundle(found)
    assert arrays.pop("pruned_model/global_step") == 1234
    shapes = {
        "pruned_model/resnet_model/conv2d/kernel": (3, 3, 2, 2),
        "pruned_model/resnet_model/conv2d_1/kernel": (1, 1, 2, 3),
        "pruned_model/resnet_model/batch_normalization/gamma": (2,),
        "pruned_model/resnet_model/batch_normalization/moving_variance": (2,),
        "pruned_model/resnet_model/dense/kernel": (3, 4),
        "double": (2,),
        "half": (5,),
        "numbers": (4,),
        "empty": (0, 3),
    }
    types = {"double": np.float64, "half": np.float16, "numbers": np.int32}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    for name, array in arrays.items():
        assert array.dtype == types.get(name, np.float32), name
        ramp = np.arange(array.size).reshape(array.shape) / (1 if name == "numbers" else 8)
        assert (array == ramp).all(), name


@pytest.mark.parametrize("name", ["", INDEX, DATA, "model.ckpt-1234", "model.ckpt-1234.meta", "model.ckpt"])
def test_a_checkpoint_is_found_by_its_name_any_of_its_files_and_its_folder(name: str) -> None:
    assert find_bundle(WRITTEN_BY_TENSORFLOW / name) == WRITTEN_BY_TENSORFLOW / "model.ckpt-1234"


def test_of_several_steps_under_a_name_the_last_counts(tmp_path: Path) -> None:
    for step in (90, 100, 8):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"step": np.array(step)})
    found = find_bundle(tmp_path / "model.ckpt")
    assert found is not None
    assert read_bundle(found)["step"] == 100
    assert find_bundle(tmp_path / "model") is None


def test_without_a_list_the_newest_index_counts_and_without_an_index_nothing(theirs: Path) -> None:
    (theirs / "checkpoint").unlink()
    assert find_bundle(theirs) == theirs / "model.ckpt-1234"
    (theirs / INDEX).unlink()
    assert find_bundle(theirs) is None
    assert find_bundle(theirs / "nothing") is None


@pytest.mark.parametrize("count", [1, 300])
def test_what_is_written_is_read_again(count: int, tmp_path: Path) -> None:
    prefix = ours(tmp_path / "new", count)
    assert find_bundle(tmp_path / "new") == prefix
    arrays = read_bundle(prefix)
    assert arrays.pop("model/global_step") == 7
    rng = np.random.default_rng(0)
    for number in range(count):
        expected = rng.standard_normal((3, 3, 2, 1)).astype(np.float32)
        assert (arrays.pop(f"model/layer_{number}/kernel") == expected).all()
    assert not arrays


def test_variables_that_tensorflow_wrote_are_written_in_the_same_bytes(tmp_path: Path) -> None:
    arrays = read_bundle(WRITTEN_BY_TENSORFLOW / "model.ckpt-1234")
    write_bundle(tmp_path / "again", arrays)
    data = (tmp_path / "again.data-00000-of-00001").read_bytes()
    assert data in (WRITTEN_BY_TENSORFLOW / DATA).read_bytes()


def test_text_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="words: <U3 has no number in TensorFlow's files"):
        write_bundle(tmp_path / "x", {"words": np.array(["one"])})


def break_file(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "flip":
        content[len(content) // 4] ^= 0x10
    else:
        content[-9:-1] = b"no magic"
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "how", "line"),
    [
        (INDEX, "cut", f"{INDEX}: cut off, or no index of a TensorFlow checkpoint"),
        (INDEX, "magic", f"{INDEX}: cut off, or no index of a TensorFlow checkpoint"),
        (INDEX, "flip", f"{INDEX}: damaged: a check sum is wrong"),
        (DATA, "cut", f"{DATA}: cut off, or of another checkpoint: .* is not whole"),
        (DATA, "flip", f"{DATA}: damaged: the check sum of .* is wrong"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(theirs: Path, file: str, how: str, line: str) -> None:
    break_file(theirs / file, how)
    with pytest.raises(UserError, match=line):
        read_bundle(theirs / "model.ckpt-1234")


def test_missing_data_are_told_in_one_line(theirs: Path) -> None:
    (theirs / DATA).unlink()
    with pytest.raises(UserError, match=f"{DATA}: no such file, but the checkpoint's index asks for it"):
        read_bundle(theirs / "model.ckpt-1234")


def test_another_table_is_no_checkpoint(tmp_path: Path) -> None:
    from channel_prune.files import bundle

    (tmp_path / "other.index").write_bytes(bundle._table([(b"key", b"value")]))
    with pytest.raises(UserError, match="holds no variables of TensorFlow"):
        read_bundle(tmp_path / "other")
