"""The classifier's training: the original's log, its quirks, its best model, and going on after a stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acosp.structure import phase
from acosp_seg import train, train_cifar10
from acosp_seg.cli import parse_train_cifar10
from acosp_seg.config import Config
from acosp_seg.data import open_data
from acosp_seg.lowering import lower_cifar10
from acosp_seg.segmenter import Segmenter
from testing.runs import contents, tensors

pytestmark = pytest.mark.tiny

MAIN = ("--device", "cpu", "--workers", "0", "--fake-data")


def config(folder: Path, *words: str, epochs: int = 3) -> Config:
    """A tiny classifier's run of 240 pictures, with masks if the words say so."""
    flags = [f"--save_dir={folder}", "--batch_size=100", f"--epochs={epochs}", *words, *MAIN]
    cfg = lower_cifar10(parse_train_cifar10(flags))
    return replace(
        cfg,
        model=replace(cfg.model, width=4),
        data=replace(cfg.data, batch_size_val=40),
        prune=replace(cfg.prune, min_remaining_elements=2),
    )


def log(folder: Path, name: str) -> list[list[float]]:
    header, *rows = (folder / name).read_text().splitlines()
    assert header == "epoch, loss, acc"
    return [[float(word) for word in row.split(", ")] for row in rows]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Config]]:
    """Gives a pruned run of a preset, which is made once."""
    made: dict[str, tuple[Path, Config]] = {}

    def get(preset: str) -> tuple[Path, Config]:
        if preset not in made:
            words = ("--sparsity=0.5", "--pruner_ending_epoch=2", "--preset", preset)
            cfg = config(tmp_path_factory.mktemp(preset) / "run", *words)
            made[preset] = train.train(cfg, quiet=True), cfg
        return made[preset]

    return get


def test_a_pruned_run_writes_the_log_and_its_best_model(
    pruned: Callable[[str], tuple[Path, Config]],
) -> None:
    run, _ = pruned("faithful")
    rows = log(run, "log_0.5.txt")
    assert [row[0] for row in rows] == [0, 1, 2]
    best = Segmenter.from_pretrained(run / "best")
    accuracies = [row[2] for row in rows]
    assert best.notes["epoch"] == accuracies.index(max(accuracies)) + 1
    assert phase(Segmenter.from_pretrained(run / "last").model) == "hard"
    assert not list(run.glob("*.pth"))


def test_loss_and_accuracy_of_the_log_are_those_of_the_test_pictures(
    pruned: Callable[[str], tuple[Path, Config]],
) -> None:
    found = {}
    for preset in ("faithful", "fixed"):
        run, cfg = pruned(preset)
        model = Segmenter.from_pretrained(run / "last").model.eval()
        means, right, seen = [], 0, 0
        with torch.no_grad():
            for x, y in open_data(cfg, run / "fake_data").loader("val"):
                logits = model(x)
                means.append(float(torch.nn.functional.cross_entropy(logits, y)))
                right += int((logits.argmax(1) == y).sum())
                seen += len(y)
        found[preset] = log(run, "log_0.5.txt")[-1]
        divisor = seen if preset == "faithful" else len(means)
        assert found[preset] == [2, pytest.approx(sum(means) / divisor), pytest.approx(100 * right / seen)]
    assert found["faithful"][1] < found["fixed"][1] / 10


def test_masks_that_never_become_hard_stay_soft_but_for_the_quirk(tmp_path: Path) -> None:
    for preset, wanted in (("faithful", "soft"), ("fixed", "hard")):
        words = ("--sparsity=0.75", "--pruner_ending_epoch=9", "--preset", preset)
        run = train.train(config(tmp_path / preset, *words, epochs=1), quiet=True)
        assert phase(Segmenter.from_pretrained(run / "last").model) == wanted
        assert phase(Segmenter.from_pretrained(run / "best").model) == wanted


def test_a_rate_holds_for_an_epoch_of_all_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, used = train.steps.train_step, []

    def watched(model, optimizer, x, y, **more):
        used.append((optimizer.param_groups[0]["lr"], len(y)))
        return step(model, optimizer, x, y, **more)

    monkeypatch.setattr(train.steps, "train_step", watched)
    train.train(config(tmp_path / "run", epochs=2), quiet=True)
    rates = [0.01 * (1 + math.cos(math.pi * epoch / 2)) / 2 for epoch in range(2)]
    assert used == [(pytest.approx(rate), size) for rate in rates for size in (100, 100, 40)]
    assert [row[0] for row in log(tmp_path / "run", "log_0.txt")] == [0, 1]


def test_a_stopped_run_goes_on_to_the_same_files(
    tmp_path: Path, pruned: Callable[[str], tuple[Path, Config]]
) -> None:
    whole, cfg = pruned("faithful")
    stopped = replace(cfg, run=replace(cfg.run, output=str(tmp_path / "run")))
    for steps in (2, 6, 7, None):
        options = replace(stopped.run, max_steps=steps, resume=steps != 2)
        train.train(replace(stopped, run=options), quiet=True)
    assert tensors(tmp_path / "run") == tensors(whole)
    ours, theirs = contents(tmp_path / "run"), contents(whole)
    for name in ("log_0.5.txt", "last/model.safetensors"):
        assert ours[name] == theirs[name]


def test_the_command_runs_and_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch_size=4", "--epochs=1", "--max-steps", "1", *MAIN]
    train_cifar10.main([f"--save_dir={tmp_path / 'run'}", *words])
    assert (tmp_path / "run/last/model.safetensors").is_file()
    train_cifar10.main([str(tmp_path / "no"), "--dry-run"])
    train_cifar10.main(["--save_dir", "x", "--print-config"])
    assert "optimiser: adam" in capsys.readouterr().out
    assert not (tmp_path / "no").exists()
    with pytest.raises(SystemExit) as stop:
        train_cifar10.main(["--epochs=1"])
    assert stop.value.code == 2
    assert "train_cifar10 needs save_dir" in capsys.readouterr().err
