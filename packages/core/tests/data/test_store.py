import os
import random
import shutil
import signal
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.data import store as store_module
from prunelab.data.store import FeatureStore, FeatureWriter, is_store
from prunelab.data.store_format import HEADER_SIZE, RECORD_SIZE, index_files, read_index
from prunelab.errors import UserError


def items(count: int, width: int = 6, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        100 + i: rng.standard_normal((int(rng.integers(1, 9)), width)).astype(np.float16)
        for i in range(count)
    }


def write(folder: Path, values: dict[int, np.ndarray], **options) -> None:
    with FeatureWriter(folder, width=6, **options) as writer:
        for image_id, rows in values.items():
            if image_id not in writer:
                writer.add(image_id, rows)


def check(folder: Path, values: dict[int, np.ndarray]) -> None:
    found = FeatureStore(folder)
    assert len(found) == len(values)
    for image_id, rows in values.items():
        assert np.array_equal(found.get(image_id), rows.astype(np.float32))


@given(
    rows=st.lists(st.integers(0, 12), max_size=12),
    width=st.integers(1, 40),
    dtype=st.sampled_from(["float16", "float32"]),
    shard=st.sampled_from([64, 300, 2**20]),
    equal=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_what_is_written_comes_back_bit_for_bit(rows, width, dtype, shard, equal, data):
    if equal:  # items of one size that need no filling
        rows, width = [2] * len(rows), 32
    rng = np.random.default_rng(len(rows))
    values = {7 * i: rng.standard_normal((n, width)).astype(dtype) for i, n in enumerate(rows)}
    with tempfile.TemporaryDirectory() as folder:
        with FeatureWriter(folder, width=width, dtype=dtype, shard_bytes=shard) as writer:
            for image_id, value in values.items():
                writer.add(image_id, value)
        if not values:
            assert not is_store(folder)
            return
        opened = FeatureStore(folder)
        assert opened.complete
        assert (opened.ids(), opened.width, opened.dtype) == (list(values), width, np.dtype(dtype))
        assert opened.verify() == len(values)
        chosen = data.draw(st.lists(st.sampled_from(list(values)), max_size=8))
        other = np.zeros((len(chosen), max(rows) + 1, width))
        opened.get_batch(chosen, other)  # another dtype, and not contiguous
        batch, counts = opened.get_batch(chosen)
        assert np.array_equal(other[:, : batch.shape[1]], batch)
        assert batch.dtype == np.dtype(dtype)
        assert counts.tolist() == [len(values[i]) for i in chosen] == [opened.rows(i) for i in chosen]
        for image_id, row, count in zip(chosen, batch, counts, strict=True):
            assert np.array_equal(row[:count], values[image_id])
            assert not row[count:].any()


def test_a_batch_from_many_shards_goes_into_a_larger_buffer_of_another_dtype(tmp_path: Path):
    values = items(40)
    write(tmp_path, values, shard_bytes=500)
    assert len(index_files(tmp_path)) > 3
    opened = FeatureStore(tmp_path)
    ids = list(values)[::-1]
    own = opened.buffer(40, 8)
    assert (own.shape, own.dtype) == ((40, 8, 6), np.float16)
    assert not own.any()
    assert np.array_equal(opened.get_batch(ids, own)[0], opened.get_batch(ids)[0])
    buffer = np.full((50, 10, 6), 9, np.float32)
    batch, counts = opened.get_batch(ids, buffer)
    assert np.shares_memory(batch, buffer)
    assert batch.shape == (40, counts.max(), 6)
    for row, image_id, count in zip(batch, ids, counts, strict=True):
        assert np.array_equal(row[:count], values[image_id])
        assert not row[count:].any()


def test_a_writer_cut_off_at_any_byte_goes_on(tmp_path: Path):
    values = items(4)
    whole = tmp_path / "whole"
    with FeatureWriter(whole, width=6) as writer:
        for image_id, rows in values.items():
            writer.add(image_id, rows)
    index = index_files(whole)[0]
    raw, data = index.read_bytes(), index.with_suffix(".bin").read_bytes()
    ends = [0] + [r.offset + -(-r.rows * 12 // 64) * 64 for r in read_index(index).records]
    for length in range(0, len(raw) + 1, 3):
        folder = tmp_path / str(length)
        folder.mkdir()
        done = min(4, max(0, (length - HEADER_SIZE) // RECORD_SIZE))
        (folder / index.name).write_bytes(raw[:length])
        (folder / index.with_suffix(".bin").name).write_bytes(data[: ends[min(4, done + 1)] - (done < 4) * 5])
        with FeatureWriter(folder, width=6) as writer:
            assert len(writer) == done
            for image_id, rows in values.items():
                if image_id not in writer:
                    writer.add(image_id, rows)
        check(folder, values)
        shutil.rmtree(folder)


def test_killed_writers_of_two_ranks_go_on_and_the_index_is_joined(tmp_path: Path):
    values = items(300)
    ids = list(values)
    killed = 0
    for attempt in range(4):
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                mine = {i: values[i] for i in ids[rank::2]}
                with FeatureWriter(tmp_path, width=6, rank=rank, shard_bytes=4000) as writer:
                    for image_id, rows in mine.items():
                        if image_id not in writer:
                            writer.add(image_id, rows)
                            time.sleep(0.0005)
                os._exit(0)
            children.append(child)
        if attempt < 3:
            time.sleep(random.Random(attempt).uniform(0.01, 0.05))
            for child in children:
                os.kill(child, signal.SIGKILL)
        status = [os.waitpid(child, 0)[1] for child in children]
        killed += sum(os.WIFSIGNALED(s) for s in status)
    assert killed >= 2
    assert status == [0, 0]
    check(tmp_path, values)
    assert FeatureStore(tmp_path).complete


def test_a_store_that_is_being_written_can_be_read(tmp_path: Path):
    values = items(3)
    with FeatureWriter(tmp_path, width=6) as writer:
        for image_id, rows in values.items():
            writer.add(image_id, rows)
        assert not FeatureStore(tmp_path).complete
        check(tmp_path, values)
        with pytest.raises(UserError, match="another process is writing it as rank 0"):
            FeatureWriter(tmp_path, width=6)
    assert FeatureStore(tmp_path).complete


def test_items_lost_in_a_power_failure_are_written_again(tmp_path: Path):
    values = items(4)
    writer = FeatureWriter(tmp_path, width=6)
    for image_id, rows in values.items():
        writer.add(image_id, rows)
    writer.__exit__(RuntimeError, None, None)  # the shard stays unfinished
    index = index_files(tmp_path)[0]
    data = bytearray(index.with_suffix(".bin").read_bytes())
    last = read_index(index).records[-1].offset
    data[last:] = bytes(len(data) - last)
    index.with_suffix(".bin").write_bytes(data)
    index.write_bytes(index.read_bytes() + bytes(45))
    with FeatureWriter(tmp_path, width=6) as writer:
        assert len(writer) == 3
        writer.add(103, values[103])
    check(tmp_path, values)


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path):
    values = items(5)
    write(tmp_path, values)
    index = index_files(tmp_path)[0]
    rng = random.Random(0)
    for file in (index, index.with_suffix(".bin")):
        good = file.read_bytes()
        for _ in range(250):
            place, bit = rng.randrange(len(good)), rng.randrange(8)
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            file.write_bytes(bad)
            with pytest.raises(UserError, match=str(tmp_path)):
                FeatureStore(tmp_path).get_batch(list(values))
        file.write_bytes(good)
    check(tmp_path, values)


def test_files_cut_off_after_they_were_finished_are_refused(tmp_path: Path):
    values = items(5)
    write(tmp_path, values)
    index = index_files(tmp_path)[0]
    data = index.with_suffix(".bin")
    good = data.read_bytes()
    data.write_bytes(good[:-1])
    with pytest.raises(UserError, match=f"has {len(good) - 1} bytes; expected {len(good)}"):
        FeatureStore(tmp_path)
    data.unlink()
    with pytest.raises(UserError, match="has 0 bytes"):
        FeatureStore(tmp_path)
    data.write_bytes(good)
    index.write_bytes(index.read_bytes() + b"more")
    with pytest.raises(UserError, match="goes on after its end record"):
        FeatureStore(tmp_path)


def test_a_full_disk_leaves_what_was_written_and_the_writer_usable(tmp_path: Path, monkeypatch):
    values = items(6)
    real = os.write
    budget = [700]

    def short(file: int, data) -> int:
        if budget[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(file, data[: budget[0]])
        budget[0] -= count
        return count

    with FeatureWriter(tmp_path, width=6) as writer:
        monkeypatch.setattr(store_module.os, "write", short)
        done = 0
        with pytest.raises(UserError, match="cannot be written: No space left on device; what was"):  # noqa: PT012
            for image_id in values:  # which one meets the full disk is not known
                writer.add(image_id, values[image_id])
                done += 1
        assert 0 < done < 6
        check(tmp_path, dict(list(values.items())[:done]))
        monkeypatch.undo()
        for image_id, rows in list(values.items())[done:]:
            writer.add(image_id, rows)
    check(tmp_path, values)


def test_wrong_items_and_stores_are_one_clear_line(tmp_path: Path):
    with pytest.raises(UserError, match="dtype is 'int8'; expected float16 or float32"):
        FeatureWriter(tmp_path / "a", width=6, dtype="int8")
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(tmp_path)
    with FeatureWriter(tmp_path / "b", width=6) as writer:
        writer.add(1, np.ones((2, 6)))
        with pytest.raises(UserError, match=r"shape \(2, 5\); expected \(n, 6\)"):
            writer.add(2, np.ones((2, 5)))
        with pytest.raises(UserError, match="image 2 are not finite in float16"):
            writer.add(2, np.full((2, 6), 1e6))
        with pytest.raises(UserError, match="image id 1 is in the store already"):
            writer.add(1, np.ones((2, 6)))
        with pytest.raises(UserError, match="image id -1 is negative"):
            writer.add(-1, np.ones((2, 6)))
    with pytest.raises(UserError, match="holds float16 rows of 6 values; expected float32 rows of 6"):
        FeatureWriter(tmp_path / "b", width=6, dtype="float32")
    with pytest.raises(UserError, match="no features of image 5 among its 1 items"):
        FeatureStore(tmp_path / "b").get(5)
    with pytest.raises(UserError, match=r"needs shape \(1, 2, 6\); the buffer given has \(1, 1, 6\)"):
        FeatureStore(tmp_path / "b").get_batch([1], np.zeros((1, 1, 6)))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    with FeatureWriter(tmp_path / "d", width=7, rank=1) as writer:
        writer.add(1, np.ones((2, 7)))
    for file in (tmp_path / "d").glob("shard*"):
        shutil.copy(file, tmp_path / "c")
    with pytest.raises(UserError, match="its shards hold float16 x 6 and float16 x 7; expected one"):
        FeatureStore(tmp_path / "c")


def test_the_same_item_twice_is_taken_once_and_refused_if_it_differs(tmp_path: Path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        with FeatureWriter(tmp_path / name, width=6, rank=ord(name)) as writer:
            writer.add(1, np.full((2, 6), value))
    for file in (tmp_path / "b").glob("shard*"):
        shutil.copy(file, tmp_path / "a")
    assert len(FeatureStore(tmp_path / "a")) == 1
    for file in (tmp_path / "c").glob("shard*"):
        shutil.copy(file, tmp_path / "a")
    with pytest.raises(UserError, match=r"image 1 is also in shard-0097-000000\.idx, with other features"):
        FeatureStore(tmp_path / "a")


def test_the_bytes_are_those_of_the_documented_format(tmp_path: Path):
    import zlib

    with FeatureWriter(tmp_path, width=3, dtype="float32", rank=2) as writer:
        writer.add(42, np.arange(6.0).reshape(2, 3))
    data = (tmp_path / "shard-0002-000000.bin").read_bytes()
    assert data == struct.pack("<6f", *range(6)) + bytes(40)
    head = struct.pack("<8s4I36x", b"PLFEATS1", 4, 3, 2, 0)
    checksum = zlib.crc32(head)
    expected = head + struct.pack("<I", checksum)
    for body in (
        struct.pack("<qQIII", 42, 0, 2, zlib.crc32(data), 0),
        struct.pack("<qQIII", -1, 64, 0, 0, 1),
    ):
        expected += body + struct.pack("<I", zlib.crc32(body, checksum))
    assert (tmp_path / "shard-0002-000000.idx").read_bytes() == expected
