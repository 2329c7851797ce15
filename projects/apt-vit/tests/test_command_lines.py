"""Command lines become exactly the configuration that they mean, prefixes of original flags included."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from apt_vit import cli
from apt_vit.config import QuirkConfig
from apt_vit.layout import checkpoint_file, log_folder, output_folder, run_folder
from apt_vit.lowering import FAITHFUL, FIELDS, TOUR, clip_layers_of, notes, preset_values
from apt_vit.options import MODES
from prunelab.config import to_plain
from prunelab.errors import UserError

from .commands import changed, inferred, typed

pytestmark = pytest.mark.usefixtures("alone")

# --- the original's flags ---

PUBLISHED: dict[str, Any] = {
    "dataset": "cifar10",
    "model_type": "ViT-B_16",
    "pretrained_dir": "checkpoint/ViT-B_16.npz",
    "output_dir": "output",
    "img_size": (224, 224),
    "train_batch_size": 72,
    "eval_batch_size": 32,
    "eval_every": 500,
    "learning_rate": 3e-2,
    "weight_decay": 0.0,
    "num_steps": 50000,
    "decay_type": "cosine",
    "warmup_steps": 500,
    "max_grad_norm": 1.0,
    "local_rank": -1,
    "seed": 42,
    "gradient_accumulation_steps": 3,
    "fp16": False,
    "fp16_opt_level": "O2",
    "loss_scale": 0.0,
}
"""The original's flags and their defaults; ``--name`` has none there."""
FIXED_IN_CODE = {"clip_layers": (2, 5, 8), "threshold": 0.5, "greedy_share": 0.5, "momentum": 0.9}
FIXED_IN_CODE |= {
    "num_workers": 4,
    "num_classes": 10,
    "log_dir": "logs",
    "zero_head": True,
    "crop_scale": 0.05,
}
"""What the original's programs do and have no flag for."""
README = (
    "--name cifar10-100_500 --dataset cifar100 --model_type ViT-B_16 --pretrained_dir checkpoint/ViT-B_16.npz"
)
"""The arguments of both commands of the original's README."""


def values(cfg: Any) -> dict[str, Any]:
    return {name: getattr(getattr(cfg, group), name) for name, group in FIELDS.group_of.items()}


def test_the_originals_defaults_hold_where_its_flags_are_typed() -> None:
    cfg = typed("--name apt")
    expected = PUBLISHED | FIXED_IN_CODE | {"preset": "faithful", "name": "apt"}
    assert {name: values(cfg)[name] for name in expected} == expected
    assert cfg.quirks == QuirkConfig.of("faithful")
    assert all(to_plain(cfg.quirks).values())
    plain = FIELDS.values(cfg)
    assert {name: plain[name] for name in FAITHFUL} == FAITHFUL
    assert cli.ORIGINAL.keys() == {"name", *PUBLISHED}


def test_the_command_of_the_readme_trains_as_the_original_does() -> None:
    named = {"name": "cifar10-100_500", "dataset": "cifar100", "num_classes": 100}
    assert typed(README) == changed(typed("--name apt"), **named)


