"""Mistakes of a user: one line that names the thing, exit code 2, and nothing that was there is touched."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acosp_seg import finish, train, train_cifar10
from prunelab.checkpoint import listed, verify
from prunelab.errors import UserError
from testing.mistakes import Fails, cut, fill_disk, snapshot

Command = Callable[..., list[str]]


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may damage."""
    return shutil.copytree(pictures, tmp_path / "own")


def lists(folder: Path) -> tuple[str, ...]:
    """KEY VALUE pairs that name a copy of the data set."""
    pairs = [(f"{split}_list", str(folder / f"{split}.txt")) for split in ("train", "val")]
    return ("data_root", str(folder), *(word for pair in pairs for word in pair))


# Data


def test_a_missing_data_set_is_named(command: Command, fails: Fails, own: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fails(train.main, command(run, "data_root", "/nowhere/city"), "data_root '/nowhere/city': no such folder")
    (own / "train.txt").unlink()
    fails(train.main, command(run, *lists(own)), r"own/train.txt: no such list file")
    (own / "train.txt").write_text("images/train_0.png\n")
    fails(
        train.main,
        command(run, *lists(own)),
        r"train.txt, line 1: .* expected 2, .*: a picture and a label map",
    )
    (own / "train.txt").write_text("")
    fails(train.main, command(run, *lists(own)), "no pictures, expected one or more")
    assert not list(run.glob("checkpoints/*"))


def text(path: Path) -> None:
    path.write_text("no picture")


def wrong_class(path: Path) -> None:
    label = np.array(Image.open(path))
    label[5, 5] = 7
    Image.fromarray(label).save(path)


def coloured(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def small(path: Path) -> None:
    Image.open(path).crop((0, 0, 20, 20)).save(path)


@pytest.mark.parametrize(
    ("what", "damage", "said"),
    [
        ("labels", wrong_class, r"labels/train_3.png has 7; expected 0 to 2, and 255 for pixels without"),
        ("labels", coloured, r"labels/train_3.png: label map has 8 bits, colour"),
        ("labels", small, r"labels/train_3.png: label map of 20x20, expected 40x48"),
        ("labels", Path.unlink, r"labels/train_3.png: no such label map"),
        ("labels", cut, r"labels/train_3.png"),
    ],
)
def test_a_wrong_label_map_is_named_before_anything_is_trained(
    what: str,
    damage: Callable[[Path], object],
    said: str,
    own: Path,
    command: Command,
    fails: Fails,
    tmp_path: Path,
) -> None:
    damage(own / what / "train_3.png")
    run = tmp_path / "run"
    fails(train.main, command(run, *lists(own)), said)
    assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text()


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"images/train_3.png"),
        (text, r"images/train_3.png: not a picture; expected a JPEG or PNG file"),
        (Path.unlink, r"images/train_3.png: no such picture"),
    ],
)
def test_a_damaged_picture_is_named_in_any_process(
    damage: Callable[[Path], object],
    said: str,
    workers: str,
    own: Path,
    command: Command,
    fails: Fails,
    tmp_path: Path,
) -> None:
    damage(own / "images/train_3.png")
    pairs = (*lists(own), "check_labels", "0", "workers", workers)
    fails(train.main, command(tmp_path / "run", *pairs), said)


