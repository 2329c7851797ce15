"""Ways to choose channels, compared on the tiny network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from channel_prune import compare
from channel_prune.cli import parse_compare
from channel_prune.config import Config
from channel_prune.job import example, full_network
from channel_prune.options import METHODS, CompareOptions
from prunelab import dist
from prunelab.errors import UserError
from prunelab.flops import count

OPTIONS = CompareOptions(methods=("fixed", "torch-pruning"), ratios=(0.5,), seeds=(0,), finetune_seconds=0.2)


@pytest.fixture(scope="module")
def setting(build: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    return build(tmp_path_factory.mktemp("compare"))


def test_every_method_has_its_way() -> None:
    assert {*compare.WAYS, "torch-pruning"} == set(METHODS)


@pytest.mark.tiny
def test_rows_are_kept_and_only_missing_ones_are_made(
    setting: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = compare.compare(setting, OPTIONS)
    assert [row["method"] for row in rows] == ["fixed", "torch-pruning"]
    for row in rows:
        assert all(0 <= row[figure] <= 1 for figure in compare.FIGURES)
        assert row["steps"] > 0
    ours, theirs = (row["MACs"] for row in rows)
    assert abs(ours - theirs) < 0.1  # of 16 channels at most, each is several percent
    monkeypatch.setattr(compare, "full_network", None)  # nothing is to be made
    assert compare.compare(setting, OPTIONS) == rows
    assert "torch-pruning" in capsys.readouterr().out


def test_table_has_means_over_seeds() -> None:
    row = {"ratio": 0.5, "method": "l1", "MACs": 0.4, "recalibrated": 0.6, "finetuned": 0.7}
    rows = [{**row, "seed": 0, "before": 0.2}, {**row, "seed": 1, "before": 0.4}]
    assert compare.means(rows)[0]["before"] == pytest.approx(0.3)
    table = compare.table(rows)
    assert table.texts() == [["0.5", "l1", "2", "40.00%", "30.00%", "60.00%", "70.00%"]]


def test_torch_pruning_costs_what_was_asked_for_and_leaves_sums_whole(setting: Config) -> None:
    device = dist.start("cpu")
    network, picture = full_network(setting).eval(), example(setting, device)
    dense = count(network, picture).macs
    small = compare.by_torch_pruning(network, picture, [picture.expand(4, -1, -1, -1)], 0.6).model
    assert abs(count(small, picture).macs / dense - 0.6) < 0.06
    changed = {
        name
        for name, module in small.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels < network.get_submodule(name).out_channels
    }
    assert changed
    assert all(name.endswith(".conv1") for name in changed)


def test_without_seconds_nothing_is_trained(setting: Config) -> None:
    assert compare.Opened(setting).finetune(full_network(setting), 0, 0) == 0


def test_unknown_method_and_impossible_ratio_are_refused() -> None:
    with pytest.raises(UserError, match=r"methods is 'l2'.*l1"):
        parse_compare(["--methods", "l2"])
    with pytest.raises(UserError, match=r"ratios is 1\.0"):
        replace(OPTIONS, ratios=(1.0,))


def test_command_line_and_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(["--net=resnet_v1", "--ratios", "0.3,0.5", "--seeds=4", "--methods=l1", "--dry-run"])
    assert "resnet_v1 on cifar10" in capsys.readouterr().out
    raw, options = parse_compare(["--ratios", "0.3,0.5", "--seeds=4"])
    assert (options.ratios, options.seeds) == ((0.3, 0.5), (4,))
    assert raw.typed["learner"] == "chn-pruned-rmt"


@pytest.mark.tiny
def test_statistics_of_the_full_network_are_there_before_they_are_measured_again(setting: Config) -> None:
    picture = example(setting, dist.start("cpu"))
    pictures = replace(setting.prune, nb_smpls=32, batch_size=16, seed=0)
    batches = compare.Opened(setting).data.sampling_batches(pictures)
    full = dict(full_network(setting).named_buffers())
    for way in ("fixed", "faithful"):
        prune = replace(setting.prune, prune_ratio=0.0, **compare.WAYS[way])
        small = compare.by_us(full_network(setting), picture, batches, prune)
        before, after = dict(small.model.named_buffers()), dict(small.recalibrated.named_buffers())
        assert all(before[name].equal(full[name]) for name in before if name.endswith("running_mean"))
        if way == "faithful":
            assert not all(after[name].equal(full[name]) for name in after if name.endswith("running_mean"))


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(setting: Config, tmp_path: Path) -> None:
    options = replace(OPTIONS, methods=("l1", "fixed"), finetune_seconds=0)
    runs = []
    for jobs in (1, 2):
        cfg = replace(setting, run=replace(setting.run, output=str(tmp_path / str(jobs))))
        rows = compare.compare(cfg, replace(options, jobs=jobs))
        for row in rows:
            del row["choosing_seconds"]
        runs.append(sorted(rows, key=lambda row: row["method"]))
    assert runs[0] == runs[1]
