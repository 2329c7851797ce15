"""Mistakes of a user: one line that names the thing, exit code 2, and nothing that was there is touched."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from prunelab import hub
from prunelab.checkpoint import listed, verify
from smp_caption import convert, demo, export, test, train
from testing.mistakes import Fails, cut, fill_disk, snapshot


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may damage."""
    return shutil.copytree(pictures, tmp_path / "own")


# Data


def test_a_missing_data_set_is_named(
    command: Callable[..., list[str]], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRUNELAB_DATA", raising=False)
    run = tmp_path / "run"
    fails(
        train.main, command(run, "--dataset_dir", "/nowhere/coco"), r"dataset_dir /nowhere/coco: no such file"
    )
    words = command(run, "--dataset_dir", "none")
    fails(
        train.main, words, "dataset_dir is empty and PRUNELAB_DATA is not set, expected the folder of mscoco"
    )
    (tmp_path / "empty").mkdir()
    fails(train.main, command(run, "--dataset_dir", str(tmp_path / "empty")), "dataset_coco.json")
    assert not list(run.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda own: (own / "dataset_coco.json").write_text('{"images": ['), "dataset_coco.json: .*line 1"),
        (lambda own: (own / "dataset_coco.json").write_text("[]"), "dataset_coco.json"),
        (lambda own: shutil.rmtree(own / "bu/cocobu_att"), "cocobu_att: no features; compute them with"),
    ],
)
def test_a_damaged_data_set_is_named_before_anything_is_trained(
    damage: Callable[[Path], object],
    said: str,
    own: Path,
    command: Callable[..., list[str]],
    fails: Fails,
    tmp_path: Path,
) -> None:
    damage(own)
    fails(train.main, command(tmp_path / "run", "--dataset_dir", str(own)), said)
    assert not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text()


def nan(path: Path) -> None:
    np.save(path, np.full((3, 12), np.nan, dtype=np.float32))


def narrow(path: Path) -> None:
    np.save(path, np.ones((3, 11), dtype=np.float32))


def words_in(path: Path) -> None:
    np.save(path, np.array([["a", "b"]]))


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"cocobu_att/5.npy: not a whole NumPy file of numbers"),
        (Path.unlink, r"cocobu_att: no features of 1 of 21 images: 5$"),
        (narrow, r"5.png: features of size 11, expected att_feat_size 12"),
        (words_in, r"5.npy: holds <U1 of shape \(1, 2\); expected rows of numbers"),
    ],
)
def test_a_damaged_feature_file_is_named_in_any_process(
    damage: Callable[[Path], object],
    said: str,
    workers: str,
    own: Path,
    command: Callable[..., list[str]],
    fails: Fails,
    tmp_path: Path,
) -> None:
    damage(own / "bu/cocobu_att/5.npy")
    words = command(tmp_path / "run", "--dataset_dir", str(own), "--num_workers", workers)
    fails(train.main, words, said)


def test_folders_that_lack_pictures_say_how_many_and_the_first_five(
    own: Path, command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    for number in range(3, 10):
        (own / f"bu/cocobu_att/{number}.npy").unlink()
    (own / "bu/cocobu_box_relative/4.npy").unlink()
    words = command(tmp_path / "run", "--dataset_dir", str(own), model="ort")
    fails(train.main, words, r"input_att_dir .*cocobu_att.*7 of .*3, 4, 5, 6, 7\b(?!, 8)")
    shutil.copytree(own / "bu/cocobu_att", tmp_path / "whole")
    for number in range(3, 10):
        shutil.copy(own / "bu/cocobu_att/1.npy", tmp_path / f"whole/{number}.npy")
    whole = ("--input_att_dir", str(tmp_path / "whole"))
    fails(train.main, [*words, *whole], r"input_rel_box_dir .*cocobu_box_relative.*1 of .*\b4\b")
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (
            [10.0, 20.0, 110.0, 220.0],
            r"box 1 is \[10.0, 20.0, 110.0, 220.0\], expected x1, y1, x2, y2 relative",
        ),
        ([0.5, 0.1, 0.4, 0.9], r"image 5 \(.*\): box 1 is \[0.5, 0.1, 0.4, 0.9\], expected"),
    ],
)
def test_boxes_outside_the_picture_are_named(
    box: list[float],
    said: str,
    own: Path,
    command: Callable[..., list[str]],
    fails: Fails,
    tmp_path: Path,
) -> None:
    file = own / "bu/cocobu_box_relative/5.npy"
    boxes = np.load(file)
    boxes[1] = box
    np.save(file, boxes)
    fails(train.main, command(tmp_path / "run", "--dataset_dir", str(own), model="ort"), said)
    np.save(file, boxes[:1])
    fails(
        train.main,
        command(tmp_path / "run", "--dataset_dir", str(own), model="ort", preset="faithful"),
        r"boxes of shape \(1, 4\), expected \(3, 4\)",
    )


