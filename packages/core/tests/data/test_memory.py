"""Features kept in memory: the rule, what is shared, and what a killed process leaves."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prunelab.data import memory
from prunelab.data.features import FeatureSource, FolderWriter, open_features
from prunelab.data.loader import make_loader
from prunelab.data.memory import CachedFeatures, FeatureMemory, free_share, shared_memory
from prunelab.errors import UserError

VALUES = {i: np.random.default_rng(i).standard_normal((i % 3 + 1, 5)).astype(np.float32) for i in range(9)}
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def source(tmp_path: Path) -> FeatureSource:
    writer = FolderWriter(tmp_path / "folder")
    for image_id, rows in VALUES.items():
        writer.add(image_id, rows)
    return open_features(tmp_path / "folder")


class Rows:
    """A data set of the cached features."""

    def __init__(self, cache: CachedFeatures) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(VALUES)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.cache.get(index)


def in_a_fork(work: Callable[[], object]) -> int | None:
    """Do something in a forked process; its exit status."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def test_rows_are_kept_while_memory_is_free_and_the_rule_is_the_originals(
    source: FeatureSource, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "free_share", lambda: 0.45)
    for share, kept in ((0.4, True), (0.5, False), (1.0, False), (0.1, True)):
        cache = CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=share)
        for _ in range(2):
            assert np.array_equal(cache.get(3), VALUES[3])
        assert (3 in cache.memory) == kept
        assert len(cache.memory) == kept
        assert 4 in cache
        assert 77 not in cache
    monkeypatch.setattr(memory, "free_share", lambda: 0.2)
    cache = CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=0.0)
    cache.get(3)
    assert len(cache.memory) == 0
    with pytest.raises(UserError, match=r"cache_min_free_ram is 1\.5"):
        CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=1.5)


def test_what_is_kept_comes_without_the_source_and_may_be_changed_by_its_reader(source: FeatureSource):
    cache = CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=0.0)
    assert cache.memory.put(4, VALUES[4])
    (source.path / "4.npy").unlink()  # pyright: ignore[reportAttributeAccessIssue]
    first = cache.get(4)
    first += 1
    assert np.array_equal(cache.get(4), VALUES[4])
    assert cache.memory.get(5) is None
    assert cache.memory.get(77) is None


def test_images_that_are_not_listed_empty_or_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    kept = FeatureMemory([1, 2, 1])
    assert not kept.put(3, VALUES[3])
    assert not kept.put(1, np.zeros((0, 5), np.float32))
    monkeypatch.setattr(memory, "SLOT", 64)
    assert not kept.put(2, np.zeros((4, 5), np.float32))
    assert len(kept) == 0

    def no_room(*_: object) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(memory.os, "pwrite", no_room)
    assert not kept.put(1, VALUES[1])


@FORKS
def test_two_loading_processes_fill_one_memory(source: FeatureSource, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_share", lambda: 0.9)
    cache = CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=0.4)
    loader = make_loader(
        Rows(cache), batch_size=2, collate=list, seed=1, shuffle=True, drop_last=False, workers=2
    )
    seen = [rows for batch in loader for rows in batch]
    assert len(seen) == len(cache.memory) == len(VALUES)
    for image_id, rows in VALUES.items():
        found = cache.memory.get(image_id)
        assert found is not None
        assert np.array_equal(found, rows)


def test_a_spawned_process_has_the_same_memory(source: FeatureSource, monkeypatch: pytest.MonkeyPatch):
    assert free_share() > 0
    monkeypatch.setattr(memory, "LEAST_FREE", 0.0)
    cache = CachedFeatures(source, FeatureMemory(VALUES), min_free_ram=0.0)
    spawned = multiprocessing.get_context("spawn").Process(
        target=FeatureMemory.put, args=(cache.memory, 8, VALUES[8])
    )
    spawned.start()
    spawned.join(60)
    assert spawned.exitcode == 0
    assert 8 in cache.memory
    assert np.array_equal(cache.get(8), VALUES[8])


def test_a_copy_that_is_no_new_process_begins_empty():
    kept = FeatureMemory(VALUES)
    kept.put(2, VALUES[2])
    other = pickle.loads(pickle.dumps(kept))  # noqa: TID251 - our own object
    assert len(other) == 0
    assert other.put(2, VALUES[2])


@FORKS
def test_ranks_of_a_machine_go_over_to_one_memory():
    kept = FeatureMemory(VALUES)
    offer = kept.offer()

    def rank() -> None:
        own = FeatureMemory(VALUES)
        assert own.join(offer)
        assert not own.join(offer)
        own.put(6, VALUES[6])

    assert in_a_fork(rank) == 0
    assert np.array_equal(kept.get(6), VALUES[6])  # pyright: ignore[reportArgumentType]
    own = FeatureMemory(VALUES)
    assert not own.join(offer._replace(machine="another"))
    assert not own.join(offer._replace(token=b"x" * 16))
    assert not own.join(offer._replace(descriptor=10**6))
    assert len(own) == 0
    assert len(shared_memory(VALUES)) == 0


@FORKS
def test_what_a_killed_process_wrote_by_half_is_never_read(source: FeatureSource):
    kept = FeatureMemory(VALUES)

    def dies() -> None:
        write = os.pwrite

        def half(file: int, data: bytes, offset: int) -> int:
            write(file, bytes(data)[: len(bytes(data)) // 2], offset)
            os._exit(9)

        memory.os.pwrite = half  # in the forked process alone
        kept.put(5, VALUES[5])

    assert in_a_fork(dies) == 9
    assert 5 not in kept
    assert kept.get(5) is None
    cache = CachedFeatures(source, kept, min_free_ram=0.0)
    assert np.array_equal(cache.get(5), VALUES[5])


def test_free_memory_is_read_as_linux_tells_it(tmp_path: Path):
    info, none = tmp_path / "meminfo", tmp_path / "none"
    info.write_text(
        "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 900 kB\nBuffers: 50 kB\nCached: 250 kB\n"
    )
    assert free_share(info, none) == 0.4
    with info.open("a") as file:
        file.write("Shmem: 150 kB\n")  # kept features are counted as cached; they are not free
    assert free_share(info, none) == 0.25
    (tmp_path / "memory.max").write_text("1000")
    (tmp_path / "memory.stat").write_text("anon 700\nfile 200\nshmem 100\n")
    assert free_share(info, tmp_path) == pytest.approx(0.2)
    (tmp_path / "memory.max").write_text("max")
    assert free_share(info, tmp_path) == 0.25
    assert free_share(none) == 0.0
    info.write_text("MemTotal: 1000 kB\n")
    assert free_share(info) == 0.0


def test_systems_without_such_memory_say_so(monkeypatch: pytest.MonkeyPatch):
    assert memory.available() is None
    monkeypatch.setattr(memory, "free_share", lambda: 0.0)
    assert "meminfo" in str(memory.available())
    monkeypatch.delattr(os, "memfd_create")
    assert "Linux" in str(memory.available())
