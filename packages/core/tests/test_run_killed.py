import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from prunelab import checkpoint

SCRIPT = Path(__file__).parent / "saving_loop.py"


@pytest.fixture(scope="module")
def train():
    return runpy.run_path(str(SCRIPT))["train"]


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(("after", "pause"), [(4, 0.0), (9, 0.003)])
def test_a_run_killed_by_sigkill_goes_on_from_its_last_checkpoint(
    train, whole, tmp_path, after, pause, monkeypatch
):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    announced = folder / "checkpoints" / f"step-{after:06d}"
    deadline = time.monotonic() + 120
    while not announced.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    newest = checkpoint.newest(folder / "checkpoints", print)
    assert newest is not None
    assert after <= checkpoint.Checkpoint(newest).manifest["step"] < 60
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert torch.equal(train(folder, resume=True), whole)
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))
