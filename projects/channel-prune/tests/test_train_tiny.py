"""The real runs on tiny pictures: what they write, that they learn, how they begin from given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from channel_prune import train
from channel_prune.files.loading import load_network
from channel_prune.lowering import lower_values
from channel_prune.schedule import learning_rate
from prunelab.hub import load_model_folder
from prunelab.util import read_json
from testing.runs import figures

from .conftest import SAVE, STEPS, Build, Finished

pytestmark = pytest.mark.tiny

ROWS = ["best constant answer", "dense", "pruned, before fine-tuning", "pruned", "slim"]
OWN = {"config.yaml", "command.txt", "versions.json", "log.txt", "finished.json", "once"}
"""Files of every run, and of every stage of one."""


def series(run: Path, name: str) -> list[float]:
    return [line[name] for line in figures(run / "metrics.jsonl") if name in line]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}


def zeros(folder: Path) -> dict[str, list[int]]:
    """Input channels without weights, by convolution."""
    state = load_file(folder / "model.safetensors")
    kernels = {name: value for name, value in state.items() if value.ndim == 4}
    found = {name: (value.abs().sum((0, 2, 3)) == 0).nonzero().flatten() for name, value in kernels.items()}
    return {name: channels.tolist() for name, channels in found.items() if len(channels)}


def test_a_full_run_learns_and_writes_what_it_should(full: Finished) -> None:
    run = full()
    assert names(run) == OWN | {"metrics.jsonl", "checkpoints", "best", "last", "summary.json"}
    assert len(series(run, "lr")) == STEPS
    assert len(list((run / "checkpoints").glob("step-*"))) <= 3
    rows = read_json(run / "summary.json")["rows"]
    assert [row["model"] for row in rows] == ROWS[:2]
    assert yaml.safe_load((run / "config.yaml").read_text())["run"]["learner"] == "full-prec"
    saved = load_model_folder(run / "last")
    assert saved.config["notes"]["step"] == STEPS


def test_a_longer_run_learns_colours(values: dict[str, Any], tmp_path: Path) -> None:
    longer = {"nb_iters": 60, "save_step": 60, "lrn_rate_init": 0.1, "width_divisor": 1}
    run = train.train(lower_values(values | longer | {"output": str(tmp_path / "run")}))
    loss = series(run, "loss")
    assert sum(loss[50:60]) < 0.5 * sum(loss[:10])
    constant, dense = read_json(run / "summary.json")["rows"]
    assert dense["accuracy"] > 2 * constant["accuracy"]


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_a_pruned_run_has_its_stages_and_ends_with_a_slim_network(preset: str, pruned: Finished) -> None:
    run = pruned(preset)
    assert names(run) == {
        *("choose", "chosen", "finetune", "last", "best", "slim", "summary.json", "config.yaml"),
    }
    assert names(run / "choose") == OWN | {"choice.json"}
    assert names(run / "finetune") == OWN | {"metrics.jsonl", "checkpoints", "best", "last"}
    rows = read_json(run / "summary.json")["rows"]
    assert [row["model"] for row in rows] == ROWS
    _, dense, _, masked, slim = rows
    assert dense["parameters"] == masked["parameters"] > 1.5 * slim["parameters"]
    assert dense["MACs"] == masked["MACs"] > 1.5 * slim["MACs"]
    assert slim["accuracy"] == masked["accuracy"]
    assert slim["file"] < masked["file"]
    counted = {row["convention"]: row for row in read_json(run / "summary.json")["multiply_adds"]}
    assert list(counted) == ["realisable", "published", "input_only"]
    assert counted["realisable"]["left"] < counted["input_only"]["left"] < 0.6


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_half_of_the_channels_go_and_stay_away_while_all_else_learns(preset: str, pruned: Finished) -> None:
    run = pruned(preset)
    before, after = (zeros(run / name) for name in ("chosen", "last"))
    assert before == after
    records = read_json(run / "choose/choice.json")["records"]
    assert len(records) == 10
    for record in records[1:]:
        gone = set(before[f"{record['name']}.weight"])
        assert gone | set(record["kept"]) == set(range(record["channels"]))
        if preset == "fixed":
            assert len(record["kept"]) == record["channels"] // 2
    assert records[0]["ratio"] == 0
    first, last = (load_file(run / name / "model.safetensors") for name in ("chosen", "last"))
    assert all((first[name] != last[name]).any() for name in first if first[name].is_floating_point())
    logged = series(run / "finetune", "pr_krn")
    assert len(logged) == STEPS
    kernels = [value for value in last.values() if value.ndim == 4]
    share = sum(int((value == 0).sum()) for value in kernels) / sum(value.numel() for value in kernels)
    assert logged[0] == pytest.approx(share, rel=1e-6)


def test_the_slim_network_answers_as_the_masked_one(pruned: Finished, values: dict[str, Any]) -> None:
    run = pruned()
    net = lower_values(values).net
    masked, slim = (load_network(run / name, net).double() for name in ("last", "slim"))
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(slim(x), masked(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_fine_tuning_in_slim_form_ends_where_masks_end(
    preset: str, build: Build, pruned: Finished, values: dict[str, Any], tmp_path: Path
) -> None:
    more = {"enbl_dst": True} if preset == "faithful" else {}
    runs = [
        train.train(build(tmp_path / str(early), preset, slim_before_finetune=early, **more), quiet=True)
        for early in (False, True)
    ]
    net = lower_values(values).net
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("last", "best", "slim"):
        masked, early = (load_network(run / name, net) for run in runs)
        assert [p.shape for p in masked.parameters()] == [p.shape for p in early.parameters()]
        with torch.no_grad():
            torch.testing.assert_close(early(x), masked(x), rtol=1e-3, atol=1e-3)
    assert zeros(runs[0] / "last") == zeros(runs[1] / "last")
    for name in ("pr_krn", "pr_trn", "accuracy"):
        expected = series(runs[0] / "finetune", name)
        assert series(runs[1] / "finetune", name) == pytest.approx(expected, abs=0.05 * (name == "accuracy"))
    checkpoint = sorted((runs[1] / "finetune/checkpoints").rglob("*.safetensors"))[-1]
    assert (
        checkpoint.stat().st_size
        < 0.8 * next((runs[0] / "finetune/checkpoints").rglob(checkpoint.name)).stat().st_size
    )


def test_an_evaluation_comes_before_fine_tuning_and_with_every_checkpoint(pruned: Finished) -> None:
    run = pruned()
    lines = figures(run / "finetune/metrics.jsonl")
    evaluated = [line["step"] for line in lines if "accuracy" in line and "lr" not in line]
    assert evaluated == [0, *range(SAVE, STEPS + 1, SAVE)]


def test_the_schedule_sets_each_step(build: Build, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "schedule": "cifar",
        "nb_iters": None,
        "batch_size_norm": 128,
        "nb_smpls_train": 128,
    }
    cfg = build(tmp_path / "run", nb_epochs_rat=0.004, **more)
    run = train.train(cfg)
    rates = series(run / "finetune", "lr")
    assert rates == [learning_rate(cfg, step) for step in range(8)]
    assert rates[0] == pytest.approx(0.05 * 16 / 128)
    assert rates[-1] < rates[0]


def test_distillation_adds_the_teachers_term(build: Build, pruned: Finished, tmp_path: Path) -> None:
    taught = train.train(build(tmp_path / "run", enbl_dst=True))
    losses, plain = (series(run / "finetune", "loss") for run in (taught, pruned()))
    # the same network, the same pictures: at first only the term is between them
    assert losses[0] - plain[0] > 1
    assert len(losses) == len(plain)


@pytest.mark.parametrize("place", ["chosen", "chosen/model.safetensors", "nowhere/model.ckpt"])
def test_a_warm_start_chooses_nothing(
    place: str, build: Build, pruned: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spot = pruned() / place
    if "nowhere" in place:  # the original's way: the folder counts, whatever the file's name is
        spot = pruned() / "chosen" / "model.ckpt"
    monkeypatch.setattr(train, "choose", None)
    run = train.train(build(tmp_path / "run", warm_start=True, save_path_ws=str(spot)))
    assert not (run / "choose").exists()
    assert (
        load_file(run / "last/model.safetensors").keys()
        == load_file(pruned() / "last/model.safetensors").keys()
    )
    last, expected = (load_file(f / "last/model.safetensors") for f in (run, pruned()))
    assert all(torch.equal(last[name], expected[name]) for name in last)


def test_under_the_originals_paths_networks_lie_where_it_has_them(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNELAB_RUNS", raising=False)
    values = values | {"preset": "faithful"}
    train.train(lower_values(values))
    train.train(lower_values(values | {"learner": "chn-pruned-rmt"}))
    for folder in ("models/last", "models_eval", "models_cpr_ws", "models_cpr/last", "models_cpr_eval"):
        assert load_model_folder(tmp_path / folder).kind == "channel-prune", folder
    assert zeros(tmp_path / "models_cpr_ws") == zeros(tmp_path / "models_cpr_eval") != {}
    assert not zeros(tmp_path / "models_eval")


def test_steps_may_be_few_and_more_may_follow(build: Build, pruned: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train.train(build(folder, max_steps=3))
    assert series(folder / "finetune", "lr") == [0.05] * 3
    assert (folder / "slim/config.json").is_file()
    train.train(build(folder, resume=True))
    last, expected = (load_file(f / "last/model.safetensors") for f in (folder, pruned()))
    assert all(torch.equal(last[name], expected[name]) for name in last)


def test_other_precision_and_layout_work(build: Build, tmp_path: Path) -> None:
    run = train.train(build(tmp_path / "run", amp="bf16", channels_last=True))
    assert all(map(torch.isfinite, map(torch.tensor, series(run / "finetune", "loss"))))


def test_a_full_run_may_begin_from_weights(full: Finished, values: dict[str, Any], tmp_path: Path) -> None:
    still = {"lrn_rate_init": 1e-30, "max_steps": 1, "weights": str(full() / "last")}
    run = train.train(lower_values(values | still | {"output": str(tmp_path / "run")}))
    ours, theirs = (load_file(f / "last/model.safetensors") for f in (run, full()))
    kernels = [name for name in ours if ours[name].ndim == 4]
    assert all(torch.equal(ours[name], theirs[name]) for name in kernels)


@pytest.mark.slow
def test_a_compiled_network_trains_as_a_plain_one(build: Build, pruned: Finished, tmp_path: Path) -> None:
    run = train.train(build(tmp_path / "run", compile=True), quiet=True)
    ours, theirs = (series(folder / "finetune", "loss") for folder in (run, pruned()))
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.gpu
def test_all_stages_run_on_a_gpu(build: Build, pruned: Finished, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    run = train.train(build(tmp_path / "run", device="cuda", channels_last=True), quiet=True)
    ours, theirs = (series(folder / "finetune", "loss") for folder in (run, pruned()))
    assert ours == pytest.approx(theirs, rel=0.1)
    mixed = train.train(build(tmp_path / "mixed", device="cuda", amp="bf16"), quiet=True)
    assert series(mixed / "finetune", "loss") == pytest.approx(theirs, rel=0.3)