def test_the_command_of_the_readme_infers_as_the_original_does() -> None:
    options, cfg = cli.parse_infer(README.split()), inferred(README)
    assert (options.mode, options.stream, options.model) == ("dropped", 1, "")
    assert cfg == changed(typed(README), eval_batch_size=1)
    assert checkpoint_file(cfg, 1) == Path("output/1_cifar10-100_500_checkpoint.bin")
    assert checkpoint_file(cfg, 0) == Path("output/0_cifar10-100_500_checkpoint.bin")
    assert cli.parse_infer(["--mode", "plain"]).stream == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "--img_size 384 --train_batch_size 36 --gradient_accumulation_steps 4",
            {"img_size": (384, 384), "train_batch_size": 36, "gradient_accumulation_steps": 4},
        ),
        (
            "--eval_every=100 --num_steps=2000 --warmup_steps 100 --decay_type linear",
            {"eval_every": 100, "num_steps": 2000, "warmup_steps": 100, "decay_type": "linear"},
        ),
        (
            "--learning_rate 1e-2 --weight_decay 1e-4 --max_grad_norm 5 --seed 7",
            {"learning_rate": 0.01, "weight_decay": 1e-4, "max_grad_norm": 5.0, "seed": 7},
        ),
        ("--fp16 --fp16_opt_level O1", {"fp16": True, "fp16_opt_level": "O1", "amp": "bf16"}),
        ("--fp16 --amp off", {"fp16": True}),
        ("--loss_scale 128 --local_rank 0", {"loss_scale": 128.0, "local_rank": 0}),
        ("--output_dir there --eval_batch_size 64", {"output_dir": "there", "eval_batch_size": 64}),
        ("--pretrained_dir none", {"pretrained_dir": ""}),
    ],
)
def test_each_flag_of_the_original_changes_its_field(words: str, expected: dict[str, Any]) -> None:
    assert typed(words) == changed(typed("--name apt"), **expected)


def original_parser() -> argparse.ArgumentParser:
    """The original's flags with the abbreviations that argparse gives them."""
    parser = argparse.ArgumentParser()
    for name in ("name", *PUBLISHED):
        parser.add_argument(f"--{name}", action="store_true" if name == "fp16" else "store")
    return parser


EXAMPLES = {"dataset": "cifar100", "model_type": "ViT-L_16", "decay_type": "linear", "fp16": None}
"""Values of flags that do not take any number."""


@pytest.mark.parametrize("program", ["train", "infer"])
def test_each_prefix_that_the_original_understood_still_means_the_same_flag(program: str) -> None:
    parser, seen = original_parser(), 0
    for name in ("name", *PUBLISHED):
        value = EXAMPLES.get(name, "3")
        more = [] if value is None else [value]
        for end in range(1, len(name) + 1):
            words = [f"--{name[:end]}", *more]
            try:
                parser.parse_args(words, argparse.Namespace())
            except (SystemExit, argparse.ArgumentError):
                continue  # the original found several flags, or took --h for --help
            seen += 1
            ours = (cli.parse_train if program == "train" else cli.parse_infer)(words).typed
            meant = "output" if words[0] == "--output" else name  # the exception; the next test
            assert list(ours) == [meant]
    assert seen > 150


def test_output_means_output_dir_too_and_is_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    cfg = typed("--name mine --output there")
    assert run_folder(cfg) == output_folder(cfg) == Path("there")
    assert checkpoint_file(cfg, 1) == Path("there/1_mine_checkpoint.bin")
    assert log_folder(cfg) == Path("there/logs/mine")
    assert checkpoint_file(inferred("--name mine --output there"), 1) == checkpoint_file(cfg, 1)
    both = typed("--name mine --output there --output_dir elsewhere --log-dir boards")
    assert run_folder(both) == Path("there")
    assert output_folder(both) == Path("elsewhere")
    assert log_folder(both) == Path("boards/mine")
    assert typed("--name mine --outp there").run.output_dir == "there"


def test_names_of_networks_behind_words_that_the_original_completed_are_model_types() -> None:
    for word in ("--model", "--mode"):
        assert cli.parse_infer([word, "ViT-L_32"]).typed == {"model_type": "ViT-L_32"}
    assert cli.parse_infer(["--model", "runs/ViT-L_32"]).model == "runs/ViT-L_32"
    assert {cli.parse_infer(["--mode", mode]).mode for mode in MODES} == set(MODES)


# --- ours ---

