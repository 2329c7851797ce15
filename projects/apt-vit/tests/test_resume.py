"""A run that stopped and went on ends with the same bits as one that did not stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apt_vit.model.network import Network
from apt_vit.train import main as train


@pytest.mark.tiny
def test_stopped_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    straight, broken = (str(tmp_path / name) for name in ("straight", "broken"))
    epochs = ["--epochs", "3", "--device", "cpu"]
    train(["--output", straight, *epochs])
    train(["--output", broken, "--max-steps", "20", *epochs])
    train(["--output", broken, "--resume", *epochs])
    ours, theirs = (Network.load(Path(p) / "last").state_dict() for p in (straight, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
