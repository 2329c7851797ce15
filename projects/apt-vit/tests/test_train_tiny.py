"""The real runs on tiny pictures: what they write, that they learn, how they begin and end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from apt_vit.classifier import Classifier
from apt_vit.files import original
from apt_vit.job import length_of
from apt_vit.learning.schedules import rate
from apt_vit.summary import CONSTANT, DROPPED, PLAIN
from apt_vit.train import train
from prunelab.errors import UserError
from prunelab.hub import load_model_folder
from prunelab.util import read_json
from testing.runs import figures

from .conftest import EVALUATE, PICTURES, UPDATES, Build, Finished

pytestmark = pytest.mark.tiny

OWN = {"config.yaml", "command.txt", "versions.json", "log.txt", "finished.json", "once"}
"""Files of every run."""


def series(run: Path, name: str) -> list[float]:
    return [line[name] for line in figures(run / "metrics.jsonl") if name in line]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}


def test_a_run_writes_what_it_should(finished: Finished) -> None:
    run = finished()
    assert names(run) == OWN | {"metrics.jsonl", "checkpoints", "best", "last", "summary.json"}
    assert len(list((run / "checkpoints").glob("step-*"))) <= 3
    assert read_json(run / "finished.json")["updates"] == UPDATES
    assert yaml.safe_load((run / "config.yaml").read_text())["run"]["preset"] == "fixed"
    lines = figures(run / "metrics.jsonl")
    assert [line["updates"] for line in lines if "train/loss" in line] == list(range(1, UPDATES + 1))
    evaluated = [line["updates"] for line in lines if "pruned/accuracy" in line]
    assert evaluated == list(range(EVALUATE, UPDATES + 1, EVALUATE))
    told = next(line for line in lines if "pruned/accuracy" in line)
    assert {f"{s}/{n}" for s in ("plain", "pruned") for n in ("accuracy", "loss", "macs")} <= told.keys()
    assert {"pruned/tokens_0", "pruned/tokens_2"} <= told.keys()
    assert load_model_folder(run / "last").config["notes"]["updates"] == UPDATES


def test_the_table_has_a_row_for_each_way_to_use_the_network(finished: Finished) -> None:
    constant, plain, dropped = read_json(finished() / "summary.json")["rows"]
    assert [row["model"] for row in (constant, plain, dropped)] == [CONSTANT, PLAIN, DROPPED]
    assert plain["tokens"] == "17"
    assert dropped["tokens"].count(",") == 1
    assert dropped["parameters"] > plain["parameters"]
    assert plain["file"] == dropped["file"] == (finished() / "best/model.safetensors").stat().st_size


def test_the_best_network_is_that_of_the_best_pruned_accuracy_on_validation(finished: Finished) -> None:
    for preset in ("fixed", "faithful"):
        run = finished(preset)
        found = series(run, "pruned/accuracy")
        first = EVALUATE * (1 + found.index(max(found)))
        assert load_model_folder(run / "best").config["notes"]["updates"] == first


def test_faithful_leaves_the_originals_files_too(finished: Finished) -> None:
    run = finished("faithful")
    theirs = {f"{s}_apt_checkpoint.{e}" for s in (0, 1) for e in ("bin", "json")}
    assert names(run) == OWN | {"metrics.jsonl", "checkpoints", "best", "last", "logs"} | theirs
    assert len(list((run / "logs/apt").glob("events.*"))) == 1
    best = original.read_state(run / "1_apt_checkpoint.bin")
    ours = load_file(run / "best/model.safetensors")
    assert list(best) == list(Classifier.from_pretrained(run / "best").model.state_dict())
    assert all(torch.equal(best[name], ours[name]) for name in best)


def test_faithful_updates_carry_leftovers_and_fixed_ones_end_the_epoch(finished: Finished) -> None:
    at = {preset: [] for preset in ("fixed", "faithful")}
    for preset, steps in at.items():
        lines = figures(finished(preset) / "metrics.jsonl")
        steps += [line["step"] for line in lines if "train/loss" in line]
    # 40 pictures in micro-batches of 4 are an epoch of 10, 50 one of 13.
    assert at["fixed"] == [3, 6, 9, 10, 13, 16]
    assert at["faithful"] == [3, 6, 9, 12, 16, 19]


def test_rates_follow_the_schedule_of_the_preset(build: Build, finished: Finished) -> None:
    for preset, shift in (("fixed", 0), ("faithful", 1)):
        cfg = build(Path("nowhere"), preset)
        expected = [cfg.optim.learning_rate * rate(k + shift, cfg.optim) for k in range(UPDATES)]
        assert series(finished(preset), "train/lr") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("preset", ["fixed", "faithful"])
def test_a_longer_run_learns_colours(preset: str, build: Build, tmp_path: Path) -> None:
    more = {"num_steps": 60, "learning_rate": 0.2, "gradient_accumulation_steps": 1}
    run = train(build(tmp_path / "run", preset, eval_every=60, save_every=60, **more), quiet=True)
    loss = series(run, "train/loss")
    assert sum(loss[-10:]) < 0.8 * sum(loss[:10])
    constant = PICTURES["test"] // 10 + 1
    assert series(run, "pruned/accuracy")[-1] > 2 * constant / PICTURES["test"]


def test_agents_learn_and_differ_only_where_they_should(finished: Finished, build: Build) -> None:
    for preset in ("fixed", "faithful"):
        states = [load_file(finished(preset) / name / "model.safetensors") for name in ("best", "last")]
        agents = [name for name in states[0] if ".clip_layer." in name]
        assert agents
        assert any(not torch.equal(states[0][name], states[1][name]) for name in agents) or (
            read_json(finished(preset) / "best/config.json")
            == read_json(finished(preset) / "last/config.json")
        )


@pytest.mark.parametrize(
    ("method", "rows"),
    [("plain", [CONSTANT, PLAIN]), ("random", [CONSTANT, PLAIN, DROPPED]), ("cls-attention", None)],
)
def test_baselines_train_no_agent(method: str, rows: list[str] | None, build: Build, tmp_path: Path) -> None:
    rate = None if method == "plain" else 0.6
    cfg = build(tmp_path / "run", method=method, keep_rate=rate, max_steps=2)
    run = train(cfg, quiet=True)
    found = [row["model"] for row in read_json(run / "summary.json")["rows"]]
    assert found == (rows or [CONSTANT, PLAIN, DROPPED])
    still = train(build(tmp_path / "still", method=method, keep_rate=rate, max_steps=1, warmup_steps=5))
    states = [load_file(folder / "last/model.safetensors") for folder in (run, still)]
    agents = [name for name in states[0] if ".clip_layer." in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in agents)
    assert not torch.equal(states[0]["head.bias"], states[1]["head.bias"])


def test_a_run_may_begin_from_another_ones_weights(finished: Finished, build: Build, tmp_path: Path) -> None:
    # The first rate of the warm-up is 0, so nothing is learnt yet.
    more = {"max_steps": 1, "warmup_steps": 5, "pretrained_dir": str(finished() / "last")}
    run = train(build(tmp_path / "run", **more), quiet=True)
    ours, theirs = (load_file(f / "last/model.safetensors") for f in (run, finished()))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_other_precision_and_layout_work(build: Build, tmp_path: Path) -> None:
    run = train(build(tmp_path / "run", amp="bf16", channels_last=True, max_steps=2), quiet=True)
    assert all(torch.isfinite(torch.tensor(series(run, "train/loss"))))


def test_a_generated_data_set_needs_no_other(build: Build, tmp_path: Path) -> None:
    cfg = build(tmp_path / "run", fake_data=True, data_dir="nowhere", max_steps=2, num_workers=0)
    run = train(cfg, quiet=True)
    assert (run / "fake_data").is_dir()
    assert len(series(run, "train/loss")) == 2


@pytest.mark.parametrize(
    ("per_epoch", "carries", "updates", "steps"),
    [
        (13, True, 4, 12),
        (13, True, 5, 16),
        (13, True, 8, 25),
        (13, False, 5, 13),
        (13, False, 6, 16),
        (12, True, 4, 12),
        (12, False, 5, 15),
        (2, False, 3, 6),
    ],
)
def test_a_training_is_as_long_as_its_updates_need(
    per_epoch: int, carries: bool, updates: int, steps: int, build: Build
) -> None:
    cfg = build(Path("nowhere"), num_steps=updates, carry_leftovers=carries)
    assert length_of(cfg, per_epoch) == steps


def test_an_epoch_without_an_update_ends_the_originals_training_and_not_ours(
    build: Build, tmp_path: Path
) -> None:
    few = {"num_steps": 2, "eval_every": 1, "train_batch_size": 75}
    quirks = {"greedy_share": 1.0}  # with more pictures than tokens, the original's random actions fail
    with pytest.raises(UserError, match="with carry_leftovers no update is ever made; expected at most 2"):
        length_of(build(tmp_path, carry_leftovers=True, **few), 2)
    run = train(build(tmp_path / "faithful", "faithful", **few, **quirks), quiet=True)
    assert read_json(run / "finished.json") == {"step": 2, "updates": 0, "epochs": 0}
    assert not series(run, "pruned/accuracy")
    assert (run / "last/config.json").is_file()
    run = train(build(tmp_path / "fixed", **few), quiet=True)
    assert read_json(run / "finished.json")["updates"] == 2


@pytest.mark.gpu
def test_presets_run_on_a_gpu(build: Build, finished: Finished, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for preset in ("fixed", "faithful"):
        run = train(build(tmp_path / preset, preset, device="cuda"), quiet=True)
        assert series(run, "train/loss") == pytest.approx(series(finished(preset), "train/loss"), rel=0.1)
        mixed = train(build(tmp_path / f"{preset} bf16", preset, device="cuda", amp="bf16"), quiet=True)
        assert series(mixed, "train/loss") == pytest.approx(series(run, "train/loss"), rel=0.3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler looks at everything
def test_a_compiled_network_trains_as_a_plain_one(build: Build, tmp_path: Path) -> None:
    # Compiled dropout draws other numbers than torch's own.
    runs = {
        how: train(build(tmp_path / how, compile=how == "compiled", dropout_rate=0.0), quiet=True)
        for how in ("compiled", "plain")
    }
    losses = {how: series(run, "train/loss") for how, run in runs.items()}
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)