OWN: list[tuple[str, dict[str, Any]]] = [
    ("--seed 3 --max-steps 7 --save-every 9", {"seed": 3, "max_steps": 7, "save_every": 9}),
    ("--max_steps=7 --resume", {"max_steps": 7, "resume": True}),
    ("--amp bf16 --compile --channels-last", {"amp": "bf16", "compile": True, "channels_last": True}),
    ("--device cuda:1 --dry-run --keep-last 1", {"device": "cuda:1", "dry_run": True, "keep_last": 1}),
    ("--clip-layers 1,3", {"clip_layers": (1, 3)}),
    ("--clip-layers [4]", {"clip_layers": (4,)}),
    ("--clip-layers []", {"clip_layers": ()}),
    ("--clip-fractions 0.5", {"clip_layers": (5,)}),
    ("--threshold 0.3 --keep-rate 0.7", {"threshold": 0.3, "keep_rate": 0.7}),
    ("--keep-rate none --method plain", {"method": "plain"}),
    ("--method random --keep-rate .5", {"keep_rate": 0.5, "method": "random"}),
    ("--img_size 64,32", {"img_size": (64, 32)}),
    ("--reward-dropout off --plain-loss 1", {"reward_dropout": "off", "plain_loss": 1.0}),
    ("--keep-penalty 2 --keep-target 0.6", {"keep_penalty": 2.0, "keep_target": 0.6}),
    ("--agent-learning-rate 0.1 --momentum 0.8", {"agent_learning_rate": 0.1, "momentum": 0.8}),
    (
        "--data-dir there --checksum warn --download no",
        {"data_dir": "there", "checksum": "warn", "download": False},
    ),
    (
        "--flip true --validation-share 0.2 --num-workers 0",
        {"flip": True, "validation_share": 0.2, "num_workers": 0},
    ),
    (
        "--explore-within-batch false --joint-clipping no",
        {"explore_within_batch": False, "joint_clipping": False},
    ),
    ("--class-names cat,dog", {"class_names": ("cat", "dog"), "num_classes": 2}),
    ("--fake-data", {"fake_data": True, "pretrained_dir": ""}),
    ("--hidden-size 96 --num-heads 3", {"hidden_size": 96, "num_heads": 3, "pretrained_dir": ""}),
    ("--patch-size 8 --pretrained_dir w.npz", {"patch_size": (8, 8), "pretrained_dir": "w.npz"}),
    ("--patch-size 8,4", {"patch_size": (8, 4), "pretrained_dir": ""}),
]


@pytest.mark.parametrize(("words", "expected"), OWN)
def test_our_own_flags_change_their_field(words: str, expected: dict[str, Any]) -> None:
    assert typed(words) == changed(typed("--name apt"), **expected)


def test_every_field_has_a_flag_of_its_name() -> None:
    flags = {**cli.ORIGINAL, **cli.OWN, **cli.SIZES}
    stem = {f"resnet_{name}" for name in ("num_layers", "width_factor")}
    assert flags.keys() == {*FIELDS.group_of, *stem} - {"resnet"}
    assert len(flags) == len(cli.ORIGINAL) + len(cli.OWN) + len(cli.SIZES)


def test_a_stem_makes_a_hybrid_and_a_patch_size_a_plain_network() -> None:
    hybrid = typed("--patch-grid 14 --resnet-num-layers 1,1,1 --resnet-width-factor 0.5").model
    assert (hybrid.patch_size, hybrid.patch_grid) == (None, (14, 14))
    assert hybrid.resnet is not None
    assert (hybrid.resnet.num_layers, hybrid.resnet.width_factor) == ((1, 1, 1), 0.5)
    narrow = typed("--model_type R50-ViT-B_16 --resnet-width-factor 0.5").model
    assert narrow.resnet is not None
    assert (narrow.patch_grid, narrow.resnet.num_layers) == ((14, 14), (3, 4, 9))
    plain = typed("--model_type R50-ViT-B_16 --patch-size 16").model
    assert (plain.patch_size, plain.patch_grid, plain.resnet) == ((16, 16), None, None)


def test_a_part_of_the_name_of_a_flag_of_ours_is_no_flag() -> None:
    for words in ("--max-st 3", "--resum", "--clip 2", "--thresh 0.5", "--pres fixed"):
        with pytest.raises(UserError, match="unknown flag"):
            typed(words)


