"""A whole training replayed on the recorded batches: every scalar, rate, temperature, file and mask."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from acosp.soft_topk import ChannelMaskLayer
from acosp_seg import finish, job, train
from acosp_seg.config import Config
from acosp_seg.lowering import lower_file
from acosp_seg.model import build
from acosp_seg.model.network import Network
from acosp_seg.pruner import temperature
from testing.parity import Folder, of_kind

from .filling import fill

pytestmark = pytest.mark.parity

NOT_KEYS = {"fill_prefix", "iterations_per_epoch", "tolerance", "kind"}
"""What a folder's settings say beside the keys of the original's configuration."""
PREFIX = "module."
PLACE = ("step", "epoch", "updates", "seconds")
SUMMARY = ("pruning/mean_", "pruning/var_", "pruning/min_", "pruning/max_")
TYPES = {"float32": torch.float32, "float64": torch.float64}


class Batches:
    """The recorded batches of the present epoch; loader and sampler in one."""

    def __init__(self, folder: Folder, dtype: torch.dtype) -> None:
        self.arrays = folder.arrays("batches.npz")
        self.dtype, self.each = dtype, folder.facts["iterations_per_epoch"]
        self.sampler, self.epoch = self, 0

    def loader(self, split: str, **ranks: int) -> Batches:
        assert split == "train"
        return self

    def __len__(self) -> int:
        return self.each

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(self.epoch * self.each, (self.epoch + 1) * self.each):
            yield self.arrays[f"x{i}"].to(self.dtype), self.arrays[f"y{i}"].long()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def advance(self) -> None:
        pass

    def check(self) -> dict[str, Any]:
        return {"train": {}}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass
class Replay:
    """What a replay left."""

    scalars: list[tuple[str, float, int]]
    """As TensorBoard has them."""
    epochs: list[dict[str, Any]]
    """Temperature in force and sum of each mask after each epoch's last step."""
    files: dict[str, dict[str, Any]]
    """The original's files, by name."""


def config(folder: Folder, output: Path, weight: Path) -> Config:
    """The recorded configuration through our door."""
    content = {k: v for k, v in folder.facts.items() if k not in NOT_KEYS}
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({"TRAIN": content}))
    typed = {"output": str(output), "device": "cpu", "preset": "faithful", "evaluate": False}
    return lower_file(str(file), (), typed | {"weight": str(weight)})


def write_weights(folder: Folder, cfg: Config, path: Path) -> None:
    """The first weights, soft masks among them, as the ``weight`` key reads them."""
    with torch.device("meta"):
        model = build(cfg.model)
        job.Pruning(cfg).begin(model, None)
    state = fill(model.to_empty(device="cpu"), prefix=folder.facts.get("fill_prefix", ""))
    torch.save({"epoch": 0, "state_dict": {PREFIX + name: value for name, value in state.items()}}, path)


