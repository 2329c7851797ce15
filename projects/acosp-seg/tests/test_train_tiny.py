"""The real entry on tiny pictures: what a run writes, that it learns, how it begins from given weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from acosp.structure import phase
from acosp_seg import train
from acosp_seg.segmenter import Segmenter

pytestmark = pytest.mark.tiny

Command = Callable[..., list[str]]
STEPS, EPOCHS = 12, 4


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def series(run: Path, name: str) -> list[float]:
    return [line[name] for line in lines(run) if name in line]


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_run_learns_and_writes_what_it_should(kind: str, finished: Callable[[str, str], Path]) -> None:
    run = finished(kind, "fixed")
    names = {path.name for path in run.iterdir() if not path.name.startswith("events.")}
    assert names == {
        *("config.yaml", "command.txt", "versions.json", "log.txt", "metrics.jsonl", "finished.json"),
        *("checkpoints", "best", "last", "once"),
    }
    assert len(list(run.glob("events.*"))) == 1
    loss = series(run, "loss_train_batch")
    assert len(loss) == STEPS
    assert sum(loss[-3:]) < 0.8 * sum(loss[:3])
    assert len(series(run, "mIoU_val")) == len(series(run, "loss_train")) == EPOCHS
    assert series(run, "lr")[0] == 0.2
    assert len(list((run / "checkpoints").glob("step-*"))) <= 3
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"]["preset"] == "fixed"


def test_masks_cool_down_and_become_hard(finished: Callable[[str, str], Path]) -> None:
    run = finished("pruned", "fixed")
    # The tiny run has two soft epochs; without the lag the second is cooler.
    assert series(run, "temperature") == pytest.approx([1] * 3 + [0.001**0.5] * 3)
    assert series(run, "pruning/mean_undecided")[0] > 0.9
    assert series(run, "pruning/mean_undecided")[2:] == [0, 0]
    assert len(series(run, "pruning/down1.conv1.cbr_unit.0.1/chosen")) == EPOCHS
    best = Segmenter.from_pretrained(run / "best")
    assert phase(best.model) == "hard"
    assert best.notes["epoch"] >= 3  # only hard masks count
    assert phase(Segmenter.from_pretrained(run / "last").model) == "hard"


def test_the_faithful_run_lags_and_writes_the_original_files(finished: Callable[[str, str], Path]) -> None:
    run = finished("pruned", "faithful")
    assert series(run, "temperature") == pytest.approx([1] * 6)
    files = sorted(path.name for path in run.glob("*.pth"))
    assert files == ["train_epoch_2.pth", "train_epoch_4.pth"]
    soft, hard = (torch.load(run / name, weights_only=True) for name in files)
    assert (soft["epoch"], hard["epoch"]) == (2, 4)
    assert len(soft["state_dict"]) == 232
    assert len(hard["state_dict"]) == 207
    assert all(name.startswith("module.") for name in hard["state_dict"])
    weights = load_file(run / "last/model.safetensors")
    for name, value in hard["state_dict"].items():
        assert torch.equal(value, weights[name.removeprefix("module.")])


def test_tensorboard_has_the_names_and_places_of_the_original(
    finished: Callable[[str, str], Path],
) -> None:
    from .test_parity_train_run import events

    found = list(events(finished("dense", "faithful")))
    for metric in ("loss", "mIoU", "mAcc", "allAcc"):
        for suffix, count in (("train_batch", STEPS), ("train", EPOCHS), ("val", EPOCHS)):
            places = [step for name, _, step in found if name == f"{metric}_{suffix}"]
            assert places == list(range(1, count + 1))
    assert [step for name, _, step in found if name == "lr"] == list(range(1, STEPS + 1))


def test_pspnet_trains_with_its_auxiliary_loss(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main(command(run, "epochs", "2", "ending_epoch", "1", network="psp", pruned=True))
    assert all(value > 0 for value in series(run, "aux_loss_train_batch"))
    assert series(run, "lr")[0] == 0.05
    assert phase(Segmenter.from_pretrained(run / "last").model) == "hard"


def test_steps_may_be_few_and_end_with_a_model(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main(command(run, "--max-steps", "2", "--amp", "bf16", "--channels-last", pruned=True))
    assert len(series(run, "loss_train_batch")) == 2
    assert phase(Segmenter.from_pretrained(run / "last").model) == "soft"
    assert not (run / "best").exists()
    assert not series(run, "loss_train")


@pytest.mark.parametrize("source", ["train_epoch_2.pth", "train_epoch_4.pth", "last"])
def test_a_run_begins_from_weights_with_soft_or_hard_masks(
    source: str, command: Command, finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    start = finished("pruned", "faithful") / source
    run = tmp_path / "run"
    still = ("base_lr", "0.0", "momentum", "0.0", "weight_decay", "0.0", "--max-steps", "1")
    train.main(command(run, "weight", str(start), *still, pruned=True))
    ours = Segmenter.from_pretrained(run / "last").model
    assert phase(ours) == ("soft" if "2" in source else "hard")
    theirs = Segmenter.from_pretrained(finished("pruned", "faithful") / "last").model
    same = [
        torch.equal(value, theirs.state_dict()[name])
        for name, value in ours.state_dict().items()
        if name.endswith("cbr_unit.0.0.weight")
    ]
    assert all(same) == (source != "train_epoch_2.pth")


def test_a_dense_file_begins_a_pruned_run(
    command: Command, finished: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start = finished("dense", "faithful") / "train_epoch_4.pth"
    train.main(command(run, "weight", str(start), "--max-steps", "1", pruned=True))
    assert phase(Segmenter.from_pretrained(run / "last").model) == "soft"


@pytest.mark.parametrize("network", ["psp", pytest.param("segnet", marks=pytest.mark.slow)])
def test_a_training_of_the_original_goes_on_where_its_file_was_written(
    network: str, command: Command, tmp_path: Path
) -> None:
    # Our own faithful files stand for the original's: the same numbers need the same order of pictures, so
    # that only the bookkeeping is compared.
    first, second = tmp_path / "first", tmp_path / "second"
    short = ("save_freq", "1", "epochs", "3", "evaluate", "False")
    train.main(command(first, *short, pruned=True, preset="faithful", network=network))
    for epoch in (1, 2):
        run = second / str(epoch)
        source = str(first / f"train_epoch_{epoch}.pth")
        train.main(command(run, *short, "resume", source, pruned=True, preset="faithful", network=network))
        rates = series(run, "lr")
        assert rates == pytest.approx(series(first, "lr")[3 * epoch :])
        assert series(run, "temperature") == series(first, "temperature")[3 * epoch :]
        files = sorted(path.name for path in run.glob("*.pth"))
        assert files == [f"train_epoch_{n}.pth" for n in range(epoch + 1, 4)]


def test_pruning_that_ends_at_once_prunes_nothing_under_faithful(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = command(run, "ending_epoch", "0", "epochs", "1", pruned=True, preset="faithful")
    train.main(words)
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(said) == 1
    assert "25 hard masks do not keep the wanted number" in said[0]
    state = load_file(run / "last/model.safetensors")
    assert all(value.all() for name, value in state.items() if name.endswith(".mask"))


def test_the_floor_of_channels_is_said_once(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(tmp_path / "run", "min_remaining_elements", "8", "--max-steps", "1", pruned=True)
    train.main(words)
    assert capsys.readouterr().out.count("layers keep more channels") == 1
    train.main([*words, "--resume"])
    assert "layers keep more channels" not in capsys.readouterr().out


def test_a_dry_run_and_a_printed_configuration_write_nothing(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(command(tmp_path / "run", "--dry-run"))
    assert "nothing was run" in capsys.readouterr().out
    train.main(command(tmp_path / "run", "--print-config"))
    assert yaml.safe_load(capsys.readouterr().out)["model"]["arch"] == "segnet"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["segnet", pytest.param("psp", marks=pytest.mark.slow)])
def test_a_slim_network_trains_on_like_the_masked_one(
    network: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = ("epochs", "3", "ending_epoch", "1", "save_freq", "1", "dropout", "0.0")
    for name, flags in (("masked", ()), ("slim", ("--slim-after-pruning",))):
        words = command(tmp_path / name, *flags, *pairs, pruned=True, preset="faithful", network=network)
        train.main(words)
    assert "the network is slim" in capsys.readouterr().out
    masked, slim = (series(tmp_path / name, "loss_train_batch") for name in ("masked", "slim"))
    assert slim[:3] == masked[:3]
    assert slim[3] == pytest.approx(masked[3], rel=1e-5)
    # Exact in double precision; so small a network makes much of single precision's rounding.
    assert slim == pytest.approx(masked, rel=0.2)
    ours, theirs = (Segmenter.from_pretrained(tmp_path / name / "last").model for name in ("slim", "masked"))
    assert phase(ours) == "hard"
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    file = torch.load(tmp_path / "slim/train_epoch_3.pth", weights_only=True)
    assert len(file["state_dict"]) == len(theirs.state_dict())
    assert "optimizer" not in file


@pytest.mark.slow
def test_a_compiled_network_trains_on_after_its_masks_became_hard(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main(command(run, "--compile", "epochs", "2", "ending_epoch", "1", pruned=True))
    plain = tmp_path / "plain"
    train.main(command(plain, "epochs", "2", "ending_epoch", "1", pruned=True))
    ours, theirs = (series(folder, "loss_train_batch") for folder in (run, plain))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert ours == pytest.approx(theirs, rel=0.1)  # so small a network makes much of rounding