def test_sizes_that_do_not_fit_are_named(command: Command, fails: Fails, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for network, pairs, said in (
        ("segnet", ("batch_size", "13"), "batch_size is 13, expected at most 12, the pictures of train_list"),
        ("segnet", ("train_h", "31"), "input height is 31, expected at least 32 for SegNet"),
        ("psp", ("train_h", "36"), r"train_h is 36, expected 8n \+ 1 .*nearest are 33 and 41"),
        ("psp", ("batch_size", "1"), "batch_size is 1, expected at least 2 for PSPNet"),
        ("psp", ("ignore_label", "2"), "ignore_label is 2, expected one outside the classes 0 to 2"),
    ):
        fails(train.main, command(run, *pairs, network=network), said)
    fails(
        train.main,
        command(run, "ending_epoch", "0", pruned=True),
        "ending_epoch is 0 with sparsity 0.5, expected at least 1",
    )
    assert not list(run.glob("checkpoints/*"))


def test_a_picture_smaller_than_the_crop_is_padded(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main(command(run, "train_h", "64", "train_w", "64", "--max-steps", "1"))
    assert (run / "last/model.safetensors").is_file()


def test_batches_that_processes_cannot_share_are_named(command: Command, fails: Fails) -> None:
    from acosp_seg.cli import parse_train
    from acosp_seg.lowering import lower

    cfg = lower(parse_train(command(Path("run"))))
    with pytest.raises(UserError, match="batch_size is 4, expected a multiple of 3, the number of processes"):
        train.check_batches(cfg, 3)


# Configuration


def test_an_unknown_key_or_flag_is_answered_with_the_nearest(
    command: Command, fails: Fails, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    file = tmp_path / "config.yaml"
    words = ["--config", str(file), "--output", str(run)]
    file.write_text("TRAIN:\n  batch_sice: 3\n")
    fails(train.main, words, "config.yaml: unknown key batch_sice: .*batch_size")
    file.write_text("TRAIN: [")
    fails(train.main, words, "config.yaml")
    fails(train.main, ["--config", str(tmp_path / "no.yaml"), "--output", str(run)], "no.yaml")
    fails(train.main, command(run, "base_rl", "3"), "base_rl.*base_lr")
    fails(train.main, command(run, "base_lr", "fast"), "base_lr")
    fails(train.main, command(run, "--resme"), "--resme.*--resume")
    fails(train.main, command(run, "--device", "tpu"), "device is 'tpu', expected auto, cpu, cuda or cuda:N")
    fails(train.main, command(run, "arch", "segnets"), "arch is 'segnets', expected one of .*segnet")
    assert not run.exists()


# Checkpoints


def test_a_checkpoint_of_another_model_is_named_by_its_first_differences(
    finished: Callable[[str, str], Path], command: Command, fails: Fails, tmp_path: Path
) -> None:
    source = finished("dense", "faithful")
    run = tmp_path / "run"
    for given in (source, source / "last", source / "train_epoch_4.pth"):
        words = command(run, "weight", str(given), "width", "4")
        fails(train.main, words, r"down1.conv1.cbr_unit.0.weight.*8x3x3x3.*4x3x3x3")
    fails(train.main, command(run, "weight", str(tmp_path / "no")), "no: no model there")
    fails(train.main, command(run, "resume", str(tmp_path / "no.pth")), "no.pth: no model there")
    file = tmp_path / "cut.pth"
    shutil.copy(source / "train_epoch_4.pth", file)
    cut(file)
    fails(train.main, command(run, "weight", str(file)), "cut.pth: no file of weights, or cut off")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pth")
    fails(train.main, command(run, "weight", str(tmp_path / "pickled.pth")), "a whole pickled object")
    fails(train.main, command(run, "pretrained", "/nowhere.pth"), "pretrained /nowhere.pth: no such file")
    assert not list(run.glob("checkpoints/*"))


def test_resuming_with_another_model_or_order_of_data_is_refused_and_touches_nothing(
    finished: Callable[[str, str], Path], command: Command, fails: Fails, tmp_path: Path
) -> None:
    run = shutil.copytree(finished("pruned", "fixed"), tmp_path / "run")
    before = snapshot(run / "checkpoints", run / "best", run / "last")
    for pair, said in (
        (("width", "4"), r"down1.conv1.cbr_unit.0.*8"),
        (("batch_size", "2"), "data order's global_batch was 4 and is now 2"),
        (("seed", "1"), "data order's seed was 7 and is now 1"),
    ):
        fails(train.main, command(run, *pair, "--resume", pruned=True), said)
    assert snapshot(run / "checkpoints", run / "best", run / "last") == before


def test_a_folder_that_holds_a_run_is_refused_without_resume_and_not_touched(
    finished: Callable[[str, str], Path], command: Command, fails: Fails, tmp_path: Path
) -> None:
    run = shutil.copytree(finished("pruned", "faithful"), tmp_path / "run")
    before = snapshot(run)
    fails(train.main, command(run), r"run: already holds a run \(checkpoints\); expected --resume or another")
    fails(train.main, command(run, pruned=True, preset="faithful"), "already holds a run")
    fails(train_cifar10.main, [str(run), "--fake-data", "--device", "cpu"], "already holds a run")
    assert snapshot(run) == before


def test_a_damaged_newest_checkpoint_is_passed_over_and_all_damaged_are_refused(
    command: Command, fails: Fails, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = command(run, "save_freq", "1", "epochs", "2")
    train.main(words)
    older, newest = listed(run / "checkpoints")[-2:]
    cut(newest / "tensors.safetensors")
    capsys.readouterr()
    train.main([*words, "--resume"])
    said = capsys.readouterr().out
    assert f"{newest} is damaged" in said
    assert f"resuming from {older}" in said
    for path in listed(run / "checkpoints"):
        cut(path / "tensors.safetensors")
    before = snapshot(run / "checkpoints")
    fails(train.main, [*words, "--resume"], r"checkpoints: all \d checkpoints are damaged")
    assert snapshot(run / "checkpoints") == before


def test_a_full_disk_ends_the_run_by_one_line_and_leaves_the_earlier_checkpoint(
    command: Command, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = command(run, "save_freq", "1", "epochs", "2", "check_labels", "0", pruned=True)
    fill_disk(monkeypatch, at=2)
    said = fails(train.main, words, "cannot be written: No space left on device")
    assert "earlier checkpoints are unchanged" in said
    assert [path.name for path in listed(run / "checkpoints")] == ["step-000003"]
    assert verify(run / "checkpoints/step-000003") is None
    train.main([*words, "--resume"])
    assert (run / "finished.json").is_file()


def test_a_full_disk_while_the_original_file_is_written_keeps_the_earlier_one(
    command: Command, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = command(run, "save_freq", "1", "epochs", "2", preset="faithful")
    write = finish.write_original

    def full(path: Path, epoch: int, *args: Any, **more: Any) -> None:
        if epoch == 2:
            monkeypatch.setattr(torch, "save", no_space)
        write(path, epoch, *args, **more)

    monkeypatch.setattr(finish, "write_original", full)
    fails(train.main, words, "train_epoch_2.pth.*cannot be written: No space left on device")
    assert sorted(path.name for path in run.glob("*.pth")) == ["train_epoch_1.pth"]


def no_space(*args: Any, **more: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(
    command: Command, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = command(run, "save_freq", "1", pruned=True)
    train.main([*words, "--max-steps", "3"])
    before = snapshot(run / "checkpoints", run / "last")
    with monkeypatch.context() as patch:
        patch.setattr(train, "on_device", lambda x, *_: x.fill_(float("nan")))
        said = fails(train.main, [*words, "--resume"], r"gradient is nan in \d+ of \d+ parameters")
    kept = re.search(r"the batch is kept in (\S+)", said)
    assert kept is not None
    assert (Path(kept[1]) / "tensors.safetensors").is_file()
    assert snapshot(run / "checkpoints", run / "last") == before
    train.main([*words, "--resume"])
    assert (run / "finished.json").is_file()