# --- presets ---


def test_the_fixed_preset_turns_everything_of_the_faithful_one_off() -> None:
    faithful, fixed = typed("--name apt"), typed("--name apt --preset fixed")
    assert fixed.quirks == QuirkConfig()
    assert not any(to_plain(fixed.quirks).values())
    faithful_values = {
        **FAITHFUL,
        "clip_layers": (2, 5, 8),
        "preset": "faithful",
        **to_plain(faithful.quirks),
    }
    assert changed(fixed, **faithful_values) == faithful
    differing = {name for name in FAITHFUL if FIELDS.values(fixed)[name] != FAITHFUL[name]}
    assert differing == FAITHFUL.keys() - {"clip_layers"}  # of 12 blocks these are the same


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (12, (2, 5, 8)),
        (24, (5, 11, 17)),
        (32, (7, 15, 23)),
        (6, (1, 2, 4)),
        (4, (0, 1, 2)),
        (2, (0,)),
        (1, (0,)),
    ],
)
def test_fixed_prunes_behind_quarters_of_the_depth(depth: int, expected: tuple[int, ...]) -> None:
    assert clip_layers_of((0.25, 0.5, 0.75), depth) == expected
    assert preset_values("fixed", num_layers=depth)["clip_layers"] == list(expected)
    assert preset_values("faithful", num_layers=depth)["clip_layers"] == [2, 5, 8]
    assert typed(f"--preset fixed --num-layers {depth}").model.clip_layers == expected


def test_blocks_beyond_the_depth_are_told_under_faithful_and_refused_under_fixed() -> None:
    cfg = typed("--num-layers 6")
    assert notes(cfg) == ["clip_layers is (2, 5, 8) and there are 6 blocks: the agents of 8 never run"]
    with pytest.raises(UserError, match=r"clip_layers is \(2, 8\), expected blocks 0 to 5: there are 6"):
        typed("--num-layers 6 --preset fixed --clip-layers 2,8")
    assert typed("--num-layers 6 --preset fixed --clip-layers 2,8 --method plain").model.clip_layers == (2, 8)


def test_pixels_beside_the_patches_are_told_under_faithful_and_refused_under_fixed() -> None:
    assert notes(typed("--img_size 230,228")) == [
        "img_size is (230, 228) and patches (16, 16): the last 6 rows and 4 columns of pixels are not used"
    ]
    with pytest.raises(UserError, match=r"img_size is \(230, 230\), expected multiples of the patch size"):
        typed("--img_size 230 --preset fixed")
    assert not notes(typed("--model_type R50-ViT-B_16 --img_size 225"))


def test_what_has_no_effect_here_is_told() -> None:
    assert notes(typed("--fp16 --loss_scale 128")) == [
        "fp16 means mixed precision in bfloat16 here",
        "loss_scale 128 has no effect: bfloat16 needs none",
    ]


# --- the tour ---


def test_nothing_typed_is_the_tour_and_resume_alone_resumes_it() -> None:
    tour = typed("")
    assert tour.run.tour
    assert tour.run.preset == "fixed"
    assert tour.quirks == QuirkConfig()
    assert {name: values(tour)[name] for name in TOUR} == TOUR
    assert (tour.model.img_size, tour.model.pretrained_dir) == ((32, 32), "")
    assert typed("--resume") == changed(tour, resume=True)
    assert typed("--dry-run") == changed(tour, dry_run=True)
    assert typed("--tour --seed 3 --output x") == changed(tour, seed=3, output="x")
    assert typed("--tour") == tour
    assert typed("--tour --preset faithful").quirks == QuirkConfig.of("faithful")


def test_any_other_argument_means_the_originals_defaults() -> None:
    for words in ("--seed 42", "--print-config", "--device auto"):
        assert typed(words) == typed("--name apt")


