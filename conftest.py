"""Options and fixtures of every test suite in the workspace."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("testing")  # before its first import: its failures show their values

from prunelab import checkpoint  # noqa: E402
from testing import parity  # noqa: E402
from testing.killing import Killer  # noqa: E402
from testing.mistakes import Fails, expect_failure  # noqa: E402


def pytest_configure() -> None:
    """Compute with one thread: the suites' tensors are tiny, and waiting threads slow a busy machine down."""
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the workspace's own options, once for all members."""
    parser.addoption(
        "--parity-root",
        default=None,
        metavar="DIR",
        help="run the parity tests on the recorded numbers under DIR instead of the project's own copy",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of recorded numbers once for every folder that it reads."""
    parity.parametrize(metafunc)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets named by PRUNELAB_DATA; the test is skipped where it is unset."""
    root = os.environ.get("PRUNELAB_DATA")
    if not root:
        pytest.skip("needs real data: PRUNELAB_DATA is not set")
    return Path(root)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder but those of the test counts, and no other process."""
    monkeypatch.chdir(tmp_path)
    for name in ("PRUNELAB_RUNS", "PRUNELAB_DATA", "CHANNEL_PRUNE_MODE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def unsynced() -> Iterator[None]:
    """Nothing that a test writes must outlast a power cut; the disk would take longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Killer]:
    """Ends runs in the test's folder where the test says so."""
    armed = Killer(monkeypatch, tmp_path)
    checkpoint.watchers.append(armed.tick)
    yield armed
    checkpoint.watchers.remove(armed.tick)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must fail, and gives the one line that it says."""
    return functools.partial(expect_failure, capsys)
