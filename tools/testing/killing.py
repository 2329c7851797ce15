"""Ending runs as a kill does: in the test's own process at any stage, or another process by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from testing.runs import newest_step

Run = Callable[[str, bool], Any]
"""Trains in a folder of this name, for the second time or not, and gives what the run left there."""


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


def check_killed_at_stages(killer: Killer, run: Run, *, first: int, every: int, least: int) -> None:
    """A run that is killed at a stage and resumed leaves what one leaves that was not.

    Args:
        killer: the fixture.
        run: see `Run`.
        first: number of the first stage at which a run of its own is killed.
        every: stages from one of them to the next.
        least: a run has more stages than this.
    """
    killer.arm(0)
    expected, stages = run("whole", False), killer.count
    assert stages > least
    for at in range(first, stages + 1, every):
        killer.arm(at)
        with pytest.raises(killer.Killed):
            run(str(at), False)
        killer.arm(0)
        assert run(str(at), True) == expected, f"killed at stage {at} of {stages}"


def check_killed_again_and_again(
    killer: Killer, run: Run, stage: Callable[[int], int], *, least: int = 3
) -> None:
    """A run that is killed at every start, each time a little later, ends as one that was not.

    Args:
        killer: the fixture.
        run: see `Run`; it resumes where there is nothing yet, too.
        stage: the number of the stage at which a start, from 1, is killed.
        least: more starts than this are killed.
    """
    expected = run("whole", False)
    for start in range(1, 59):
        killer.arm(stage(start))
        try:
            found = run("killed", True)
        except killer.Killed:
            continue
        assert start > least
        assert found == expected
        return
    raise AssertionError("no start came to an end")


def check_killed_with_workers(
    killer: Killer, run: Run, with_workers: Run, *, resumed: Run | None = None, share: float = 0.5
) -> None:
    """A run that reads in worker processes, is killed and goes on ends as one without them that was not.

    Args:
        killer: the fixture.
        run: without workers; see `Run`.
        with_workers: what is killed.
        resumed: what goes on; None: the same.
        share: of the stages of a whole run, how many are reached.
    """
    killer.arm(0)
    expected, stages = run("whole", False), killer.count
    killer.arm(int(share * stages))
    # Not pytest.raises: what it keeps of the exception would keep the loader's workers alive, too.
    try:
        with_workers("killed", False)
    except killer.Killed:
        killer.arm(0)
    assert killer.at == 0
    assert (resumed or with_workers)("killed", True) == expected


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
