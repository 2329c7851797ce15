"""Ending runs as a kill does: in the test's own process at any stage, or another process by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from testing.runs import newest_step


class Killed(BaseException):
    """Stands for a kill: nothing in a run catches it."""


class Killer:
    """Counts every stage of a run and every rename of a file in `folder`, and ends the run at one of them.

    The fixture ``killer`` of the root conftest makes one for the test's folder::

        train(whole)
        stages = killer.count
        killer.arm(7)
        with pytest.raises(killer.Killed):
            train(killed)
        killer.arm(0)
        train(killed, resume=True)
    """

    Killed = Killed

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.count = self.at = 0
        self.replace = os.replace
        monkeypatch.setattr(os, "replace", self._replace)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a process dies, not the machine

    def tick(self, stage: str) -> None:
        """Count a stage; a watcher of `prunelab.checkpoint`."""
        self.count += 1
        if self.count == self.at:
            raise Killed(stage)

    def _replace(self, source: str | Path, target: str | Path) -> None:
        # Libraries that compile at their first use rename files as well, in caches of their own.
        ours = Path(target).is_relative_to(self.folder)
        if ours:
            self.tick("before a rename")
        self.replace(source, target)
        if ours:
            self.tick("after a rename")

    def arm(self, at: int) -> None:
        """End the run at the stage of this number from now; 0: never."""
        self.count, self.at = 0, at


def kill_after_step(module: str, words: Sequence[str], run: Path, step: int) -> None:
    """Start ``python -m module words`` and kill it, truly, when `run` has a checkpoint of this step or later.

    Raises:
        AssertionError: the process ended by itself; with its last words.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        while process.poll() is None and newest_step(run) < step:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        error = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == -signal.SIGKILL, error
