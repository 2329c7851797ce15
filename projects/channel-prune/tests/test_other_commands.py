"""The command lines of `test`, `prune`, `demo`, `convert` and `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from channel_prune import cli
from channel_prune.config import QuirkConfig
from channel_prune.lowering import lower_prune, lower_test, lower_values
from channel_prune.options import ExportOptions
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError

from .commands import base, changed, typed

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished tour in the folder of runs: configuration and model folders."""
    run = tmp_path / "runs/tour-001/pruned"
    for name in ("best", "slim"):
        (run / name).mkdir(parents=True)
        (run / name / "config.json").write_text("{}")
    cfg = changed(typed(""), tour=False, learner="chn-pruned-rmt", output=str(run))
    (run / "config.yaml").write_text(yaml_text(to_plain(cfg)))
    return run


def test_a_test_takes_the_configuration_of_the_run_that_holds_the_model(finished: Path) -> None:
    newest = lower_test(cli.parse_test([]))
    assert newest.net.weights == "runs/tour-001/pruned/slim"
    assert (newest.run.exec_mode, newest.run.preset) == ("eval", "fixed")
    assert Path(newest.run.output).resolve() == finished.resolve()
    named = lower_test(cli.parse_test(["--model", str(finished / "best"), "--batch_size_eval=7"]))
    other = {"weights": str(finished / "best"), "output": str(finished)}
    assert named == changed(newest, batch_size_eval=7, **other)
    faithful = lower_test(cli.parse_test(["--preset", "faithful"]))
    assert (faithful.quirks, faithful.prune.selection) == (QuirkConfig.of("faithful"), "ista")
    beside = lower_test(cli.parse_test(["--model", "runs/tour-001/pruned"]))
    assert beside.data == newest.data


def test_a_test_of_a_model_without_a_run_needs_its_network(tmp_path: Path) -> None:
    words = ["--model", "w.th", "--net", "resnet_v1", "--data-dir", "/d"]
    cfg = lower_test(cli.parse_test(words))
    assert cfg == lower_values(
        {"name": "resnet_v1", "data_dir": "/d", "weights": "w.th", "exec_mode": "eval"}
    )
    (tmp_path / "m").mkdir()
    content = {"config": {"net": {"name": "resnet_v2", "resnet_size": 32}, "dataset": "cifar10"}}
    (tmp_path / "m/config.json").write_text(json.dumps(content))
    folder = lower_test(cli.parse_test(["--model", "m"]))
    assert (folder.net.resnet_size, folder.data.dataset) == (32, "cifar10")
    (tmp_path / "m/config.json").write_text("{")
    with pytest.raises(UserError, match=r"m/config\.json"):
        lower_test(cli.parse_test(["--model", "m"]))
    program = ["--program", "resnet_at_cifar10_run", "--save_path=a/m.ckpt"]
    assert lower_test(cli.parse_test(program)) == changed(base("resnet_at_cifar10"), save_path="a/m.ckpt")


def test_pruning_a_model_takes_its_network_and_solves_exactly() -> None:
    words = ["--model", "w.th", "--net", "resnet_v1", "--cpr_prune_ratio", "0.3", "--output", "out"]
    cfg = lower_prune(cli.parse_prune(words))
    assert (cfg.run.learner, cfg.run.preset, cfg.prune.selection) == ("chn-pruned-rmt", "fixed", "lasso")
    assert (cfg.prune.prune_ratio, cfg.net.weights, cfg.run.output) == (0.3, "w.th", "out")
    assert lower_prune(cli.parse_prune(["--dry-run"])).run.dry_run


def test_without_a_run_one_line_says_how_to_make_one() -> None:
    for lowered, parse in ((lower_test, cli.parse_test), (lower_prune, cli.parse_prune)):
        with pytest.raises(UserError, match="runs holds no trained model: run `train` first"):
            lowered(parse([]))
    assert lower_test(cli.parse_test(["--dry-run"])).data.dataset == "tiny"


def test_other_commands_read_their_arguments() -> None:
    demo = cli.parse_demo(["a.jpg", "-top=3", "b", "--draw"])
    assert (demo.files, demo.top, demo.draw) == (("a.jpg", "b"), 3, True)
    assert cli.parse_demo([]).files == ()
    convert = cli.parse_convert(["a", "b", "--net", "resnet_v1", "--dry-run"])
    assert (convert.source, convert.destination, convert.net, convert.dry_run) == (
        "a",
        "b",
        "resnet_v1",
        True,
    )
    assert cli.parse_export(["m", "--format", "slim", "--round-to=8"]) == ExportOptions(
        model="m", format="slim", round_to=8
    )
    original = (
        "--model_dir=./models_cpr_eval --input_coll=images_final --enbl_fake_prune --fake_prune_ratio=.3"
    )
    assert cli.parse_export(original.split()) == ExportOptions(
        model="./models_cpr_eval", enbl_fake_prune=True, fake_prune_ratio=0.3
    )


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (cli.parse_demo, "a.jpg --top 0", "top is 0"),
        (cli.parse_demo, "a.jpg --threshold 2", "threshold is 2.0"),
        (cli.parse_convert, "a", "required: DST"),
        (
            cli.parse_export,
            "a --format tflite",
            "format is 'tflite', expected one of onnx, onnx-masked, slim, original",
        ),
        (cli.parse_export, "a --nb_repts -1", "nb_repts is -1"),
        (cli.parse_export, "a --round-to 0", "round_to is 0"),
        (cli.parse_export, "a --fake_prune_ratio 1", "fake_prune_ratio is 1.0"),
        (cli.parse_test, "--modle x", "did you mean --model"),
    ],
)
def test_mistakes_in_other_commands_are_one_line(parse: Any, words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
