"""Mistakes of a user: each is one line that names the culprit, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import expansionnet
from expansionnet import train
from expansionnet.files.original import checkpoints
from prunelab.checkpoint import listed
from testing.mistakes import Fails, cut, fill_disk, snapshot

from .conftest import COUNTS, Command

pytestmark = pytest.mark.tiny


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be damaged."""
    return Path(shutil.copytree(pictures, tmp_path / "own"))


def places(data: Path) -> tuple[str, ...]:
    return ("--captions_path", str(data), "--images_path", str(data))


def edit(data: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the entries of the caption file."""
    content = json.loads((data / "dataset_coco.json").read_text())
    change(content["images"])
    (data / "dataset_coco.json").write_text(json.dumps(content))


def untouched(run: Path) -> bool:
    """Whether a folder holds no run: the next start may use it without --resume."""
    return not any((run / name).exists() for name in ("checkpoints", "metrics.jsonl", "once", "best"))


# ------------------------------------------------------------------------------------------------------ data


def test_data_that_are_missing_are_named(tmp_path: Path, own: Path, command: Command, fails: Fails) -> None:
    def check(said: str, *words: str, kind: str = "xe") -> None:
        fails(train.main, command(tmp_path / "run", *words, kind=kind), said)
        assert untouched(tmp_path / "run")

    check("captions_path .*nowhere: no such file", "--captions_path", str(tmp_path / "nowhere"))
    check("features_path .*nowhere: no such file", "--features_path", str(tmp_path / "nowhere"))
    (own / "train2014/img/3.png").unlink()
    check("train2014/img/3.png: picture is missing", *places(own), kind="end_to_end_xe")
    edit(own, lambda images: images.clear())
    check("names no picture", *places(own))


def test_features_that_some_pictures_lack_are_counted(
    tmp_path: Path, own: Path, command: Command, fails: Fails
) -> None:
    import h5py

    with h5py.File(own / "features.hdf5", "a") as file:
        for number in range(2, 9):
            del file[f"{number}_features"]
    words = command(tmp_path / "run", "--features_path", str(own / "features.hdf5"))
    error = fails(train.main, words, r"7 of 12 .*2, 3, 4, 5, 6")
    assert "features.hdf5" in error
    assert untouched(tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut off", "text"])
def test_a_broken_picture_is_named(
    damage: str, tmp_path: Path, own: Path, command: Command, fails: Fails
) -> None:
    picture = own / "train2014/img/1.png"
    if damage == "text":
        picture.write_text("no picture")
    else:
        picture.write_bytes(picture.read_bytes()[:45])
    words = command(tmp_path / "run", *places(own), kind="end_to_end_xe")
    fails(train.main, words, r"train2014/img/1.png: (not a picture|picture is damaged or cut off)")
    assert untouched(tmp_path / "run")


def test_pictures_in_grey_and_in_cmyk_are_read_and_black_ones_in_the_originals_way(
    tmp_path: Path, own: Path, command: Command
) -> None:
    for number, mode in ((1, "L"), (2, "CMYK"), (3, "P"), (4, "RGBA")):
        path = own / f"train2014/img/{number}.png"
        image = Image.open(path).convert(mode)
        # PNG knows no CMYK; a file is read by its content.
        image.save(path, format="JPEG" if mode == "CMYK" else "PNG")
    for preset in ("fixed", "faithful"):
        words = (*places(own), "--max-steps", "1", "--preset", preset)
        train.main(command(tmp_path / preset, *words, kind="end_to_end_xe"))
        assert expansionnet.load(tmp_path / preset / "last").black_pictures == (preset == "faithful")


def test_an_empty_caption_is_named_with_its_picture(
    tmp_path: Path, own: Path, command: Command, fails: Fails
) -> None:
    edit(own, lambda images: images[4]["sentences"][1].update(raw=" . "))
    fails(train.main, command(tmp_path / "run", *places(own)), r"a caption of .*5.png is ' \. '")
    assert untouched(tmp_path / "run")


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers(
    tmp_path: Path, command: Command, fails: Fails
) -> None:
    fails(train.main, command(tmp_path / "run", "--batch_size", "25"), "batch_size is 25, .* the 24 training")
    assert untouched(tmp_path / "run")


# --------------------------------------------------------------------------------------------------- weights


def test_weights_of_another_model_are_refused_with_both_sizes(
    tmp_path: Path, own: Path, command: Command, finished: Callable[..., Path], fails: Fails
) -> None:
    body = str(finished("xe") / "best")

    def check(said: str, *words: str) -> None:
        start = ("--partial_load", "True", "--body_save_path", body)
        fails(train.main, command(tmp_path / "run", *start, *words), said)
        assert untouched(tmp_path / "run")

    check("encoders.0.norm_1.weight 16 in the file and 32 in the model", "--model_dim", "32")
    check("31 positions, the model has 40", "--max-seq-len", "40")
    other = expansionnet.load(body).vocabulary
    few = type(other).from_captions(["a red cat sits here"], min_occurrences=1)
    few.save(tmp_path / "vocabulary.json")
    check(f"{len(few)} words, expected the {len(other)}", "--vocab_path", str(tmp_path / "vocabulary.json"))
    check("vocab_size is 7, expected 26", "--vocab-size", "7")


def test_a_checkpoint_of_the_original_with_other_words_is_refused_with_both_numbers(
    tmp_path: Path, own: Path, command: Command, finished: Callable[..., Path], fails: Fails
) -> None:
    [file] = checkpoints(finished("xe", "faithful") / "saves")
    shutil.copy(file, tmp_path / "phase2.pth")
    edit(own, lambda images: images.__delitem__(slice(0, None, 2)))
    start = ("--partial_load", "True", "--body_save_path", str(tmp_path / "phase2.pth"), "--batch_size", "2")
    error = fails(train.main, command(tmp_path / "run", *start, *places(own)), "26 words, the model has")
    assert "--vocab_path" in error
    assert untouched(tmp_path / "run")


def test_training_captions_longer_than_the_models_positions_are_refused(
    tmp_path: Path, command: Command, fails: Fails
) -> None:
    fails(
        train.main, command(tmp_path / "run", "--max-seq-len", "8"), "max_seq_len is 8, expected at least 11"
    )
    assert untouched(tmp_path / "run")


def test_weights_that_would_be_passed_over_are_refused(
    tmp_path: Path, command: Command, finished: Callable[..., Path], fails: Fails
) -> None:
    body = ("--body_save_path", str(finished("xe") / "best"))
    fails(train.main, command(tmp_path / "run", *body), "--partial_load True")
    backbone = ("--backbone_save_path", str(finished("end_to_end_xe") / "best"))
    fails(train.main, command(tmp_path / "run", *backbone), "expected none: a model that reads features")
    words = command(tmp_path / "run", *body, kind="end_to_end_xe")
    fails(train.main, words, "expected a backbone")
    torch.save({"model": {"head.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    words = command(
        tmp_path / "run", "--backbone_save_path", str(tmp_path / "other.pth"), kind="end_to_end_xe"
    )
    fails(train.main, words, "other.pth")
    assert untouched(tmp_path / "run")


def test_a_damaged_checkpoint_of_the_original_stops_the_run_before_anything_is_written(
    tmp_path: Path, command: Command, finished: Callable[..., Path], fails: Fails
) -> None:
    [file] = checkpoints(finished("xe", "faithful") / "saves")
    saves = tmp_path / "run/saves"
    saves.mkdir(parents=True)
    shutil.copy(file, saves)
    cut(saves / file.name)
    fails(train.main, command(tmp_path / "run", preset="faithful"), file.name)
    assert untouched(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ runs


def test_a_folder_that_holds_a_run_is_refused_and_nothing_is_touched(
    finished: Callable[..., Path], command: Command, fails: Fails
) -> None:
    run = finished("xe")
    before = snapshot(run)
    fails(train.main, command(run), "already holds a run .*--resume")
    assert snapshot(run) == before


def test_a_run_resumed_with_another_batch_size_is_refused(
    tmp_path: Path, command: Command, fails: Fails
) -> None:
    train.main(command(tmp_path / "run", "--max-steps", "1"))
    words = command(tmp_path / "run", "--resume", "--batch_size", "6")
    fails(train.main, words, "cannot resume: data order's global_batch was 4 and is now 6")


def test_a_loss_that_is_not_finite_ends_the_run_and_the_last_checkpoint_stays(
    tmp_path: Path, command: Command, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = train.steps.xe_step, []

    def broken(*args: Any) -> Any:
        loss = step(*args)
        calls.append(1)
        return type(loss)(value=loss.value * (float("nan") if len(calls) == 4 else 1), logs=loss.logs)

    monkeypatch.setattr(train.steps, "xe_step", broken)
    words = command(tmp_path / "run", "--eval_every_iter", "2", "--num_accum", "1")
    error = fails(train.main, words, "gradient is nan")
    assert "the batch is kept in" in error
    assert [path.name for path in listed(tmp_path / "run/checkpoints")][-1] == "step-000002"


def test_a_full_disk_leaves_the_earlier_checkpoint_and_the_run_goes_on(
    tmp_path: Path, command: Command, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--eval_every_iter", "3", "--num_epochs", "1")
    with monkeypatch.context() as patch:
        fill_disk(patch, at=2)
        fails(train.main, command(tmp_path / "run", *options), "No space left")
    assert [path.name for path in listed(tmp_path / "run/checkpoints")] == ["step-000003"]
    train.main(command(tmp_path / "run", *options, "--resume"))
    assert (tmp_path / "run/finished.json").is_file()


def test_a_split_without_pictures_is_named(tmp_path: Path, own: Path, command: Command, fails: Fails) -> None:
    edit(own, lambda images: images.__delitem__(slice(COUNTS["train"], COUNTS["train"] + COUNTS["val"])))
    fails(train.main, command(tmp_path / "run", *places(own)), "no picture in the split 'val'")
    assert untouched(tmp_path / "run")
