from __future__ import annotations

import collections
import ctypes
import errno
import io
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunelab import util
from prunelab.errors import UserError
from prunelab.util import (
    NUMPY_ARRAYS,
    atomic_folder,
    atomic_write,
    free_name,
    human_bytes,
    human_count,
    human_names,
    human_seconds,
    in_parts,
    read_json,
    recover_folder,
    restricted_load,
    sha256_file,
    write_json,
)


def _dump(path: Path, value: object, protocol: int = 4) -> Path:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(value)
    path.write_bytes(buffer.getvalue())
    return path


class _DiskFull:
    """Stands in for ``os.fsync`` on a disk that fills up at that moment."""

    def __call__(self, descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_atomic_write_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with atomic_write(target, "w") as file:
        file.write("käse")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "käse"
    assert os.listdir(target.parent) == ["b.txt"]


def test_an_exception_inside_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as file:
        file.write(b"new" * (1 // 0))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_one_clear_line_and_the_old_file_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    monkeypatch.setattr(util.os, "fsync", _DiskFull())
    line = r"model\.safetensors: cannot be written: No space left.*unchanged"
    with pytest.raises(UserError, match=line), atomic_write(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_file_that_grows_too_large_for_the_system_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"model\.safetensors: cannot be written: File too large.*unchanged"
        ):
            save_tensors(target, {"w": torch.zeros(1 << 16)})
        with pytest.raises(UserError, match="folder: cannot be written: File too large"):
            save_folder(tmp_path / "folder", {"w": torch.zeros(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors))


def save_folder(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with atomic_folder(path) as folder:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_an_error_about_another_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "x") as file:
        file.write((tmp_path / "elsewhere").read_bytes())
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "y"):
        pass


@pytest.mark.parametrize("exchange", [True, False])
def test_atomic_folder_replaces_the_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(util, "_exchange", lambda first, second: False)
    target = tmp_path / "best"
    for name in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / name).write_text(name)
            (folder / "sub").mkdir()
    assert sorted(os.listdir(target)) == ["sub", "two"]
    assert os.listdir(tmp_path) == ["best"]


def test_a_reader_always_finds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("needs Linux's renameat2")
    target = tmp_path / "best"
    with atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    monkeypatch.setattr(util.os, "replace", lambda a, b: pytest.fail("the folder was away for a moment"))
    with atomic_folder(target) as folder:
        (folder / "two").write_text("2")
    assert os.listdir(target) == ["two"]


def test_a_full_disk_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "best"
    with atomic_folder(target) as folder:
        (folder / "one").write_text("1")
    monkeypatch.setattr(util.os, "fsync", _DiskFull())
    with (
        pytest.raises(UserError, match="best: cannot be written: No space left"),
        atomic_folder(target) as folder,
    ):
        (folder / "two").write_text("2")
    assert os.listdir(target) == ["one"]
    assert os.listdir(tmp_path) == ["best"]


def test_a_writer_killed_between_its_two_renames_is_undone(tmp_path: Path) -> None:
    target = tmp_path / "best"
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "one").write_text("1")
    (tmp_path / ".best.new").mkdir()
    recover_folder(target)
    assert os.listdir(target) == ["one"]
    with atomic_folder(target) as folder:
        (folder / "two").write_text("2")
    assert os.listdir(target) == ["two"]
    assert os.listdir(tmp_path) == ["best"]


def test_json_goes_out_and_in_and_a_break_names_its_place(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    data = {"ä": [1, 2.5, None, True], "n": {}}
    write_json(file, data)
    assert read_json(file) == data
    assert file.read_text(encoding="utf-8").endswith("}\n")
    file.write_text('{"a": 1,\n "b": }')
    with pytest.raises(UserError, match=r"a\.json: broken JSON at line 2, column 7"):
        read_json(file)
    file.write_bytes(b'"\xff"')
    with pytest.raises(UserError, match=r"a\.json: not a JSON text file: byte 1"):
        read_json(file)
    with pytest.raises(UserError, match=r"missing\.json: cannot be read"):
        read_json(tmp_path / "missing.json")


def test_what_is_not_json_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, [1])
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file) == [1]


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("value", "size", "count"),
    [
        (0, "0 B", "0"),
        (999, "999 B", "999"),
        (999.6, "1.00 kB", "1.00 k"),
        (1_550_000, "1.55 MB", "1.55 M"),
        (53_500_000, "53.5 MB", "53.5 M"),
        (212_600_000, "213 MB", "213 M"),
        (1.814e9, "1.81 GB", "1.81 G"),
        (-2048, "-2.05 kB", "-2.05 k"),
        (5e18, "5000 PB", "5000 P"),
    ],
)
def test_sizes_are_short(value: float, size: str, count: str) -> None:
    assert human_bytes(value) == size
    assert human_count(value) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (8.3e-7, "830 ns"),
        (0.00125, "1.25 ms"),
        (0.0123456, "12.3 ms"),
        (4, "4.00 s"),
        (0.9996, "1.00 s"),
        (45.64, "45.6 s"),
        (125.2, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11220, "3 h 07 min"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@given(st.floats(1, 9.9e17))
def test_short_sizes_are_right_within_half_a_percent(value: float) -> None:
    number, _, unit = human_bytes(value).partition(" ")
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert abs(float(number) * scale - value) <= 0.0051 * value


def test_plain_pickles_need_no_allow_list(tmp_path: Path) -> None:
    data = {"a": [1, 2.0, (b"x", None)], "b": {3, 4}}
    for protocol in range(2, 6):
        assert restricted_load(_dump(tmp_path / "p", data, protocol)) == data


def test_allowed_names_load_and_others_are_refused_by_name(tmp_path: Path) -> None:
    table = collections.defaultdict(int, {("a", "b"): 2})
    file = _dump(tmp_path / "table.p", table)
    assert restricted_load(file, {("collections", "defaultdict"), ("builtins", "int")}) == table
    with pytest.raises(UserError, match=r"table\.p: refused: the pickle names builtins\.int; allowed: coll"):
        restricted_load(file, {("collections", "defaultdict")})


def test_a_stand_in_takes_the_place_of_a_foreign_class(tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_bytes(b"cnowhere.to\nBeFound\n(I3\nI4\ntR.")
    assert restricted_load(file, {("nowhere.to", "BeFound"): lambda *args: args}) == (3, 4)


def test_nothing_that_is_not_allowed_runs(tmp_path: Path) -> None:
    for payload in (b"cos\nsystem\n(S'touch hacked'\ntR.", b"c__builtin__\neval\n(S'1'\ntR."):
        (tmp_path / "evil").write_bytes(payload)
        with pytest.raises(UserError, match=r"refused: the pickle names (os\.system|builtins\.eval)"):
            restricted_load(tmp_path / "evil", NUMPY_ARRAYS)
    assert not Path("hacked").exists()


def test_an_allowed_module_does_not_open_a_dotted_path(tmp_path: Path) -> None:
    file = tmp_path / "evil"
    file.write_bytes(b"\x80\x04\x8c\x0bcollections\x8c\x0b_sys.intern\x93.")
    with pytest.raises(UserError, match="refused"):
        restricted_load(file, {("collections", "_sys")})


@pytest.mark.parametrize("dtype", ["float32", "int64", ">f4", "bool"])
def test_numpy_arrays_load_with_the_numpy_list(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for protocol in (2, 4, 5):
        loaded = restricted_load(
            _dump(tmp_path / "p", {"x": array, "s": array[0, 1]}, protocol), NUMPY_ARRAYS
        )
        np.testing.assert_array_equal(loaded["x"], array)
        assert loaded["s"] == array[0, 1]


def test_an_array_written_before_numpy_2_loads(tmp_path: Path) -> None:
    array = np.arange(4.0)
    file = _dump(tmp_path / "p", array, 2)
    file.write_bytes(file.read_bytes().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    np.testing.assert_array_equal(restricted_load(file, NUMPY_ARRAYS), array)


def test_a_python_2_dictionary_of_bytes_loads(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(b"(dp0\nS'data'\np1\nS'\\xff\\x00'\np2\ns.")
    assert restricted_load(tmp_path / "batch", encoding="bytes") == {b"data": b"\xff\x00"}


@pytest.mark.parametrize("cut", [0, 1, 5, 20])
def test_a_truncated_pickle_is_one_line(tmp_path: Path, cut: int) -> None:
    file = _dump(tmp_path / "p", {"a": list(range(50))})
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="p: not a readable pickle"):
        restricted_load(file)
    with pytest.raises(UserError, match="cannot be read"):
        restricted_load(tmp_path / "missing")


@pytest.mark.parametrize(("items", "threads", "shares"), [(0, 2, 0), (9, 3, 1), (10, 1, 1), (17, 3, 3)])
def test_work_in_parts_covers_all_items_once(items: int, threads: int, shares: int) -> None:
    seen: list[tuple[int, int]] = []
    in_parts(lambda low, high: seen.append((low, high)), items, threads, least=5)
    assert len(seen) == shares
    assert sorted(i for low, high in seen for i in range(low, high)) == list(range(items))


def test_work_in_parts_that_fails_is_an_error_after_all_parts_have_ended() -> None:
    done: list[int] = []

    def work(low: int, high: int) -> None:
        if high == 30:
            raise ValueError("the last share")
        done.append(low)

    with pytest.raises(ValueError, match="the last share"):
        in_parts(work, 30, 3, least=1)
    assert sorted(done) == [0, 10]


def test_a_line_of_names_has_an_end() -> None:
    assert human_names([]) == "none"
    assert human_names(["a", "b"]) == "a, b"
    assert human_names(list("abcdefghi")) == "a, b, c, d, e, f, g, h, ... (9 in all)"
    assert human_names(["a", "b"], 1) == "a, ... (2 in all)"


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert free_name("cat", []) == "cat"
    assert free_name("cat", ["cat", "cat3"]) == "cat2"
    assert free_name("cat", {"cat", "cat2"}) == "cat3"


def test_a_file_of_tensors_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    util.save_tensors({"a": torch.ones(2)}, tmp_path / "new.safetensors", {"by": "me"})
    assert (tmp_path / "new.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert safetensors.torch.load_file(tmp_path / "new.safetensors")["a"].tolist() == [1, 1]
