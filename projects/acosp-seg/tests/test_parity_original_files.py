"""Checkpoints that the original wrote are recognised, loaded with their optimizer, and written alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from acosp_seg.config import ModelConfig
from acosp_seg.model import Network
from acosp_seg.model.checkpoint import load_original
from acosp_seg.model.network import Groups, unprunable
from acosp_seg.model.original import load_optimizer, write_original
from testing.parity import Folder, of_kind

pytestmark = pytest.mark.parity


class _SmallNet(Network):
    """The network of the recorded checkpoints."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(ModelConfig(arch="segnet"), facts["ignore_label"])
        stem, mid, flagged, head = (facts["channels"][name] for name in ("stem", "mid", "flagged", "head"))
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(stem)
        self.mid = nn.Conv2d(stem, mid, 3, 2, padding=1)
        self.bn2 = nn.BatchNorm2d(mid)
        self.flagged = unprunable(nn.Conv2d(mid, flagged, 1))
        self.head = unprunable(nn.Conv2d(flagged, head, 1))
        self._groups = tuple(facts["groups"]), tuple(facts["head_groups"])

    def groups(self) -> Groups:
        names, heads = self._groups
        return tuple(name for name in names if name not in heads), heads

    def optimizer(self, facts: dict[str, Any]) -> torch.optim.SGD:
        """One group for the whole network, other than in the file."""
        return torch.optim.SGD(
            self.parameters(), facts["base_lr"], facts["momentum"], weight_decay=facts["weight_decay"]
        )


def _checkpoints(folder: Folder) -> Iterator[tuple[Path, int, str]]:
    """Files with the epoch and the phase that the folder states."""
    for mode in folder.facts["modes"]:
        for entry in folder.facts["checkpoints"].values():
            for path in folder.find(entry["file"].format(mode=mode)):
                yield path, entry["epoch"], entry["phase"]


@of_kind("small_net")
def test_checkpoints_of_the_original_come_back_as_they_were(folder: Folder, tmp_path: Path) -> None:
    files = list(_checkpoints(folder))
    assert files
    for path, epoch, phase in files:
        model = _SmallNet(folder.facts)
        report = load_original(model, path)
        assert (report.file.kind, report.file.layout) == ("checkpoint", phase), path
        assert report.file.epoch == epoch
        assert not report.missing
        assert not report.unused
        recorded = torch.load(path, weights_only=True)
        optimizer = model.optimizer(folder.facts)
        saved = report.file.optimizer
        dropped = load_optimizer(model, optimizer, saved, where=str(path)) if saved else ()
        learnable = folder.facts["modes"][path.name.partition("_")[0]]["learnable_weights"]
        write_original(tmp_path / "again.pth", epoch, model, optimizer, learnable_weights=learnable)
        again = torch.load(tmp_path / "again.pth", weights_only=True)
        assert list(again["state_dict"]) == list(recorded["state_dict"]), path
        assert again["epoch"] == recorded["epoch"]
        for name, value in recorded["state_dict"].items():
            assert torch.equal(again["state_dict"][name], value), (path, name)
        if saved:
            _assert_same_optimizer(again["optimizer"], recorded["optimizer"], len(dropped))
            assert all(name.endswith(".1.weight") for name in dropped)
            assert bool(dropped) == (phase == "hard" and learnable)


def _assert_same_optimizer(ours: dict[str, Any], recorded: dict[str, Any], dropped: int) -> None:
    """Numbers and momentum agree; only logits that are gone have no state any more."""
    assert [g["params"] for g in ours["param_groups"]] == [g["params"] for g in recorded["param_groups"]]
    assert len(ours["state"]) == len(recorded["state"]) - dropped
    for number, entry in ours["state"].items():
        assert torch.equal(entry["momentum_buffer"], recorded["state"][number]["momentum_buffer"])
