"""Commands besides ``train``: what they are asked, and what every command says of itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest

from apt_vit import cli
from apt_vit.config import QuirkConfig
from apt_vit.lowering import lower, lower_infer, lower_test
from apt_vit.options import (
    EXPORT_FORMATS,
    CompareOptions,
    DemoOptions,
    ExportOptions,
    InferOptions,
    TestOptions,
)
from prunelab.errors import UserError

from .commands import changed, typed

pytestmark = pytest.mark.usefixtures("alone")


def test_a_test_of_a_model_keeps_what_its_run_says_but_for_what_is_typed() -> None:
    run = typed("--name mine --resume --max-steps 3 --clip-layers 1,3 --num-layers 6")
    same = lower_test(cli.parse_test(["--model", "there"]), run)
    assert same == changed(run, resume=False, max_steps=None, pretrained_dir="there")
    other = lower_test(cli.parse_test(["--keep-rate=0.7", "--preset=fixed", "--eval_batch_size=5"]), run)
    assert (other.prune.keep_rate, other.data.eval_batch_size) == (0.7, 5)
    assert other.model == run.model
    assert other.quirks == QuirkConfig()
    alone_ = lower_test(cli.parse_test(["--dataset", "tiny"]))
    assert (alone_.run.preset, alone_.model.model_type) == ("fixed", "tiny")


def test_a_threshold_takes_the_place_of_the_share_that_a_run_keeps() -> None:
    run = typed("--name mine --keep-rate 0.7")
    asked = lower_test(cli.parse_test(["--threshold", "0.3"]), run).prune
    assert (asked.threshold, asked.keep_rate) == (0.3, None)
    both = lower_infer(cli.parse_infer(["--threshold", "0.3", "--keep-rate", "0.5"]), run).prune
    assert (both.threshold, both.keep_rate) == (0.3, 0.5)
    assert lower_test(cli.parse_test([]), run).prune.keep_rate == 0.7


def test_options_of_the_other_commands_are_what_was_typed() -> None:
    demo = cli.parse_demo(["a.png", "pets", "--model=m", "--top=2", "--keep-rate=0.5", "--clip-layers=1"])
    assert (demo.files, demo.model, demo.top, demo.keep_rate) == (("a.png", "pets"), "m", 2, 0.5)
    assert demo.typed == {"clip_layers": (1,)}
    convert = cli.parse_convert(
        ["a.npz", "out", "--model_type=ViT-B_32", "--img_size=384", "--preset=faithful"]
    )
    assert (convert.source, convert.destination) == ("a.npz", "out")
    assert convert.typed == {"model_type": "ViT-B_32", "img_size": (384, 384), "preset": "faithful"}
    export = cli.parse_export(["m", "--format=original", "--output=x.bin"])
    assert (export.model, export.format, export.output) == ("m", "original", "x.bin")
    raw, options = cli.parse_compare(["--rows=plain,fixed", "--seeds=1,2", "--num_steps=9", "--jobs=2"])
    assert (options.rows, options.seeds, options.jobs) == (("plain", "fixed"), (1, 2), 2)
    assert lower(raw).optim.num_steps == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TestOptions(split="training"), "split is 'training'"),
        (lambda: TestOptions(max_steps=0), "max_steps is 0, expected at least 1"),
        (lambda: InferOptions(mode="drop"), "mode is 'drop'"),
        (lambda: InferOptions(layout="tight"), "layout is 'tight'"),
        (lambda: InferOptions(max_steps=0), "max_steps is 0, expected at least 1"),
        (lambda: DemoOptions(top=0), "top is 0, expected at least 1"),
        (lambda: DemoOptions(threshold=2.0), "threshold is 2.0, expected 0 to 1"),
        (lambda: ExportOptions(format="tflite"), "format is 'tflite'"),
        (lambda: ExportOptions(keep_rate=0.0), "keep_rate is 0.0, expected more than 0"),
        (lambda: CompareOptions(rows=("plane",)), "rows is 'plane'.*plain"),
        (lambda: CompareOptions(rates=(1.5,)), "rates is 1.5, expected 0 to 1"),
        (lambda: CompareOptions(jobs=0), "jobs is 0, expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


# --- help ---


@pytest.mark.parametrize("command", ["train", "test", "infer", "demo", "convert", "export", "compare"])
def test_help_names_every_flag_and_begins_with_the_project(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        getattr(cli, f"parse_{command}")(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert shown.startswith(f"apt-vit {command}: ")
    assert "--version" in shown
    if command == "train":
        for name in cli.ORIGINAL:
            assert f"--{name}" in shown
        for name in {**cli.OWN, **cli.SIZES}:
            assert f"--{name.replace('_', '-')}" in shown
    if command == "export":
        assert all(name in shown for name in EXPORT_FORMATS)
    if command == "infer":
        assert "--show-shapes" in shown
        assert "--tour" not in shown


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse_train(["--version"])
    assert capsys.readouterr().out == f"apt-vit {metadata.version('apt-vit')}\n"


def test_help_tells_the_defaults_of_both_presets_and_none_where_the_file_says_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {}
    for command in ("train", "demo", "infer"):
        with pytest.raises(SystemExit):
            getattr(cli, f"parse_{command}")(["--help"])
        shown[command] = " ".join(capsys.readouterr().out.split())
    assert "mirrored at random; the original does not. (faithful: False, fixed: True)" in shown["train"]
    assert "Height and width of pictures, in pixels. PruneLab's own flags" in shown["demo"]
    assert "--weight_decay X taken as the original does, and of no effect" in shown["infer"]


@pytest.mark.parametrize("words", ["--flip true", "--plain-loss 1", "--resume", "--momentum 0.5"])
def test_a_trained_network_is_not_asked_how_it_learns(words: str) -> None:
    for parse in (cli.parse_infer, cli.parse_test):
        with pytest.raises(UserError, match="unknown flag"):
            parse(words.split())
