"""``train`` as a user starts it, on data that a tiny model learns: what is written, said and learned."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from prunelab.mask import packed
from prunelab.mask.files import load_state
from smp_caption import train
from smp_caption.captioner import Captioner
from smp_caption.config import Config
from smp_caption.files import original

pytestmark = pytest.mark.tiny

RUNS = [(kind, preset) for kind in ("dense", "pruned") for preset in ("fixed", "faithful")]
PROJECT = Path(__file__).parents[1]
METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")
STEPS, EVERY, TARGET = 48, 12, 0.6


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def values(run: Path, name: str) -> list[float]:
    return [line[name] for line in lines(run) if name in line]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def notes(run: Path) -> dict[str, Any]:
    return json.loads((run / "best/config.json").read_text())["config"]["notes"]


@pytest.mark.parametrize(("kind", "preset"), RUNS)
def test_a_run_folder_holds_all_that_explains_the_run(
    kind: str, preset: str, finished: Callable[[str, str], Path]
) -> None:
    run = finished(kind, preset)
    for name in ("config.yaml", "command.txt", "versions.json", "log.txt", "metrics.jsonl", "finished.json"):
        assert (run / name).stat().st_size > 0, name
    assert len(list(run.glob("events.*"))) == 1
    assert [path.name for path in sorted((run / "checkpoints").iterdir())][-1] == f"step-{STEPS:06d}"
    for folder in ("best", "last"):
        names = {path.name for path in (run / folder).iterdir()}
        assert names == {"config.json", "model.safetensors", "README.md", "word.model", "word.vocab"}
    steps = [f"{step:08d}" for step in range(EVERY, STEPS + 1, EVERY)]
    validations = {path.name for path in (run / "val_beam_1").iterdir()}
    assert validations == {"scores.csv"} | {
        f"{what}_{step}{end}"
        for step in steps
        for what, end in (("caption", ".json"), ("score", ".json"), ("score", "_detailed.json"))
    }
    assert len(list((run / "test_beam_2").iterdir())) == 4
    assert (run / "pruned/model.safetensors").is_file() == (kind == "pruned")
    assert (run / "pruned.pack").is_file() == (kind == "pruned")
    assert (run / "config.json").is_file() == (preset == "faithful")
    plain = yaml.safe_load((run / "config.yaml").read_text())
    assert plain["run"]["preset"] == preset
    assert set(plain["quirks"].values()) == {preset == "faithful"}


@pytest.mark.parametrize(("kind", "preset"), RUNS)
def test_every_step_is_counted_and_the_loss_goes_down(
    kind: str, preset: str, finished: Callable[[str, str], Path]
) -> None:
    run = finished(kind, preset)
    train_lines = [line for line in lines(run) if "train/loss" in line]
    assert [line["step"] for line in train_lines] == list(range(1, STEPS + 1))
    assert [line["updates"] for line in train_lines] == list(range(1, STEPS + 1))
    assert [line["epoch"] for line in train_lines] == [step // 3 for step in range(STEPS)]
    name = "train/caption_loss" if kind == "pruned" else "train/loss"
    losses = values(run, name)
    assert len(losses) == STEPS
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])
    rates = values(run, "train/learning_rate")
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize(("kind", "preset"), RUNS)
def test_evaluations_name_their_scores_in_every_place(
    kind: str, preset: str, finished: Callable[[str, str], Path]
) -> None:
    run = finished(kind, preset)
    for metric in METRICS:
        assert len(values(run, f"val/{metric}")) == STEPS // EVERY
        assert len(values(run, f"test/{metric}")) == 1
    text = (run / "log.txt").read_text()
    assert f"step {STEPS}: test/Bleu_1 " in text
    assert "val/CIDEr " in text
    rows = table(run / "val_beam_1/scores.csv")
    assert rows[0] == ["Step", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE"]
    assert [row[0] for row in rows[1:]] == [str(step) for step in range(EVERY, STEPS + 1, EVERY)]
    captions = json.loads(next((run / "test_beam_2").glob("caption_*.json")).read_text())
    assert [entry["image_id"] for entry in captions] == [17, 18, 19, 20, 21]
    assert values(run, "test/CIDEr")[0] > 0.5
    assert notes(run)["scores"]["val/CIDEr"] == max(allowed_ciders(run, kind))


def allowed_ciders(run: Path, kind: str) -> list[float]:
    """Validation scores; of a pruned run those whose nonzeros are within 5 % of the target."""
    ciders = values(run, "val/CIDEr")
    if kind == "dense":
        return ciders
    sparsities = values(run, "prune/sparsity/all")  # of every step, as often as losses are logged
    assert len(sparsities) == STEPS
    near = [
        abs((1 - sparsity) - (1 - TARGET)) / (1 - TARGET) <= 0.05
        for sparsity in sparsities[EVERY - 1 :: EVERY]
    ]
    assert any(near)
    assert not all(near)
    return [cider for cider, allowed in zip(ciders, near, strict=True) if allowed]


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_a_pruned_run_ends_at_its_sparsity_and_its_exports_hold_the_zeros(
    preset: str, finished: Callable[[str, str], Path]
) -> None:
    run = finished("pruned", preset)
    assert values(run, "prune/sparsity/all")[-1] == pytest.approx(TARGET, abs=0.025)
    masked = load_state(run / "best/model.safetensors")[0]
    dense = load_state(run / "pruned/model.safetensors")[0]
    names = [name for name in masked if name.endswith("_pruning_mask")]
    assert len(names) == 11
    size = sum(masked[name].numel() for name in names)
    zeros = sum(int((dense[name.removesuffix("_pruning_mask")] == 0).sum()) for name in names)
    assert zeros / size == pytest.approx(TARGET, abs=0.026)
    for name in names:
        weight = name.removesuffix("_pruning_mask")
        assert torch.equal(dense[weight], masked[weight] * (masked[name] > 0))
    unpacked = packed.unpack(run / "pruned.pack")
    assert unpacked.keys() == dense.keys()
    assert all(torch.equal(unpacked[name], value) for name, value in dense.items())


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_the_faithful_preset_writes_the_originals_files(
    kind: str, finished: Callable[[str, str], Path]
) -> None:
    run = finished(kind, "faithful")
    names = [original.INIT, original.BEST, original.LAST, original.OPTIMIZER_BEST, original.OPTIMIZER_LAST]
    if kind == "pruned":
        names += [original.PRUNED, original.SPARSE, original.BINARY]
    assert {path.name for path in run.glob("*.pth")} == set(names)
    states = {name: torch.load(run / name, weights_only=True) for name in names}
    best = load_state(run / "best/model.safetensors")[0]
    assert states[original.BEST].keys() == best.keys()
    assert all(torch.equal(states[original.BEST][name], value) for name, value in best.items())
    weights = [name for name in best if not name.endswith("_pruning_mask")]
    assert list(states[original.INIT]) == [n for n in states[original.BEST] if n in weights]
    config = json.loads((run / "config.json").read_text())
    assert config["version"] == original.VERSION
    assert config["caption_model"] == f"up_down_lstm{'_prune' if kind == 'pruned' else ''}"
    assert config["best_global_step"] == notes(run)["step"]
    assert (config["max_train_step"], config["beam_size"]) == (STEPS, 2)
    assert config["current_lr"] == values(run, "train/learning_rate")[-1]
    assert config.get("current_sparsity") == (values(run, "prune/sparsity/all") or [None])[-1]
    assert (config["model_restored"], config["optimizer_restored"]) == (False, False)
    assert config["input_att_dir"] == str(Path(config["dataset_dir"]) / "bu/cocobu_att")
    # The optimiser as torch saves it, with a group of its own for masks, after the steps that it made.
    for name, made in (
        (original.OPTIMIZER_BEST, config["best_global_step"]),
        (original.OPTIMIZER_LAST, STEPS),
    ):
        optimizer = states[name]
        assert [group.get("pruning_mask") for group in optimizer["param_groups"]] == [None, True][
            : 1 + (kind == "pruned")
        ]
        assert {float(state["step"]) for state in optimizer["state"].values()} == {made}
        assert len(optimizer["state"]) == len(best)
    counted = json.loads((run / "model_params.json").read_text())
    assert counted["breakdown"] == {
        name: states[original.INIT][name].numel() for name in counted["breakdown"]
    }
    assert counted["total"] == counted["trainable params"] == sum(counted["breakdown"].values())
    assert set(counted["breakdown"]) == set(weights)
    assert (run / "mask_params.json").is_file() == (kind == "pruned")
    if kind == "pruned":
        assert states[original.SPARSE]["logit.weight"].layout == torch.sparse_coo
        dense = states[original.PRUNED]
        assert torch.equal(states[original.SPARSE]["logit.weight"].to_dense(), dense["logit.weight"])
        assert set(states[original.BINARY]["logit.weight_pruning_mask"].unique().tolist()) == {0.0, 1.0}
        header, row = table(run / "sparsities.csv")
        assert header[:2] == ["sparsity", "nnz"]
        masks = [value for name, value in best.items() if name.endswith("_pruning_mask")]
        assert int(row[1]) == sum(int((mask > 0).sum()) for mask in masks)
        assert len(header) == 2 + len(masks)


def test_generated_data_train_a_model_and_a_longer_run_goes_on_with_them(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(tmp_path / "run", "--fake-data", "--max-steps", "2")
    train.main(words)
    assert "test/CIDEr" in capsys.readouterr().out
    assert not list((tmp_path / "run").glob("test2014*"))
    assert len(json.loads((tmp_path / "run/fake_data/dataset_coco.json").read_text())["images"]) == 16
    assert not (tmp_path / "run/finished.json").exists()
    # The same run goes on: the data are generated again and are the same.
    train.main([*words, "--max-steps", "3", "--resume"])
    assert [line["step"] for line in lines(tmp_path / "run") if "train/loss" in line] == [1, 2, 3]


def test_a_run_for_the_online_test_ends_with_the_files_that_its_server_takes(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    run = tmp_path / "run"
    train.main(command(run, "--fake-data", "--max-steps", "1", "--mscoco_online_test"))
    names = {path.name for path in (run / "test2014_beam_2").iterdir()}
    results = {f"captions_{part}2014_run_results.json" for part in ("test", "val")}
    assert names == {"caption_00000001.json", *results}
    assert not list(run.glob("test_beam*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("up_down/dense.yaml", 53_151_538),
        ("ort/dense.yaml", 55_443_777),
        ("acort/base.yaml", 14_979_347),
    ],
)
def test_a_configuration_of_the_paper_trains_at_its_full_size(
    config: str, parameters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # two gigabytes are not worth keeping
    small = "--batch_size 2 --seq_per_img 2 --num_workers 0 --device cpu --losses_log_every 1"
    run = tmp_path / "run"
    words = ["--config", str(PROJECT / "config" / config), "--output", str(run), *small.split()]
    train.main([*words, "--fake-data", "--max-steps", "2"])
    assert json.loads((run / "model_params.json").read_text())["total"] == parameters
    first, second = values(run, "train/loss")
    assert min(first, second) > 0
    assert first < math.log(10_001) + 3
    assert len(values(run, "test/CIDEr")) == 1
    shutil.rmtree(run)


@pytest.mark.parametrize("kind", ["word", "radix", "unigram", "bpe", "character"])
def test_every_kind_of_tokenizer_goes_through_a_run_and_its_model_folder(
    kind: str, tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    radix = ("--radix_base", "6") if kind == "radix" else ()
    size = ("--vocab_size", "60", "--max_seq_length", "26")
    train.main(command(tmp_path / "run", "--tokenizer", kind, *radix, *size, "--max-steps", "2"))
    captioner = Captioner.from_pretrained(tmp_path / "run/last")
    assert captioner.tokenizer.kind == kind
    ids = captioner.tokenizer.encode("a red cat sits here", max_seq_length=0)
    assert captioner.tokenizer.decode(ids[1:]) == "a red cat sits here"
    assert (captioner.config.bos_token_id, captioner.config.eos_token_id) == (ids[0], ids[-1])
    assert len(captioner.caption_features([np.ones((3, 12), dtype=np.float32)])) == 1


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_run_starts_from_the_weights_and_the_tokenizer_of_another(
    name: str,
    pruned: bool,
    tmp_path: Path,
    command: Callable[..., list[str]],
    finished: Callable[[str, str], Path],
) -> None:
    source = finished("dense", "fixed")
    start = source if name == "best" else source / "last"
    extra = (
        "--start_from",
        str(start),
        "--max-steps",
        "1",
        "--learning_rate",
        "0",
        "--learning_rate_min",
        "0",
    )
    preset = "faithful" if pruned else "fixed"
    train.main(command(tmp_path / "run", *extra, pruned=pruned, preset=preset))
    then = load_state(source / name / "model.safetensors")[0]
    now = load_state(tmp_path / "run/last/model.safetensors")[0]
    assert all(torch.equal(now[key], value) for key, value in then.items())
    assert {key for key in now if key not in then} == {k for k in now if k.endswith("_pruning_mask")}
    tokenizers = [folder / "tokenizer/word.model" for folder in (source, tmp_path / "run")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    log = tmp_path / "run" / original.RESTORE_LOG
    assert log.is_file() == pruned
    if pruned:
        place, missing, unexpected = log.read_text().splitlines()
        assert place == str(source / name)
        assert missing.count("_pruning_mask") == 11
        assert unexpected == "unexpected keys: []"


def test_weights_without_their_tokenizer_are_warned_of(
    tmp_path: Path,
    command: Callable[..., list[str]],
    finished: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lone = tmp_path / "lone" / original.BEST
    lone.parent.mkdir()
    shutil.copy(finished("dense", "faithful") / original.BEST, lone)
    train.main(command(tmp_path / "run", "--start_from", str(lone), "--max-steps", "1"))
    assert f"warning: {lone} has no tokenizer: words get their ids anew" in capsys.readouterr().out


def test_the_logging_level_decides_what_the_console_shows(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for level in ("INFO", "WARNING", "ERROR"):
        words = ("--max-steps", "1", "--logging_level", level, "--cached_tokens", "coco-train-words")
        train.main(command(tmp_path / level, *words, pruned=True))
        shown[level] = capsys.readouterr()
        text = (tmp_path / level / "log.txt").read_text()
        assert "warning: no validation counted as best" in text
        assert "cached_tokens coco-train-words: not read, since only self-critical training needs it" in text
    assert "cached_tokens" in shown["INFO"].out
    assert (shown["INFO"].err, shown["WARNING"].out, shown["ERROR"].out, shown["ERROR"].err) == (
        "",
        "",
        "",
        "",
    )
    assert shown["WARNING"].err.splitlines() == [
        f"warning: no validation counted as best (sparsity off target?): taking {tmp_path / 'WARNING/last'}"
    ]


def test_no_best_model_means_that_the_last_is_exported_with_a_warning(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(command(tmp_path / "run", "--max-steps", "1", pruned=True))
    assert (
        f"warning: no validation counted as best (sparsity off target?): taking {tmp_path / 'run/last'}"
        in (capsys.readouterr().out)
    )
    assert not (tmp_path / "run/best").exists()
    assert (tmp_path / "run/pruned/model.safetensors").is_file()


def test_printing_the_configuration_and_a_dry_run_write_nothing(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(command(tmp_path / "run", "--print-config"))
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["rnn_size"] == 16
    train.main(command(tmp_path / "run", "--dry-run"))
    assert "configuration is right; nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert set(printed) == set(Config.__dataclass_fields__)
