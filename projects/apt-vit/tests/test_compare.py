"""Ways to prune tokens, compared by one recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apt_vit import compare
from apt_vit.cli import parse_compare
from apt_vit.compare import Part
from apt_vit.config import Config, QuirkConfig
from apt_vit.options import ROWS, CompareOptions
from prunelab.data.pictures import read_picture
from prunelab.errors import UserError

Build = Callable[..., Config]


def row(way: str, seed: int, **values: Any) -> dict[str, Any]:
    figures = {"accuracy": 0.5, "all tokens": 0.6, "MACs": 1e6, "of dense": 0.4, "images/s": 100.0}
    curve = [{"keep_rate": 0.9, "accuracy": 0.55, "of dense": 0.8}]
    return {"row": way, "seed": seed, **figures, "training seconds": 9.0, "curve": curve} | values


def test_rows_differ_in_pruning_alone(build: Build, tmp_path: Path) -> None:
    cfg = build(tmp_path)
    parts = {way: compare.configured(cfg, Part(row=way, seed=4)) for way in ROWS}
    for way, own in parts.items():
        assert own.data == cfg.data
        assert own.optim == cfg.optim
        assert own.run.seed == 4
        assert own.run.output == str(tmp_path / f"{way}-4")
        assert own.run.preset == "fixed"
        assert own.model.clip_layers == cfg.model.clip_layers
        assert own.quirks == QuirkConfig.of("faithful" if way == "faithful" else "fixed")
    rates = {way: own.prune.keep_rate for way, own in parts.items()}
    assert rates == {"plain": None, "faithful": None, "fixed": 0.7, "random": 0.7, "cls-attention": 0.7}
    methods = [own.prune.method for own in parts.values()]
    assert methods == ["plain", "agent", "agent", "random", "cls-attention"]
    assert parts["faithful"].prune.reward_dropout == "fresh"
    assert not parts["faithful"].model.normalise_agent_input
    half = replace(cfg, prune=replace(cfg.prune, keep_rate=0.5))
    assert compare.configured(half, Part(row="random", seed=0)).prune.keep_rate == 0.5


@pytest.mark.tiny
def test_rows_are_kept_and_only_missing_ones_are_trained(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = build(tmp_path, num_steps=2, max_steps=2, eval_every=2)
    options = CompareOptions(rows=("plain", "fixed", "random"), seeds=(1,), rates=(0.5,))
    rows = compare.compare(cfg, options)
    assert [each["row"] for each in rows] == ["plain", "fixed", "random"]
    for each in rows:
        assert 0 <= each["accuracy"] <= 1
        assert each["images/s"] > 0
        assert each["training seconds"] > 0
        assert [asked["keep_rate"] for asked in each["curve"]] == [0.5]
        assert each["curve"][0]["of dense"] < each["of dense"]
    plain, fixed, random = rows
    assert plain["of dense"] == 1
    assert plain["tokens"] == []
    assert fixed["tokens"] == random["tokens"] == [12.0, 8.0]
    # An agent costs D^2 + (N + 1) D, and the blocks are the same.
    assert random["of dense"] < fixed["of dense"] < random["of dense"] + 0.02
    means = json.loads((tmp_path / "means.json").read_text())
    assert [mean["row"] for mean in means] == ["plain", "fixed", "random"]
    assert read_picture(tmp_path / "ways.png").width > 500
    monkeypatch.setattr(compare, "train", None)  # nothing is to be trained
    monkeypatch.setattr(compare, "speed", None)
    assert compare.compare(cfg, options) == rows
    other = replace(cfg, optim=replace(cfg.optim, learning_rate=0.01))
    with pytest.raises(
        UserError, match=r"holds rows with learning_rate 0\.05, expected the same and not 0\.01"
    ):
        compare.compare(other, options)
    assert "fixed, seed 1: accuracy" in capsys.readouterr().out


def test_means_and_spread_are_over_seeds(build: Build, tmp_path: Path) -> None:
    rows = [row("fixed", 0, accuracy=0.5), row("plain", 0), row("fixed", 1, accuracy=0.6)]
    rows[0]["training seconds"] = None
    fixed, plain = compare.means(rows)
    assert (fixed["row"], fixed["seeds"], plain["seeds"]) == ("fixed", 2, 1)
    assert fixed["accuracy"] == pytest.approx(0.55)
    assert fixed["spread"] == pytest.approx(0.05)
    assert fixed["training seconds"] == 9
    points = compare.points(rows)
    assert [(point["row"], point["keep_rate"]) for point in points] == [
        ("fixed", None),
        ("fixed", 0.9),
        ("plain", None),
        ("plain", 0.9),
    ]
    assert points[0]["accuracy"] == pytest.approx(0.55)
    table = compare.table(rows, build(tmp_path))
    assert table.texts()[0] == ["fixed", "2", "55.00%", "5.00%", "60.00%", "1.00 M", "40.00%", "100", "9"]
    assert "6 updates of 12 pictures" in table.notes[0]


def test_next_to_nothing_typed_means_the_tours_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw, options = parse_compare(["--seeds", "3,4", "--rates", "0.5", "--jobs=2"])
    assert (options.seeds, options.rates, options.jobs) == ((3, 4), (0.5,), 2)
    assert compare.base_of(raw).data.dataset == "tiny"
    raw, _ = parse_compare(["--dataset", "cifar100", "--img_size", "32"])
    cfg = compare.base_of(raw)
    assert (cfg.model.num_classes, cfg.run.preset) == (100, "fixed")
    assert compare.folder_of(cfg) == Path("compare")
    compare.main(["--rows", "plain", "--dry-run"])
    assert "tiny on tiny: configuration is right" in capsys.readouterr().out
    compare.main(["--dataset", "cifar10", "--print-config"])
    assert "dataset: cifar10" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_row_and_an_impossible_rate_are_refused() -> None:
    with pytest.raises(UserError, match=r"rows is 'l1'.*cls-attention"):
        parse_compare(["--rows", "l1"])
    with pytest.raises(UserError, match=r"rates is 0\.0, expected"):
        parse_compare(["--rates", "0"])


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(build: Build, tmp_path: Path) -> None:
    options = CompareOptions(rows=("fixed", "cls-attention"), seeds=(0,), rates=())
    found = []
    for jobs in (1, 2):
        cfg = build(tmp_path / str(jobs), num_steps=2, eval_every=2)
        rows = compare.compare(cfg, replace(options, jobs=jobs))
        found.append(
            [(each["row"], each["accuracy"], each["MACs"]) for each in sorted(rows, key=lambda r: r["row"])]
        )
    assert found[0] == found[1]
