"""Command lines become exactly the configuration that they mean, and prefixes stay what they were."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from expansionnet import cli
from expansionnet.config import Config, QuirkConfig, SwinConfig
from expansionnet.layout import run_folder, saves
from expansionnet.lowering import FAITHFUL, FIELDS, TOUR, lower, lower_test, lower_values
from expansionnet.options import (
    ConvertOptions,
    DemoOptions,
    EngineOptions,
    ExportOptions,
    GenerateOptions,
    TestOptions,
)
from prunelab.errors import UserError

from .commands import PROJECT, README_COMMANDS, Documented, changed, faithful, typed, words_of

pytestmark = pytest.mark.usefixtures("alone")

RAW, SAVES = "./github_ignore_material/raw_data/", "./github_ignore_material/saves/"
FEATURES = {"is_end_to_end": False, "features_path": f"{RAW}features.hdf5"}
PICTURES = {"is_end_to_end": True, "images_path": f"{RAW}MS_COCO_2014/", "partial_load": True}


def recipe(drop: float, **values: Any) -> dict[str, Any]:
    """What the commands of all phases say, with what differs."""
    names = ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other")
    common = {"seed": 775533, "optim_type": "radam", "sched_type": "custom_warmup_anneal"}
    common |= {"ddp_sync_port": 11317, "save_every_minutes": 60.0}
    return dict.fromkeys(names, drop) | common | values


PHASES: dict[str, dict[str, Any]] = {
    "phase2": recipe(0.3, warmup_iters=10000, lr=2e-4, anneal_coeff=0.8, anneal_every_epoch=2.0)
    | FEATURES
    | {"batch_size": 48, "num_epochs": 8, "print_every_iter": 11807},
    "phase3": recipe(0.3, warmup_iters=1, lr=3e-5, anneal_coeff=0.55, anneal_every_epoch=1.0)
    | PICTURES
    | {
        **{"batch_size": 16, "num_accum": 3, "num_epochs": 2, "print_every_iter": 15000},
        "backbone_save_path": f"{RAW}swin_large_patch4_window12_384_22k.pth",
        "body_save_path": f"{SAVES}phase2_checkpoint",
    },
    "phase5": recipe(0.1, warmup_iters=1, lr=1e-4, anneal_coeff=0.8, anneal_every_epoch=1.0)
    | FEATURES
    | {
        **{"batch_size": 24, "num_accum": 2, "num_epochs": 9, "print_every_iter": 4000},
        **{"partial_load": True, "body_save_path": f"{SAVES}phase3_checkpoint.pth", "reinforce": True},
        **{"eval_every_iter": 99999, "eval_beam_sizes": (5,)},
    },
    "phase6": recipe(0.1, warmup_iters=1, lr=2e-6, anneal_coeff=1.0, anneal_every_epoch=3.0)
    | PICTURES
    | {
        **{"batch_size": 24, "num_accum": 2, "num_epochs": 1, "print_every_iter": 15000},
        **{"reinforce": True, "eval_beam_sizes": (5,)},
        "backbone_save_path": f"{RAW}phase3_checkpoint",
        "body_save_path": f"{SAVES}phase5_checkpoint",
    },
}
"""What the commands of the four trainings change of the original's defaults."""


@pytest.mark.parametrize("phase", PHASES)
def test_commands_of_the_phases_become_exactly_their_configuration(phase: str) -> None:
    _, script, *words = words_of(README_COMMANDS[phase])
    assert script == "train.py"
    assert lower(cli.parse_train(words)) == faithful(**PHASES[phase])


