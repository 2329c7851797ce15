"""What a run leaves in its folder, but for what no two runs share; and runs of two processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from prunelab.checkpoint import listed
from prunelab.util import sha256_file

OF_THE_START = ("command.txt", "versions.json", "log.txt", "config.yaml")
"""Files that tell of the start itself, with its time or its flag ``--resume``."""


def contents(run: Path, readers: Mapping[str, Callable[[Path], Any]] | None = None) -> dict[str, Any]:
    """All that a run leaves: figures without the time, the newest checkpoint, digests of other files.

    Args:
        run: Its folder, where stages of it may have sub-folders.
        readers: Beginning of a file's path in the folder to what is compared of it, in place of a digest.
    """
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        place = path.relative_to(run)
        hidden = any(part.startswith(".") for part in place.parts)
        if path.is_dir() or hidden or "checkpoints" in place.parts[:-1]:
            continue
        if path.name in OF_THE_START or path.name.startswith("events."):
            continue
        name = place.as_posix()
        own = next((read for start, read in (readers or {}).items() if name.startswith(start)), sha256_file)
        found[name] = figures(path) if path.name == "metrics.jsonl" else own(path)
    for checkpoints in sorted(run.rglob("checkpoints")):
        if listed(checkpoints):
            found[checkpoints.relative_to(run).as_posix()] = _newest(checkpoints)
    return found


def _newest(checkpoints: Path) -> tuple[str, str, dict[str, Any]]:
    """Step, digest of the tensors and plain state of the newest checkpoint."""
    newest = listed(checkpoints)[-1]
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    for timed in ("clock", "marks"):  # seconds, and the lengths of logs that hold seconds
        state["run"].pop(timed)
    return newest.name[:11], sha256_file(newest / "tensors.safetensors"), state


def figures(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` without the time."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def tensors(run: Path) -> str:
    """Digest of all tensors of the newest checkpoint: weights, and the optimiser's."""
    return sha256_file(listed(run / "checkpoints")[-1] / "tensors.safetensors")


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    return max((int(path.name[5:11]) for path in listed(run / "checkpoints")), default=0)


def two_ranks(script: Path, folder: Path, *, seconds: float = 240) -> list[dict[str, Any]]:
    """Start a script as both ranks of a job, each given `folder`, and read what they found.

    Each rank leaves ``rankN.pt`` in the folder, which it gets as its one argument; see `testing.ranks`.

    Raises:
        AssertionError: a rank failed; with the last words of both.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]  # scripts import `testing`
    shared["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=seconds)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