def test_the_tour_refuses_what_would_make_it_another_run() -> None:
    for words, named in (("--tour --amp bf16", "--amp"), ("--tour --model_type tiny", "--model_type")):
        with pytest.raises(UserError, match=f"--tour does not go with {named}"):
            typed(words)


# --- what follows from what ---


def test_weights_follow_the_network_where_none_are_typed(tmp_path: Path) -> None:
    expected = {
        "ViT-L_32": "checkpoint/ViT-L_32.npz",
        "R50-ViT-B_16": "checkpoint/R50+ViT-B_16.npz",
        "testing": "",
        "tiny": "",
    }
    found = {name: typed(f"--model_type {name}").model.pretrained_dir for name in expected}
    assert found == expected
    assert typed("--dataset tiny").model.model_type == "tiny"


def test_classes_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "train/.cache", "val/cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    assert typed(f"--dataset folder --data-dir {tmp_path / 'pets'}").model.num_classes == 2
    assert typed(f"--dataset folder --data-dir {tmp_path / 'pets'} --num-classes 5").model.num_classes == 5
    assert typed(f"--dataset folder --data-dir {tmp_path / 'none'}").model.num_classes == 10


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert typed("--name apt").data.data_dir == "data"
    (tmp_path / "sets/cifar100").mkdir(parents=True)
    monkeypatch.setenv("PRUNELAB_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path / "runs"))
    assert typed("--dataset cifar100").data.data_dir == str(tmp_path / "sets/cifar100")
    cfg = typed("--dataset cifar10 --name mine")
    assert cfg.data.data_dir == str(tmp_path / "sets")
    assert run_folder(cfg) == tmp_path / "runs/output/mine"
    assert log_folder(cfg) == tmp_path / "runs/logs/mine"
    Path("output").mkdir()
    assert run_folder(cfg) == Path("output/mine")
    assert run_folder(changed(cfg, output_dir="/there")) == Path("/there/mine")


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lerning_rate 1", "did you mean --learning_rate"),
        ("--train_batch_size many", "invalid int value: 'many'"),
        ("--dataset cifar11", "did you mean cifar10"),
        ("--model_type ViT-B_8", "did you mean ViT-B_"),
        ("--decay_type constant", "'constant' is not possible"),
        ("--eval", "ambiguous option: --eval could match --eval_batch_size, --eval_every"),
        ("--name", "expected one argument"),
        ("--name a b", "unexpected argument 'b'"),
        ("--amp fp16", "did you mean bf16"),
        ("--device gpu", "device is 'gpu'"),
        ("--max-steps 0", "max_steps is 0, expected at least 1"),
        ("--img_size 1,2,3", "'1,2,3', expected one number or two"),
        ("--img_size big", "'big' is not a whole number"),
        ("--threshold 1.5", "threshold is 1.5, expected 0 to 1"),
        ("--keep-rate 0", "keep_rate is 0.0, expected more than 0"),
        ("--method random", "prune method random and no keep_rate"),
        ("--clip-layers 5,2", "clip_layers is (5, 2), expected rising numbers"),
        ("--clip-layers 2 --clip-fractions 0.5", "clip_layers and clip_fractions say the same"),
        ("--clip-fractions 0.5,1", "clip_fractions is 1.0, expected shares below 1"),
        ("--clip-fractions 0.5,0.2", "clip_fractions is 0.5 and clip_fractions 0.2"),
        ("--train_batch_size 2", "train_batch_size is 2, expected at least the 3"),
        ("--train_batch_size 3", "a micro-batch of 1 picture, expected at least 2"),
        ("--hidden-size 100", "hidden_size is 100, expected a multiple of num_heads 12"),
        ("--patch-grid 14 --patch-size 16", "expected one of them"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_them(words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        typed(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_picture_in_a_micro_batch_is_enough_where_all_tokens_are_tried() -> None:
    assert typed("--train_batch_size 3 --explore-within-batch false").micro_batch_size == 1
    assert typed("--train_batch_size 3 --method plain").micro_batch_size == 1