def test_the_originals_defaults_hold_where_a_flag_is_not_typed() -> None:
    cfg = typed("--model_dim 512")
    expected: dict[str, Any] = {
        **{"model_dim": 512, "N_enc": 3, "N_dec": 3, "enc_drop": 0.1, "dec_drop": 0.1, "enc_input_drop": 0.1},
        **{"dec_input_drop": 0.1, "drop_other": 0.1, "optim_type": "adam", "lr": 2e-4, "min_lr": 5e-7},
        **{"warmup_iters": 4000, "anneal_coeff": 0.8, "anneal_every_epoch": 3.0, "batch_size": 64},
        **{
            "num_accum": 1,
            "num_gpus": 1,
            "ddp_sync_port": 12354,
            "save_path": SAVES,
            "save_every_minutes": 25,
        },
        **{"how_many_checkpoints": 1, "print_every_iter": 1000, "eval_every_iter": 999999},
        **{"eval_parallel_batch_size": 16, "eval_beam_sizes": [3], "reinforce": False, "scst_max_len": 20},
        **{"num_epochs": 5, "captions_path": RAW, "partial_load": False, "backbone_save_path": ""},
        **{"body_save_path": "", "is_end_to_end": True, "images_path": RAW, "features_path": RAW},
        **{"preproc_images_hdf5_filepath": None, "seed": 1234},
        **{"ff": 2048, "num_heads": 8, "num_exp_enc_list": [32, 64, 128, 256, 512], "num_exp_dec": 16},
        **{
            "img_feature_dim": 1536,
            "num_samples": 5,
            "dict_min_occurrences": 5,
            "limited_num_val_images": 5000,
        },
        **{
            "label_smoothing": 0.1,
            "baseline": "average",
            "end_in_reward": True,
            "sched_type": "custom_warmup_anneal",
        },
    }
    values = FIELDS.values(cfg)
    assert {name: values[name] for name in expected} == expected
    assert cli.ORIGINAL.keys() <= expected.keys()
    assert cfg.model.swin == SwinConfig()
    assert cfg.run.preset == "faithful"
    assert cfg.quirks == QuirkConfig.of("faithful")
    assert {name: values[name] for name in FAITHFUL} == FAITHFUL


def test_nothing_typed_is_the_tour_and_resume_alone_resumes_it() -> None:
    tour, resumed = typed(""), typed("--resume")
    assert tour.run.tour
    assert tour.run.preset == "fixed"
    assert tour.quirks == QuirkConfig.of("fixed")
    assert tour.data.dataset == TOUR["dataset"] == "tiny"
    assert resumed == changed(tour, resume=True)
    assert typed("--tour") == tour
    words = "--tour --seed 3 --output x --device cpu --max-steps 4 --preset faithful --dry-run"
    expected = changed(lower_values({**TOUR, "preset": "faithful"}), seed=3, output="x", device="cpu")
    assert typed(words) == changed(expected, max_steps=4, dry_run=True)
    with pytest.raises(UserError, match="--tour does not go with --batch_size"):
        typed("--tour --batch_size 3")


def test_any_other_argument_means_the_papers_defaults() -> None:
    for words in ("--seed 1234", "--print-config", "--device auto"):
        assert typed(words) == faithful()
    assert typed("--output x").run.output == "x"


def test_preset_fixed_switches_every_quirk_off_and_a_quirk_of_its_own_wins() -> None:
    assert typed("--preset fixed") == Config()
    assert typed("--preset fixed --black-pictures yes") == changed(Config(), black_pictures=True)
    one = typed("--scoring rescored --sample-mode eval --first-step-alone f")
    assert one == faithful(sample_mode="eval", scoring="rescored", first_step_alone=False)
    assert all(vars(QuirkConfig.of("faithful")).values())
    assert not any(vars(QuirkConfig.of("fixed")).values())


@pytest.mark.parametrize("word", ["True", "yes", "T", "y", "1", "False", "no", "F", "N", "0"])
def test_truth_values_are_words(word: str) -> None:
    expected = word.lower() in ("true", "yes", "t", "y", "1")
    assert typed(f"--reinforce {word}").scst.reinforce is expected
    simple = cli.parse_convert2onnx(["--onnx_simplify", word])
    assert simple.onnx_simplify is expected


@pytest.mark.parametrize(
    ("word", "sizes"), [("[3]", (3,)), ("[3,5]", (3, 5)), ("[3, 5]", (3, 5)), ("4", (4,))]
)
def test_beams_are_lists_in_brackets(word: str, sizes: tuple[int, ...]) -> None:
    assert lower(cli.parse_train(["--eval_beam_sizes", word])).decode.eval_beam_sizes == sizes


