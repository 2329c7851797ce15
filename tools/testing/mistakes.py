"""Mistakes of a user: commands that must fail, files that are damaged, disks that are full."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunelab import checkpoint

Fails = Callable[[Callable[[list[str]], None], list[str], str], str]
"""The fixture ``fails`` of the root conftest: a command, its words and a pattern of what it must say."""


def expect_failure(
    capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], None], words: list[str], said: str
) -> str:
    """Run a command that must fail with exit code 2 and one line, and give the line.

    Args:
        capsys: pytest's.
        command: ``main`` of an entry.
        words: its command line.
        said: pattern that the line must have.
    """
    capsys.readouterr()
    code: Any = None
    # Not pytest.raises: what it keeps of the exception would keep the loader's workers alive, too.
    try:
        command(words)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(said, error), error
    return error


def snapshot(*folders: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file of some folders, to see that nothing was touched."""
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def begun(folder: Path) -> bool:
    """Whether a folder holds a run, so that another start there is refused."""
    return any((folder / name).exists() for name in ("metrics.jsonl", "once", "finished.json"))


def cut(path: Path) -> None:
    """Take the last bytes of a file away."""
    path.write_bytes(path.read_bytes()[:-20])


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Let the checkpoint of this number, from 1, find the disk full half-way."""
    save, count = checkpoint.save_tensors, 0  # pyright: ignore[reportPrivateImportUsage]

    def full(tensors: Any, path: Any, *rest: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, *rest, **more)

    monkeypatch.setattr(checkpoint, "save_tensors", full)
