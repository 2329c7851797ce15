"""Command lines become exactly the configuration that they mean, and prefixes stay what they were."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from acosp_seg import cli, layout
from acosp_seg.config import Config, QuirkConfig
from acosp_seg.lowering import (
    BASELINE,
    FIELDS,
    TOUR,
    Raw,
    lower,
    lower_cifar10,
    lower_file,
    lower_test,
    run_folder,
)
from acosp_seg.options import PREPARED
from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
ADE20K = lower_file(str(PROJECT / BASELINE))


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the original's commands are typed; and no folder but those of this machine's tests counts."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("PRUNELAB_RUNS", raising=False)
    monkeypatch.delenv("PRUNELAB_DATA", raising=False)


def changed(cfg: Config, **values: Any) -> Config:
    """A configuration with some fields set."""
    for name, value in values.items():
        group = FIELDS.group_of[name]
        cfg = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
    return cfg


ROWS: list[tuple[str, dict[str, Any]]] = [
    (f"--config {BASELINE}", {}),
    (f"--conf {BASELINE} epochs 3", {"epochs": 3}),
    ("epochs 3", {"epochs": 3}),
    (f"--config={BASELINE} TRAIN.base_lr 0.5 TEST.scales (0.5,1.0)", {"base_lr": 0.5, "scales": (0.5, 1.0)}),
    ("train_gpu [0] evaluate True", {"train_gpu": (0,), "evaluate": True}),
    ("save_path /tmp/x resume y.pth", {"output": "/tmp/x", "resume_from": "y.pth"}),
    ("rotate_min -5 rotate_max 5", {"rotate_min": -5.0, "rotate_max": 5.0}),
    (
        "sparsity 0.5 starting_epoch 0 ending_epoch 30 --seed 3",
        {"ending_epoch": 30, "sparsity": 0.5, "seed": 3},
    ),
    ("--output out --resume --max-steps 7", {"output": "out", "resume": True, "max_steps": 7}),
    ("--amp bf16 --compile --channels-last", {"amp": "bf16", "compile": True, "channels_last": True}),
    ("ending_epoch 9 sparsity 0.75 --slim-after-pruning", {"ending_epoch": 9, "sparsity": 0.75}),
]


@pytest.mark.parametrize(("words", "values"), ROWS, ids=[words for words, _ in ROWS])
def test_the_originals_command_lines_and_ours_become_their_configuration(
    words: str, values: dict[str, Any]
) -> None:
    if "--slim-after-pruning" in words:
        values = values | {"slim_after_pruning": True}
    assert lower(cli.parse_train(words.split())) == changed(ADE20K, **values)


def test_a_file_of_the_original_implies_what_it_does_not_say() -> None:
    assert ADE20K.quirks == QuirkConfig.of("faithful")
    assert (ADE20K.run.preset, ADE20K.run.original_files) == ("faithful", True)
    assert (ADE20K.data.dataset, ADE20K.model.pretrained) == ("ade20k", "/data/resnet50_v2.pth")
    own = lower(cli.parse_train(["data_root", "/pictures/mine"]))
    assert (own.data.dataset, own.model.pretrained) == ("folder", "")
    segnet = lower(cli.parse_train(["--config", "config/cityscapes/cityscapes_segnet.yaml"]))
    assert (segnet.model.layers, segnet.model.pretrained) == (None, "/data/vgg16-397923af.pth")
    fixed = lower(cli.parse_train(["--preset", "fixed", "epochs", "3"]))
    assert fixed.quirks == QuirkConfig()
    assert not fixed.run.original_files


def test_nothing_typed_is_the_tour_and_resume_alone_resumes_it() -> None:
    tour, resumed = lower(cli.parse_train([])), lower(cli.parse_train(["--resume"]))
    assert tour.run.tour
    assert tour.run.preset == "fixed"
    assert tour.quirks == QuirkConfig()
    assert tour.data.dataset == TOUR["dataset"] == "tiny"
    assert resumed == changed(tour, resume=True)
    assert lower(cli.parse_train(["--dry-run"])) == changed(tour, dry_run=True)
    assert lower(cli.parse_train(["--tour", "--seed", "3", "--output", "x"])) == changed(
        tour, seed=3, output="x"
    )
    assert lower(cli.parse_train(["--tour"])) == tour
    faithful = lower(cli.parse_train(["--tour", "--preset", "faithful"]))
    assert faithful.quirks == QuirkConfig.of("faithful")


def test_any_other_argument_means_the_papers_defaults() -> None:
    for words in (["--seed", "0"], ["--print-config"], ["--device", "auto"]):
        assert lower(cli.parse_train(words)) == ADE20K


def test_tour_refuses_what_would_make_it_another_run() -> None:
    for words, named in (
        (["--tour", "--amp", "bf16"], "--amp"),
        (["--tour", "--config", BASELINE], "--config"),
        (["--tour", "--slim-after-pruning"], "--slim-after-pruning"),
    ):
        with pytest.raises(UserError, match=f"--tour does not go with {named}"):
            lower(cli.parse_train(words))


def test_every_prefix_resolves_to_the_flag_that_it_did() -> None:
    plain = argparse.ArgumentParser(exit_on_error=False)
    plain.add_argument("--config")
    for length in range(1, len("config") + 1):
        prefix = f"--{'config'[:length]}"
        assert plain.parse_args([prefix, "x"]).config == "x"
        assert cli.parse_train([prefix, "x"]).config_file == "x"
        assert cli.parse_test([prefix, "x"]).config_file == "x"
        assert cli.parse_demo([prefix, "x", "--image", "*.png"]).config_file == "x"
    for length in range(1, len("image-dir") + 1):
        assert cli.parse_demo([f"--{'image-dir'[:length]}", "*.png"]).image_dir == "*.png"


def test_our_own_flags_match_in_full_only() -> None:
    for words in ("--max-st 3", "--dev cpu", "--dry", "--tou", "--pres fixed", "--resum", "--out x"):
        with pytest.raises(UserError, match="unknown flag"):
            cli.parse_train(words.split())


CIFAR: list[tuple[str, dict[str, Any]]] = [
    ("--save_dir /cifar10/a --sparsity 0.5", {"output": "/cifar10/a", "sparsity": 0.5}),
    ("--sparsity=0.5 --save-dir=x", {"output": "x", "sparsity": 0.5}),
    (
        "x 1 0.02 64 5 0.75 2",
        {"output": "x", "base_lr": 0.02, "batch_size": 64, "epochs": 5, "sparsity": 0.75, "ending_epoch": 2}
        | {"train_gpu": (1,)},
    ),
    ("x --pruner_ending_epoch 20 --lr 0.1", {"output": "x", "ending_epoch": 20, "base_lr": 0.1}),
    ("--output x --resume --seed 4", {"output": "x", "resume": True, "seed": 4}),
    ("x --fake-data --max-steps 2", {"output": "x", "fake_data": True, "max_steps": 2}),
]


@pytest.mark.parametrize(("words", "values"), CIFAR, ids=[words for words, _ in CIFAR])
def test_flags_of_the_classifiers_program_in_any_order_and_without_names(
    words: str, values: dict[str, Any]
) -> None:
    assert lower_cifar10(cli.parse_train_cifar10(words.split())) == changed(lower_cifar10(Raw()), **values)


def test_mistakes_in_the_classifiers_flags_are_one_line() -> None:
    for words, message in (
        ("x --save_dir y", "save_dir is given twice"),
        ("x 0 fast", "lr is 'fast', expected a number"),
        ("x 0 0.1 1 1 0.5 1 9", "unexpected argument '9'"),
        ("--sparcity 0.5", "did you mean --sparsity"),
    ):
        with pytest.raises(UserError) as caught:
            cli.parse_train_cifar10(words.split())
        assert message in str(caught.value)
    fixed = lower_cifar10(cli.parse_train_cifar10(["x", "--preset", "fixed", "--sparsity", "0.5"]))
    assert fixed.quirks == QuirkConfig()
    with pytest.raises(UserError, match="ending_epoch is 0"):
        lower_cifar10(
            cli.parse_train_cifar10(
                ["x", "--preset", "fixed", "--sparsity", "0.5", "--pruner_ending_epoch", "0"]
            )
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning-rate 1", "unknown flag --learning-rate"),
        ("--amp fp16", "did you mean bf16"),
        ("--max-steps many", "invalid int value: 'many'"),
        ("--max-steps 0", "max_steps is 0, expected at least 1"),
        ("--device gpu", "device is 'gpu'"),
        ("epochs", "'epochs' has no value"),
        ("nokey 1", "no key 'nokey'"),
        ("epochs 3.0", "epochs '3.0': expected a whole number"),
        ("train_h 480", "nearest are 473 and 481"),
        ("--config nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_them(words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        lower(cli.parse_train(words.split()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in the folder of runs: its configuration and a model folder."""
    run = tmp_path / "runs/tour-001/pruned"
    (run / "best").mkdir(parents=True)
    (run.parent / "compact").mkdir()
    (run / "best/config.json").write_text("{}")
    cfg = changed(lower(Raw()), preset="fixed", tour=False)
    (run / "config.yaml").write_text(yaml_text(to_plain(cfg)))
    monkeypatch.chdir(tmp_path)
    return run