# --- prefixes ---

PREFIXES: list[tuple[Callable[[list[str]], Any], dict[str, str]]] = [
    (
        cli.parse_train,
        {
            **dict.fromkeys(("model_dim", "N_enc", "N_dec", "warmup_iters", "batch_size", "num_accum"), "8"),
            **dict.fromkeys(("num_gpus", "ddp_sync_port", "save_every_minutes", "how_many_checkpoints"), "1"),
            **dict.fromkeys(("print_every_iter", "eval_every_iter", "eval_parallel_batch_size"), "3"),
            **dict.fromkeys(("scst_max_len", "num_epochs", "seed"), "3"),
            **dict.fromkeys(
                ("enc_drop", "dec_drop", "enc_input_drop", "dec_input_drop", "drop_other"), "0.2"
            ),
            **dict.fromkeys(("lr", "min_lr", "anneal_coeff", "anneal_every_epoch"), "0.5"),
            **dict.fromkeys(("reinforce", "partial_load", "is_end_to_end"), "True"),
            **dict.fromkeys(("save_path", "captions_path", "backbone_save_path", "body_save_path"), "x"),
            **dict.fromkeys(("images_path", "preproc_images_hdf5_filepath", "features_path"), "x"),
            **{"optim_type": "adam", "sched_type": "annealing", "eval_beam_sizes": "[3]"},
        },
    ),
    (
        cli.parse_test,
        {
            **dict.fromkeys(("model_dim", "N_enc", "N_dec", "num_gpus", "eval_parallel_batch_size"), "1"),
            **dict.fromkeys(("show_predictions", "is_end_to_end", "is_ensemble"), "True"),
            **dict.fromkeys(("save_model_path", "images_path", "features_path", "captions_path"), "x"),
            **{"ddp_sync_port": "3", "eval_beam_sizes": "[5]", "preproc_images_hdf5_filepath": "x"},
        },
    ),
    (
        cli.parse_demo,
        {
            **dict.fromkeys(("model_dim", "N_enc", "N_dec", "max_seq_len", "beam_size"), "2"),
            **{"device": "cpu", "load_path": "x", "image_paths": "x"},
        },
    ),
    (
        cli.parse_data_generator,
        {
            **dict.fromkeys(("save_model_path", "output_path", "images_path", "captions_path"), "x"),
            "dtype": "fp16",
        },
    ),
    (
        cli.parse_convert2onnx,
        {
            **dict.fromkeys(("model_dim", "N_enc", "N_dec", "max_seq_len", "max_worker_size"), "1"),
            **dict.fromkeys(("vocab_path", "image_path_1", "image_path_2", "load_model_path"), "x"),
            **dict.fromkeys(("onnx_simplify", "onnx_runtime_test", "onnx_tensorrt_test"), "True"),
            **{"output_onnx_path": "x", "onnx_opset": "18"},
        },
    ),
    (cli.parse_onnx2tensorrt, {"onnx_path": "x", "engine_path": "x", "data_type": "fp16"}),
]
"""The original's flags of each program, with a value to type."""