def test_sizes_that_do_not_fit_the_data_are_named(
    command: Callable[..., list[str]], fails: Fails, own: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fails(
        train.main,
        command(run, "--att_feat_size", "2048"),
        r"features of size 12, expected att_feat_size 2048",
    )
    fails(
        train.main,
        command(run, "--fc_feat_size", "7", "--resume"),
        "features of size 12, expected fc_feat_size 7",
    )
    words = command(tmp_path / "b", "--batch_size", "13")
    fails(train.main, words, "batch_size 13 .* needs more than the 12 training pictures")
    words = command(tmp_path / "c", "--seq_per_img", "5", "--dataset_dir", str(own), preset="faithful")
    content = json.loads((own / "dataset_coco.json").read_text())
    content["images"][4]["sentences"].pop()
    (own / "dataset_coco.json").write_text(json.dumps(content))
    fails(train.main, words, r"5.png has 1 captions, expected seq_per_img 5 .*preset fixed repeats captions")


# Configuration


def test_an_unknown_key_or_flag_is_answered_with_the_nearest(
    command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    file = tmp_path / "config.yaml"
    for content, said in (
        ({"modle": {}}, "config.yaml: unknown group modle: .*model"),
        ({"model": {"rnn_sise": 3}}, "config.yaml: unknown key model.rnn_sise: .*rnn_size"),
        ({"model": {"rnn_size": "many"}}, "rnn_size"),
        ({"optim": {"lr_scheduler": "cosin"}}, "lr_scheduler is 'cosin', expected one of .*cosine"),
    ):
        file.write_text(yaml.safe_dump(content))
        fails(train.main, ["--config", str(file), "--output", str(run)], said)
    file.write_text("model: [")
    fails(train.main, ["--config", str(file), "--output", str(run)], "config.yaml")
    fails(train.main, ["--config", str(tmp_path / "no.yaml"), "--output", str(run)], "no.yaml")
    file.write_text("{}")
    fails(train.main, ["--config", str(file), "rnn_sice", "3"], "rnn_sice.*rnn_size")
    fails(train.main, command(run, "--learning_rat", "x"), "learning_rat")
    fails(train.main, command(run, "--rnn_sizes", "3"), "rnn_sizes.*rnn_size")
    assert not run.exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--rnn_size", "0"), "rnn_size is 0, expected at least 1"),
        (("--learning_rate", "fast"), "learning_rate"),
        (("--drop_prob_lm", "1.5"), "drop_prob_lm is 1.5, expected"),
        (("--device", "tpu"), "device is 'tpu', expected auto, cpu, cuda or cuda:N"),
        (("--device", "cuda:7777"), "cuda:7777"),
        (("--prune_type", "supermask"), "prune_type supermask needs a pruned model"),
        (("--prune_type", "smp"), "prune_type.*smp.*supermask"),
        (("--tokenizer_train_files", "/nowhere.txt"), "tokenizer_train_files /nowhere.txt: no such file"),
        (("--beam_size_val", "0"), "beam_size_val is 0, expected at least 1"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    extra: tuple[str, ...], said: str, command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    fails(train.main, command(tmp_path / "run", *extra), said)
    assert not list(tmp_path.glob("run/checkpoints/*"))


# Checkpoints


def test_a_checkpoint_of_another_model_is_named_by_its_first_differences(
    finished: Callable[[str, str], Path], command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    dense, pruned = finished("dense", "faithful"), finished("pruned", "fixed")
    run = tmp_path / "run"
    wider = r"does not fit the model: embed.0.weight 30x16 \(expected 30x18\), core.att_lstm.weight_ih 64x48"
    for source in (dense, dense / "last", dense / "model_best.pth"):
        words = command(run, "--start_from", str(source), "--input_encoding_size", "18")
        fails(train.main, words, rf"{re.escape(str(source))}.* {wider}")
    fails(
        train.main, command(run, "--start_from", str(pruned)), "it holds masks: load it into the _prune model"
    )
    fails(train.main, command(run, "--start_from", str(tmp_path / "no")), "no: no checkpoint there")
    cut_file = tmp_path / "cut.pth"
    shutil.copy(dense / "model_best.pth", cut_file)
    cut(cut_file)
    words = command(run, "--start_from", str(cut_file))
    fails(train.main, words, "cut.pth: no file of weights, or cut off")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pth")
    words = command(run, "--start_from", str(tmp_path / "pickled.pth"))
    fails(train.main, words, "pickled.pth: a whole pickled object")
    assert not list(run.glob("checkpoints/*"))


def test_a_transformer_of_another_size_is_named_by_its_first_differences(
    begun: Callable[..., Path], command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    source = begun("dense", "ort")
    for extra, said in (
        (
            ("--num_layers", "3"),
            r"does not fit the model: model.encoder.layers.2\S+ absent \(expected 16x16\)",
        ),
        (("--dim_feedforward", "8"), r"w_1.weight 24x16 \(expected 8x16\)"),
        (("--share_att_encoder", "kv"), r"model.encoder.layers.0.self_attn"),
        (("--share_layer_encoder", "(0, 0)"), r"model.encoder.layers.0.\S+ and \S+ differ, expected one"),
        (("--num_heads", "4"), r"is of num_heads 2, this run of 4"),
        (("--tokenizer", "bpe"), r"its tokenizer is word or radix, expected bpe"),
    ):
        words = command(tmp_path / "run", "--start_from", str(source), *extra, model="ort")
        fails(train.main, words, said)
    words = command(tmp_path / "run", "--start_from", str(source), model="transformer")
    fails(train.main, words, r"does not fit the model: core\.\S+ absent")
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_a_vocabulary_that_does_not_fit_is_named(
    finished: Callable[[str, str], Path], command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    source = finished("dense", "fixed")
    run = tmp_path / "run"
    shutil.copytree(source / "tokenizer", run / "tokenizer")
    words = command(run, "--vocab_size", "12")
    fails(train.main, words, r"tokenizer/word.model has \d+ tokens, expected at most vocab_size 12")
    words = command(tmp_path / "b", "--start_from", str(source), "--vocab_size", "40")
    fails(train.main, words, r"best has a vocabulary of 30 tokens, the model one of 40 \(vocab_size\)")


def test_resuming_with_another_model_or_order_of_data_is_refused_and_touches_nothing(
    finished: Callable[[str, str], Path], command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    run = shutil.copytree(finished("dense", "fixed"), tmp_path / "run")
    checkpoints = snapshot(run / "checkpoints", run / "best", run / "last")
    for extra, said in (
        (("--rnn_size", "18"), r"model.*fc_embed.0.weight"),
        (("--batch_size", "2"), "data order's global_batch was 4 and is now 2"),
        (("--seed", "1"), "data order's seed was 8888 and is now 1"),
    ):
        fails(train.main, command(run, *extra, "--resume"), said)
    now = snapshot(run / "checkpoints", run / "best", run / "last")
    assert now == checkpoints


def test_a_folder_that_holds_a_run_is_refused_without_resume_and_not_touched(
    finished: Callable[[str, str], Path], command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    run = shutil.copytree(finished("pruned", "faithful"), tmp_path / "run")
    before = snapshot(run)
    fails(train.main, command(run), r"run: already holds a run \(checkpoints\); expected --resume or another")
    fails(train.main, command(run, pruned=True, preset="faithful"), "already holds a run")
    assert snapshot(run) == before
    (tmp_path / "file").write_text("mine")
    fails(train.main, command(tmp_path / "file"), "file: is a file; expected a folder for the run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_newest_checkpoint_is_passed_over_and_all_damaged_are_refused(
    command: Callable[..., list[str]], fails: Fails, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = command(run, "--max-steps", "24")
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
    command: Callable[..., list[str]], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train.main(command(whole, "--max-steps", "24"))
    fill_disk(monkeypatch, at=2)
    said = fails(train.main, command(run, "--max-steps", "24"), "cannot be written: No space left on device")
    assert "earlier checkpoints are unchanged" in said
    assert [path.name for path in listed(run / "checkpoints")] == ["step-000012"]
    assert verify(run / "checkpoints/step-000012") is None
    train.main(command(run, "--max-steps", "24", "--resume"))
    for name in ("last", "best"):
        file = f"{name}/model.safetensors"
        assert (run / file).read_bytes() == (whole / file).read_bytes()


def test_a_full_disk_while_a_model_folder_is_written_keeps_the_earlier_one(
    command: Callable[..., list[str]], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train.main(command(run, "--max-steps", "12"))
    before = snapshot(run / "last") | snapshot(run / "checkpoints")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(hub, "save_tensors", full)
        words = command(run, "--max-steps", "24", "--resume")
        fails(train.main, words, "cannot be written: No space left on device")
    assert snapshot(run / "last") | snapshot(run / "checkpoints") == before
    train.main(command(run, "--max-steps", "24", "--resume"))
    assert listed(run / "checkpoints")[-1].name == "step-000024"


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_batch(
    own: Path, command: Callable[..., list[str]], fails: Fails, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = command(run, "--dataset_dir", str(own), "--cache_min_free_ram", "1")
    train.main([*words, "--max-steps", "12"])
    before = snapshot(run / "checkpoints", run / "last")
    healthy = (own / "bu/cocobu_att/5.npy").read_bytes()
    nan(own / "bu/cocobu_att/5.npy")
    said = fails(train.main, [*words, "--resume"], "gradient is nan in 21 of 21 parameters")
    kept = Path(re.search(r"the batch is kept in (\S+)", said)[1])
    assert 5 in json.loads((kept / "state.json").read_text())["image_ids"]["$tuple"]
    assert snapshot(run / "checkpoints", run / "last") == before
    (own / "bu/cocobu_att/5.npy").write_bytes(healthy)
    train.main([*words, "--resume"])
    assert (run / "finished.json").exists()


# Other commands


def test_other_commands_name_what_is_wrong(
    finished: Callable[[str, str], Path], fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished("dense", "fixed")
    before = snapshot(run)
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "text.jpg").write_text("no picture")
    for main, words, said in (
        (test.main, [], "test needs a model: --log_dir RUN"),
        (test.main, ["--log_dir", str(tmp_path)], "no checkpoint there"),
        (
            test.main,
            ["--log_dir", str(run), "--beam_size_test", "2", "--beam_size_val", "1"],
            "only one of them",
        ),
        (
            test.main,
            ["--log_dir", str(run), "--dataset_dir", "/nowhere"],
            "dataset_dir /nowhere: no such file",
        ),
        (demo.main, [str(tmp_path / "text.jpg")], "runs holds no trained model: run `train` first"),
        (demo.main, ["a.jpg", "--model", str(run)], "holds no extractor"),
        (export.main, [str(run), "--format", "sparse", "--output", str(tmp_path / "x")], "has no masks"),
        (export.main, [str(tmp_path / "no")], "no checkpoint there"),
        (export.main, [str(run), "--format", "tflite"], "tflite"),
        (convert.main, [str(tmp_path / "text.jpg"), str(tmp_path / "y")], "config.json: cannot be read"),
    ):
        fails(main, words, said)
    assert snapshot(run) == before
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()