def test_a_test_takes_the_configuration_of_the_run_that_holds_the_model(finished: Path) -> None:
    newest, named = lower_test(cli.parse_test([])), lower_test(cli.parse_test(["--model", str(finished)]))
    assert newest.test.model_path == "runs/tour-001/pruned/best"
    assert newest.data == named.data
    assert newest.run.preset == "fixed"
    assert Path(newest.test.save_folder).resolve() == finished.resolve() / "result"
    assert Path(newest.test.result_path).name == "results.csv"
    assert named.test.model_path == str(finished)
    for place in ("runs/tour-001", "runs/tour-001/compact", "runs/tour-001/pruned/best"):
        assert lower_test(cli.parse_test(["--model", place])).data == newest.data
    other = lower_test(
        cli.parse_test(["--output", "here", "scales", "[0.5,1.0]", "--model", "runs/tour-001/pruned/best"])
    )
    assert (other.test.save_folder, other.test.result_path) == ("here", "here/results.csv")
    assert other.test.scales == (0.5, 1.0)


def test_a_test_of_a_configuration_takes_its_model_or_the_one_that_is_named(tmp_path: Path) -> None:
    assert lower_test(cli.parse_test(["--config", BASELINE])) == ADE20K
    named = lower_test(cli.parse_test(["--config", BASELINE, "--model", "x.pth", "split", "test"]))
    assert named == changed(ADE20K, model_path="x.pth", split="test")
    (tmp_path / "alone").mkdir()
    with pytest.raises(UserError, match="expected a model in a run's folder, or --config FILE"):
        lower_test(cli.parse_test(["--model", str(tmp_path / "alone")]))