def replay(folder: Folder, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    dtype, run, weight = TYPES[kind], tmp_path / "run", tmp_path / "first.pth"
    cfg = config(folder, run, weight)
    write_weights(folder, cfg, weight)
    epochs: list[dict[str, Any]] = []
    seen = job.Pruning.figures

    def watched(self: job.Pruning, model: Network, epoch: int) -> dict[str, float]:
        masks = {PREFIX + n: m for n, m in model.named_modules() if isinstance(m, ChannelMaskLayer)}
        epochs.append(
            {
                "epoch": epoch,
                "temperature_used": temperature(model),
                "mask_sums": {name: float(m.mask.detach().double().sum()) for name, m in masks.items()},
            }
        )
        return seen(self, model, epoch)

    monkeypatch.setattr(job.Pruning, "figures", watched)
    monkeypatch.setattr(train, "open_data", lambda *_: Batches(folder, dtype))
    monkeypatch.setattr(job, "build", lambda *args, **more: build(*args, **more).to(dtype))
    monkeypatch.setattr(finish, "save", lambda *_, **__: None)  # half a gigabyte each time
    train.train(cfg, quiet=True)
    files = {path.name: torch.load(path, weights_only=True) for path in run.glob("*.pth")}
    return Replay(scalars=list(events(run)), epochs=epochs, files=files)


def events(run: Path) -> Iterator[tuple[str, float, int]]:
    """Scalars of a run as TensorBoard reads them, with the double precision of the JSON lines."""
    from tensorboardX.proto.event_pb2 import Event

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fine = iter([(k, v) for line in lines for k, v in line.items() if k not in PLACE])
    for path in run.glob("events.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length  # length, its checksum, the record, its checksum
            for value in event.summary.value:
                name, exact = next(fine)
                assert name == value.tag
                assert value.simple_value == pytest.approx(exact, rel=1e-6, abs=1e-30)
                yield name, exact, event.step


def checks(state: dict[str, Tensor]) -> dict[str, list[float]]:
    """Sum, sum of magnitudes, first and last value of each entry."""
    found = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            flat = value.double().flatten()
            found[name] = [float(flat.sum()), float(flat.abs().sum()), float(flat[0]), float(flat[-1])]
    return found


def compare_scalars(ours: Replay, recorded: list[list[Any]], folder: Folder, kind: str) -> None:
    tolerance = folder.tolerance[kind]
    wanted = [(tag, value, step) for tag, value, step in recorded if not tag.endswith("_val")]
    tags = {tag for tag, *_ in wanted}
    found = [one for one in ours.scalars if one[0] in tags]
    assert sorted((tag, step) for tag, _, step in found) == sorted((tag, step) for tag, _, step in wanted)
    values = {(tag, step): value for tag, value, step in found}
    each = tolerance.get("loss_rtol_per_iteration")
    for tag, value, step in wanted:
        if tag.startswith("loss"):
            # the mean of an epoch is as exact as its least exact iteration
            last = step if tag.endswith("batch") else step * folder.facts["iterations_per_epoch"]
            rtol = tolerance["loss_rtol"] if each is None else max(each[:last])
            assert values[tag, step] == pytest.approx(value, rel=rtol), (tag, step)
        else:
            assert values[tag, step] == pytest.approx(value, abs=tolerance["metric_atol"]), (tag, step)


def compare_states(found: dict[str, Any], recorded: dict[str, list[float]], tolerance: Any) -> None:
    ours = checks(found["state_dict"])
    assert ours.keys() == recorded.keys()
    for name, (_, magnitude, *_) in recorded.items():
        if magnitude > tolerance.get("skip_abs_sum_below", 1e-6):
            assert ours[name][1] == pytest.approx(magnitude, rel=tolerance["abs_sum_rtol"]), name


def compare_epochs(ours: Replay, recorded: list[dict[str, Any]], tolerance: Any) -> None:
    assert len(ours.epochs) == len(recorded)
    for found, wanted in zip(ours.epochs, recorded, strict=True):
        assert found["epoch"] == wanted["epoch"]
        if found["temperature_used"] is not None:
            assert found["temperature_used"] == wanted["temperature_used"]
        assert found["mask_sums"].keys() == wanted["mask_sums"].keys()
        for name, value in wanted["mask_sums"].items():
            assert found["mask_sums"][name] == pytest.approx(value, rel=tolerance["abs_sum_rtol"]), name


@pytest.mark.parametrize("kind", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@of_kind("train_run")
def test_a_run_on_the_recorded_batches_is_the_recorded_run(
    kind: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = folder.json("expected64.json" if kind == "float64" else "expected.json")
    tolerance = folder.tolerance[kind]
    ours = replay(folder, kind, tmp_path, monkeypatch)
    compare_scalars(ours, recorded["scalars"], folder, kind)
    compare_epochs(ours, recorded["epochs"], tolerance)
    last = ours.files[f"train_epoch_{recorded['final_epoch']}.pth"]
    assert last["epoch"] == recorded["final_epoch"]
    masks = {name: value for name, value in last["state_dict"].items() if name.endswith(".mask")}
    kept = {name: value.nonzero().flatten().tolist() for name, value in masks.items()}
    assert kept == recorded["final_masks"]
    compare_states(last, recorded["final_check"], tolerance)
    for number in {found[1] for name in recorded if (found := re.fullmatch(r"epoch(\d+)_check", name))}:
        found = ours.files[f"train_epoch_{number}.pth"]
        compare_states(found, recorded[f"epoch{number}_check"], tolerance)
    if folder.find("expected.json"):
        compare_bookkeeping(ours, folder.json("expected.json"))


def compare_bookkeeping(ours: Replay, recorded: dict[str, Any]) -> None:
    """What does not depend on precision: rates, files, groups of the optimiser, names of logs."""
    assert sorted(ours.files) == sorted(recorded["files"])
    rates = [value for tag, value, _ in ours.scalars if tag == "lr"]
    assert rates == pytest.approx([one["lr"][0] for one in recorded["iters"]], rel=1e-12, abs=1e-15)
    last = ours.files[f"train_epoch_{recorded['final_epoch']}.pth"]["optimizer"]
    for found, wanted in zip(last["param_groups"], recorded["optimizer_groups"], strict=True):
        assert found == wanted
    # Logits that are gone keep their numbers, so that all others keep theirs, but leave no momentum behind.
    gone = recorded["optimizer_state_entries"] - len(last["state"])
    assert 0 <= gone <= len(recorded["final_masks"])
    ours_logs = [(step, name) for name, _, step in ours.scalars if name.startswith(SUMMARY)]
    assert ours_logs == [(step, name) for step, values in recorded["logs"] for name in values]
    values = {(step, name): value for name, value, step in ours.scalars}
    for step, found in recorded["logs"]:
        for name, value in found.items():
            exact = name.endswith("temperature")
            assert math.isclose(values[step, name], value, rel_tol=1e-12 if exact else 0, abs_tol=0.02)