@pytest.mark.parametrize(("parse", "known"), PREFIXES, ids=lambda case: getattr(case, "__name__", ""))
def test_every_prefix_resolves_to_the_flag_that_it_did(
    parse: Callable[[list[str]], Any], known: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = argparse.ArgumentParser(exit_on_error=False)
    for name in known:
        plain.add_argument(f"--{name}")
    seen: list[dict[str, Any]] = []
    read = cli.Parser.parse_args

    def parse_args(self: cli.Parser, *arguments: Any) -> Any:
        seen.append({k: v for k, v in vars(read(self, *arguments)).items() if k != "files"})
        raise InterruptedError

    monkeypatch.setattr(cli.Parser, "parse_args", parse_args)
    tried = 0
    for name, value in known.items():
        for length in range(1, len(name) + 1):
            prefix = name[:length]
            fits = sum(other.startswith(prefix) for other in {*known, "help"})
            if prefix == "model" and parse in (cli.parse_test, cli.parse_demo):
                continue  # ours in full, and the original's long flag where a number is given: tested below
            if prefix not in known and fits > 1:
                continue  # ambiguous there
            assert getattr(plain.parse_args([f"--{prefix}", value]), name) == value
            with pytest.raises(InterruptedError):
                parse([f"--{prefix}", value])
            assert seen.pop().keys() == {name}, prefix
            tried += 1
    assert tried > 3 * len(known)


def test_model_in_full_is_ours_and_the_originals_long_flag_where_a_number_is_given() -> None:
    for parse in (cli.parse_test, cli.parse_demo):
        assert parse(["--model", "256"]) == parse(["--model_dim", "256"]) == parse(["--model_d", "256"])
    assert cli.parse_test(["--model", "runs/a"]).save_model_path == "runs/a"
    assert cli.parse_demo(["--model", "runs/a"]).load_path == "runs/a"
    assert typed("--model 256").model.model_dim == 256


def test_our_own_flags_match_in_full_only() -> None:
    for words in ("--max-st 3", "--devic cpu", "--dry", "--tou", "--pres fixed", "--outp x"):
        with pytest.raises(UserError, match="unknown flag"):
            typed(words)


def test_there_is_a_flag_for_every_field() -> None:
    known = {*cli.ORIGINAL, *cli.OWN, *cli.MODEL}
    assert known == FIELDS.group_of.keys() - {"swin"}
    assert {name.removeprefix("swin_") for name in cli.BACKBONE} == {f.name for f in fields(SwinConfig)}
    for name, flag in cli.OWN.items():
        assert name not in cli.ORIGINAL, flag


def test_sizes_of_the_backbone_are_flags_and_decide_the_width_of_tokens() -> None:
    cfg = typed("--swin-embed-dim 24 --swin-depths [2,2] --swin-num-heads [2,4] --swin-img-size 64")
    assert cfg.model.swin == SwinConfig(embed_dim=24, depths=(2, 2), num_heads=(2, 4), img_size=64)
    assert cfg.model.img_feature_dim == 48
    small = typed("--model-size testing --num-exp-dec 3")
    assert (small.model.num_exp_dec, small.model.model_dim, small.model.img_feature_dim) == (3, 32, 32)
    made = cli.parse_data_generator(words_of("--model-size testing --swin-window-size 2"))
    assert (made.swin.img_size, made.swin.window_size, made.swin.width) == (32, 2, 32)


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lern_rate 3", "unknown flag --lern_rate"),
        ("--warmup_itres 3", "did you mean --warmup_iters"),
        (
            "--sched_type fixed",
            "--sched_type: 'fixed' is not possible: expected one of: annealing, custom",
        ),
        ("--optim_type radm", "did you mean radam"),
        ("--reinforce maybe", "--reinforce: 'maybe' is neither True"),
        ("--eval_beam_sizes [3", "has one bracket only"),
        ("--eval_beam_sizes [a]", "is not a whole number"),
        ("--eval_beam_sizes []", "eval_beam_sizes is []"),
        ("--batch_size many", "--batch_size: invalid int value: 'many'"),
        ("--batch_size 0", "batch_size is 0, expected at least 1"),
        ("--enc_drop 1.5", "enc_drop is 1.5"),
        ("--model_dim 30", "expected a multiple of num_heads"),
        ("--device gpu", "device is 'gpu'"),
        ("--max-steps 0", "max_steps is 0"),
        ("--swin-img-size 50", "img_size is 50, expected a multiple of 32"),
        ("--scoring rescored", "sample_mode is train, expected eval"),
        ("--is_end_to_end False --body_save_path x", "partial_load is False, expected --partial_load True"),
        ("--is_end_to_end False --partial_load True", "body_save_path is empty, expected a checkpoint"),
        ("--is_end_to_end False --backbone_save_path x", "backbone_save_path is x, expected none"),
        ("--num_gpus 0", "num_gpus is 0"),
        ("--ddp_sync_port 70000", "ddp_sync_port is 70000"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_them(words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        typed(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (cli.parse_test, "--splits train", "splits is 'train', expected one of val, test"),
        (cli.parse_test, "--metrics BLUE", "metrics"),
        (cli.parse_test, "--model x --max-steps 0", "max_steps is 0"),
        (cli.parse_demo, "a.jpg --beam_size 0", "beam_size is 0"),
        (cli.parse_data_generator, "--dtype fp8", "dtype"),
        (cli.parse_data_generator, "--batch-size 0", "batch_size is 0"),
        (cli.parse_data_generator, "--swin-depths [2]", "1 stages and num_heads 4"),
        (cli.parse_convert, "a", "DST"),
        (cli.parse_export, "a --format tensorflow", "format"),
        (cli.parse_convert2onnx, "--onnx_opset 3", "onnx_opset is 3"),
        (cli.parse_convert2onnx, "--onnx_simplify perhaps", "neither True"),
        (cli.parse_onnx2tensorrt, "--data_type int8", "data_type"),
    ],
)
def test_mistakes_of_other_commands_are_one_line(
    parse: Callable[[list[str]], Any], words: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- other commands ---


def test_the_evaluation_of_the_readme_keeps_the_originals_quirks_and_ours_does_not() -> None:
    _, _, *words = words_of(README_COMMANDS["test"])
    options = cli.parse_test(words)
    assert options == TestOptions(
        save_model_path=f"{SAVES}phase6_checkpoint",
        original=True,
        typed={
            **{"N_enc": 3, "N_dec": 3, "model_dim": 512, "num_gpus": 1, "eval_beam_sizes": (5,)},
            **{"is_end_to_end": True, "eval_parallel_batch_size": 4, "images_path": f"{RAW}MS_COCO_2014/"},
        },
    )
    expected = {"eval_beam_sizes": (5,), "eval_parallel_batch_size": 4, "images_path": f"{RAW}MS_COCO_2014/"}
    assert lower_test(options) == faithful(**expected)
    assert lower_test(cli.parse_test(["--model", "x"])) == Config()
    assert lower_test(cli.parse_test(["--model", "x", "--preset", "faithful"])) == faithful()


def test_a_test_takes_the_configuration_of_its_run_and_puts_over_it_what_was_typed() -> None:
    base = faithful(seed=9, output="there", features_path="f", is_end_to_end=False, max_steps=3, resume=True)
    left = changed(base, output="", max_steps=None, resume=False)
    assert lower_test(cli.parse_test([]), base) == left
    words = "--save_model_path x --features_path g --N_enc 2 --swin-window-size 3 --suppress-unk true"
    found = lower_test(cli.parse_test(words.split()), base)
    assert found.model.swin.window_size == 3
    assert changed(found, swin=SwinConfig()) == changed(left, features_path="g", N_enc=2, suppress_unk=True)
    fixed = lower_test(cli.parse_test(["--preset", "fixed"]), base)
    assert fixed.quirks == QuirkConfig.of("fixed")
    assert fixed.data.features_path == "f"


def test_the_demonstration_of_the_readme_names_model_and_pictures() -> None:
    _, _, *words = words_of(README_COMMANDS["demo"])
    files = ("your_image_path/image_1", "your_image_path/image_2")
    assert cli.parse_demo(words) == DemoOptions(load_path="your_download_folder/rf_model.pth", files=files)
    short = cli.parse_demo(words_of("a.jpg b.jpg --model x --beam-size 3 --json - --N_enc 2 --num-heads 4"))
    typed_sizes = {"N_enc": 2, "num_heads": 4}
    expected = DemoOptions(files=("a.jpg", "b.jpg"), load_path="x", beam_size=3, json="-", typed=typed_sizes)
    assert short == expected
    assert cli.parse_demo(words_of("--image_paths a --max_seq_len 20")).typed == {"max_seq_len": 20}


@pytest.mark.parametrize(
    ("phase", "weights"),
    [("phase1", f"{RAW}swin_large_patch4_window12_384_22k.pth"), ("phase4", f"{SAVES}phase3_checkpoint")],
)
def test_feature_generation_of_the_readme(phase: str, weights: str) -> None:
    _, _, *words = words_of(README_COMMANDS[phase])
    expected = {"output_path": f"{RAW}features.hdf5", "images_path": f"{RAW}MS_COCO_2014/"}
    assert cli.parse_data_generator(words) == GenerateOptions(
        save_model_path=weights, captions_path=RAW, **expected
    )
    half = cli.parse_data_generator([*words, "--dtype", "fp16"])
    assert half == GenerateOptions(save_model_path=weights, dtype="fp16", captions_path=RAW, **expected)


def test_conversions_of_the_readme_and_ours() -> None:
    _, _, *words = words_of(README_COMMANDS["convert2onnx"])
    expected = ExportOptions(model="my.pth", output="./rf_model.onnx", onnx_simplify=True)
    assert cli.parse_convert2onnx(words) == expected
    more = "--image_path_1 a --image_path_2 b --vocab_path v --max_seq_len 60 --onnx_runtime_test false"
    found = cli.parse_convert2onnx([*words, *words_of(more), "--onnx_opset", "18"])
    assert (found.pictures, found.vocab_path, found.typed) == (("a", "b"), "v", {"max_seq_len": 60})
    _, _, *words = words_of(README_COMMANDS["onnx2tensorrt"])
    assert cli.parse_onnx2tensorrt(words) == EngineOptions()
    assert cli.parse_export(["m", "--format", "original"]) == ExportOptions(model="m", format="original")
    assert cli.parse_export([]) == ExportOptions()
    sizes = cli.parse_convert(words_of("a b --vocab_path v --num-heads 4"))
    assert sizes == ConvertOptions(source="a", destination="b", vocab_path="v", typed={"num_heads": 4})
    assert cli.parse_convert(words_of("a b --vocab-path v --num-heads 4")) == sizes


def test_a_runs_folder_is_output_or_that_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(SAVES)
    kinds = {(False, False): "xe", (False, True): "rf"}
    kinds |= {(True, False): "end_to_end_xe", (True, True): "end_to_end_rf"}
    for (whole, reinforce), name in kinds.items():
        assert run_folder(faithful(is_end_to_end=whole, reinforce=reinforce)) == place / name
    assert run_folder(faithful(output="a")) == Path("a")
    assert (saves(faithful(output="a")), saves(faithful())) == (Path("a/saves"), place)
    assert saves(faithful(output="a", save_path="b/")) == Path("b")
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    assert run_folder(faithful()) == tmp_path / "runs/end_to_end_xe"
    place.mkdir(parents=True)
    assert run_folder(faithful()) == place / "end_to_end_xe"


# --- all of them ---

COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "train": cli.parse_train,
    "test": cli.parse_test,
    "demo": cli.parse_demo,
    "data-generator": cli.parse_data_generator,
    "convert": cli.parse_convert,
    "export": cli.parse_export,
    "convert2onnx": cli.parse_convert2onnx,
    "onnx2tensorrt": cli.parse_onnx2tensorrt,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_complete_and_begins_with_the_project(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command](["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"expansionnet {command}: ")
    assert "--dry-run" in shown
    assert not re.search(r"\n  --[a-z-]+( [A-Z]+)?\n  --", shown), "a flag without a text"
    if command == "train":
        for name in cli.ORIGINAL:
            assert f"--{name} " in shown
    with pytest.raises(SystemExit):
        COMMANDS[command](["--version"])
    assert capsys.readouterr().out.startswith("expansionnet ")


@pytest.mark.parametrize("name", README_COMMANDS)
def test_every_command_of_the_originals_readme_runs_dry(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, script, *rest = words_of(README_COMMANDS[name])
    assert Documented(monkeypatch).shim(PROJECT / script, rest)
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())