def test_without_a_run_one_line_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="runs holds no trained model: run `train` first"):
        lower_test(cli.parse_test([]))
    assert lower_test(cli.parse_test(["--dry-run"])).data.dataset == "tiny"


def test_paths_of_the_originals_machine_lead_to_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layout.resolve("/data/ade20k/list") == Path("/data/ade20k/list")
    assert layout.resolve("list/train.txt") == Path("list/train.txt")
    assert layout.resolve("/semseg/data/camvid/camvid_names.txt") == Path("data/camvid/camvid_names.txt")
    assert layout.resolve("/nowhere/else") == Path("/nowhere/else")
    assert layout.resolve("/checkpoints/pspnet50.pth") == Path("runs/checkpoints/pspnet50.pth")
    monkeypatch.setenv("PRUNELAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    assert layout.resolve("/data/ade20k/list") == tmp_path / "data/ade20k/list"
    assert layout.resolve("/semseg/exp/cityscapes/a") == tmp_path / "runs/cityscapes/a"
    assert layout.resolve("/cifar10/a") == tmp_path / "runs/cifar10/a"
    assert layout.resolve(tmp_path) == tmp_path
    assert run_folder(ADE20K) == tmp_path / "runs/ade20k/pspnet50/model"
    assert run_folder(changed(ADE20K, output="")) == tmp_path / "runs/ade20k/psp/model"
    assert run_folder(changed(ADE20K, output="", ending_epoch=9, sparsity=0.5)).parent.name == "psp_0.5"
    monkeypatch.setattr(layout, "RUN_ROOTS", (str(tmp_path),))
    monkeypatch.delenv("PRUNELAB_RUNS")
    assert layout.resolve(tmp_path / "b") == tmp_path / "b"


def test_a_configuration_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lower(cli.parse_train(["--config", BASELINE])) == ADE20K


def test_help_names_every_flag_and_key_and_begins_with_the_project(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for parse, command in (
        (cli.parse_train, "train"),
        (cli.parse_test, "test"),
        (cli.parse_demo, "demo"),
        (cli.parse_prepare, "prepare"),
        (cli.parse_convert, "convert"),
        (cli.parse_export, "export"),
        (cli.parse_train_cifar10, "train_cifar10"),
        (cli.parse_convert_cityscapes, "convert_cityscapes"),
        (cli.parse_create_study, "create_study"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(["--help"])
        shown = capsys.readouterr().out
        assert stop.value.code == 0
        assert shown.startswith(f"acosp-seg {command}: ")
        assert "--version" in shown
        if command in ("train", "test"):
            for name in FIELDS.group_of:
                assert name in shown
        if command == "train_cifar10":
            for name in cli.CIFAR10_ORDER:
                assert f"--{name}" in shown


def test_version_needs_no_installed_metadata(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        cli.parse_train(["--version"])
    assert capsys.readouterr().out == f"acosp-seg {metadata.version('acosp-seg')}\n"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SystemExit):
        cli.parse_demo(["--version"])
    assert capsys.readouterr().out == "acosp-seg unknown\n"


def test_other_commands_read_their_arguments() -> None:
    assert cli.parse_demo(["a.jpg", "b", "--opacity", "0.7"]).files == ("a.jpg", "b")
    original = cli.parse_demo(["--config", "c.yaml", "--image-dir", "*.png", "scales", "[1.0]"])
    assert (original.config_file, original.image_dir) == ("c.yaml", "*.png")
    assert (original.overrides, original.files) == (("scales", "[1.0]"), ())
    assert cli.parse_prepare(["camvid", "--check", "--limit", "5"]).limit == 5
    assert "folder" in PREPARED
    typed = cli.parse_prepare(["camvid", "CamVid", "--output", "out"])
    assert typed == cli.parse_prepare(["camvid", "CamVid", "out"])
    assert typed == cli.parse_prepare(["camvid", "--source", "CamVid", "--output", "out"])
    assert cli.parse_convert(["a", "b", "--config", "c"]).config_file == "c"
    assert cli.parse_export(["a", "--format", "onnx", "--height", "97"]).height == 97
    words = "--input_dir a --output_dir b --to_19 false --img_postfix x.png"
    cityscapes = cli.parse_convert_cityscapes(words.split())
    assert (cityscapes.to_19, cityscapes.img_postfix) == (False, "x.png")
    assert cli.parse_convert_cityscapes(["--input", "a", "--output_d", "b"]).to_19
    assert cli.parse_create_study(["--name", "segnet_0_0"]).name == "segnet_0_0"


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (cli.parse_demo, "", "demo needs pictures"),
        (cli.parse_demo, "a.jpg --opacity 2", "opacity is 2.0"),
        (cli.parse_prepare, "camvit", "did you mean camvid"),
        (cli.parse_prepare, "folder --val-share 1", "val_share is 1.0"),
        (cli.parse_prepare, "folder --limit -2", "limit is -2"),
        (cli.parse_prepare, "folder --ignore-label 300", "ignore_label is 300"),
        (cli.parse_convert, "a", "required: DST"),
        (cli.parse_export, "a --format pickle", "'pickle' is not possible"),
        (cli.parse_export, "a --height -1", "height is -1"),
        (cli.parse_convert_cityscapes, "--input_dir a", "--output_dir"),
        (cli.parse_convert_cityscapes, "--input_dir a --output_dir b --to_19 maybe", "'maybe'"),
    ],
)
def test_mistakes_in_other_commands_are_one_line(parse: Any, words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(words.split())
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)
