"""Command lines become exactly the configuration that they mean, in each of absl's styles."""

from __future__ import annotations

from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from channel_prune import cli
from channel_prune.config import PruneConfig, QuirkConfig
from channel_prune.lowering import FAITHFUL, FIELDS, PROGRAMS, TOUR, lower
from prunelab.config import to_plain
from prunelab.errors import UserError

from .commands import PRUNED, base, changed, typed, value

pytestmark = pytest.mark.usefixtures("alone")


# --- the original's defaults ---

PRUNING = {
    "prune_ratio": 0.5,
    "skip_frst_layer": True,
    "skip_last_layer": False,
    "skip_op_names": None,
    "nb_smpls": 5000,
    "nb_crops_per_smpl": 10,
    "ista_lrn_rate": 1e-2,
    "ista_nb_iters": 100,
    "lstsq_lrn_rate": 1e-3,
    "lstsq_nb_iters": 100,
    "warm_start": False,
    "enbl_dst": False,
    "loss_w_dst": 4.0,
    "tempr_dst": 4.0,
    "summ_step": 100,
    "save_step": 10000,
    "save_path": "./models/model.ckpt",
    "save_path_eval": "./models_eval/model.ckpt",
    "save_path_dst": "./models_dst/model.ckpt",
    "save_path_cpr": "./models_cpr/model.ckpt",
    "save_path_cpr_eval": "./models_cpr_eval/model.ckpt",
    "save_path_ws": "./models_cpr_ws/model.ckpt",
    "log_dir": "./logs",
    "learner": "full-prec",
    "exec_mode": "train",
    "enbl_warm_start": False,
    "momentum": 0.9,
}
SIZES = ("nb_classes", "batch_size", "batch_size_eval", "nb_smpls_train", "nb_smpls_val", "nb_smpls_eval")
RATES = ("lrn_rate_init", "batch_size_norm", "loss_w_dcy", "nb_epochs_rat")
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[float | None, ...], dict[str, Any]]] = {
    "resnet_at_cifar10": (
        (10, 128, 100, 50000, 5000, 10000),
        (0.1, 128, 2e-4, 1.0),
        {"resnet_size": 20, "schedule": "cifar", "name": "resnet_v2", "dataset_form": "cifar"},
    ),
    "resnet_at_ilsvrc12": (
        (1001, 64, 100, 1281167, 10000, 50000),
        (0.1, 256, 1e-4, 1.0),
        {"resnet_size": 18, "schedule": "ilsvrc", "name": "resnet_v2", "dataset_form": "ilsvrc12"},
    ),
    "mobilenet_at_ilsvrc12": (
        (1001, 64, 100, 1281167, 10000, 50000),
        (0.045, 96, 4e-5, 1.0),
        {"mobilenet_depth_mult": 1.0, "schedule": "ilsvrc", "name": "mobilenet_v1", "decay_norms": True},
    ),
    "vgg_at_pascalvoc": (
        (21, 32, 1, 22136, 500, 4952),
        (1e-3, None, 5e-4, 1.0),
        {
            "image_size": 300,
            "image_size_eval": 300,
            "name": "ssd_vgg16",
            "nb_iters_train": 120000,
            "negative_ratio": 3.0,
            "match_threshold": 0.5,
            "neg_threshold": 0.5,
            "select_threshold": 0.01,
            "min_size": 0.03,
            "nms_threshold": 0.45,
            "nms_topk": 200,
            "keep_topk": 400,
            "lrn_rate_min": 1e-6,
            "lrn_rate_dcy_bnds": (500, 80000, 100000),
            "lrn_rate_dcy_rates": (0.1, 1.0, 0.1, 0.01),
            "nb_iters_cls_wmup": 10000,
            "nb_bboxs_max": 100,
            "backbone_ckpt_dir": "./backbone_models/",
            "outputs_dump_dir": "./ssd_outputs/",
            "ignore_missing_vars": True,
        },
    ),
}
"""Sizes, rates and the rest, as the original's programs have them."""


@pytest.mark.parametrize("program", PUBLISHED)
def test_programs_have_the_originals_defaults(program: str) -> None:
    cfg, (sizes, rates, rest) = base(program), PUBLISHED[program]
    expected = dict(zip(SIZES, sizes, strict=True)) | dict(zip(RATES, rates, strict=True)) | PRUNING | rest
    assert {name: value(cfg, name) for name in expected} == expected
    assert cfg.run.preset == "faithful"
    assert cfg.quirks == QuirkConfig.of("faithful")
    assert {name: getattr(cfg.prune, name) for name in FAITHFUL} == FAITHFUL
    assert (cfg.prune.loss_w_dcy, cfg.prune.batch_size) == (cfg.optim.loss_w_dcy, cfg.data.batch_size)
    assert cfg.net.detects == (cfg.optim.schedule == "ssd")


def test_every_program_is_listed_and_has_its_defaults_by_name_too() -> None:
    assert {f"{program}_run" for program in PUBLISHED} == PROGRAMS.keys()
    for program, names in PROGRAMS.items():
        words = f"--net {names['name']} --dataset {names['dataset']}"
        assert typed(words) == base(program.removesuffix("_run"))


# --- the original's command lines ---

ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("resnet_at_cifar10", f"{PRUNED} --cpr_prune_ratio=0.50", {"prune_ratio": 0.5}),
    ("resnet_at_ilsvrc12", f"{PRUNED} --cpr_skip_last_layer=True", {"skip_last_layer": True}),
    (
        "mobilenet_at_ilsvrc12",
        f"{PRUNED} --cpr_warm_start=True --cpr_save_path_ws=./models_cpr_ws/model.ckpt",
        {"warm_start": True, "save_path_ws": "./models_cpr_ws/model.ckpt"},
    ),
    ("resnet_at_ilsvrc12", f"{PRUNED} --cpr_prune_ratio=0.2", {"prune_ratio": 0.2}),
    (
        "resnet_at_ilsvrc12",
        f"{PRUNED} --cpr_prune_ratio=.7 --enbl_dst",
        {"prune_ratio": 0.7, "enbl_dst": True},
    ),
    (
        "vgg_at_pascalvoc",
        f"{PRUNED} --cpr_prune_ratio=0.5 --cpr_skip_op_names=multibox_head",
        {"skip_op_names": "multibox_head"},
    ),
    ("resnet_at_cifar10", f"{PRUNED} --cpr_skip_op_names aaa,bbb", {"skip_op_names": "aaa,bbb"}),
    ("resnet_at_cifar10", f"{PRUNED} --exec_mode eval", {"exec_mode": "eval"}),
    (
        "resnet_at_cifar10",
        f"{PRUNED} --nocpr_skip_frst_layer --cpr_nb_smpls=1000 --cpr_nb_crops_per_smpl=20",
        {"skip_frst_layer": False, "nb_smpls": 1000, "nb_crops_per_smpl": 20},
    ),
    (
        "resnet_at_cifar10",
        f"{PRUNED} --cpr_ista_lrn_rate=1e-3 --cpr_ista_nb_iters=7 --cpr_lstsq_lrn_rate=0.1 "
        "--cpr_lstsq_nb_iters=9",
        {"ista_lrn_rate": 1e-3, "ista_nb_iters": 7, "lstsq_lrn_rate": 0.1, "lstsq_nb_iters": 9},
    ),
    (
        "resnet_at_cifar10",
        f"{PRUNED} --cpr_save_path=./a/m.ckpt --cpr_save_path_eval=./b/m.ckpt --save_path=./c/m.ckpt",
        {"save_path_cpr": "./a/m.ckpt", "save_path_cpr_eval": "./b/m.ckpt", "save_path": "./c/m.ckpt"},
    ),
    (
        "resnet_at_cifar10",
        f"{PRUNED} --enbl_dst --loss_w_dst=2 --tempr_dst=3 --save_path_dst=./t/model.ckpt",
        {"enbl_dst": True, "loss_w_dst": 2.0, "tempr_dst": 3.0, "save_path_dst": "./t/model.ckpt"},
    ),
    (
        "resnet_at_cifar10",
        "--learner full-prec --resnet_size=56",
        {"learner": "full-prec", "resnet_size": 56},
    ),
    (
        "resnet_at_cifar10",
        "--batch_size=64 --batch_size_eval=50 --lrn_rate_init=0.01 --batch_size_norm=64 --momentum=0.5 "
        "--loss_w_dcy=1e-3 --nb_epochs_rat=0.2 --summ_step=5 --save_step=50",
        {"batch_size": 64, "batch_size_eval": 50, "lrn_rate_init": 0.01, "batch_size_norm": 64}
        | {"momentum": 0.5, "loss_w_dcy": 1e-3, "nb_epochs_rat": 0.2, "summ_step": 5, "save_step": 50},
    ),
    (
        "resnet_at_cifar10",
        "--data_disk=local --data_dir_local=/pictures --cycle_length=2 --nb_threads=3 --buffer_size=9 "
        "--prefetch_size=1 --debug --enbl_multi_gpu --model_http_url=http://x --enbl_fused_batchnorm=True",
        {"data_dir": "/pictures", "workers": 3},
    ),
    ("mobilenet_at_ilsvrc12", "--mobilenet_depth_mult=0.5", {"mobilenet_depth_mult": 0.5}),
    (
        "mobilenet_at_ilsvrc12",
        "--mobilenet_version=2",
        {"name": "mobilenet_v2", "schedule": "mobilenet_v2"},
    ),
    (
        "vgg_at_pascalvoc",
        "--enbl_warm_start=True --backbone_ckpt_dir=./b --nb_iters_train=10 --noignore_missing_vars",
        {
            "enbl_warm_start": True,
            "backbone_ckpt_dir": "./b",
            "nb_iters_train": 10,
            "ignore_missing_vars": False,
        },
    ),
]


@pytest.mark.parametrize(("program", "words", "values"), ROWS)
def test_the_originals_command_lines_become_their_configuration(
    program: str, words: str, values: dict[str, Any]
) -> None:
    pruned = {"learner": "chn-pruned-rmt"} if PRUNED in words else {}
    assert typed(words, program) == changed(base(program), **pruned, **values)


def test_lists_of_the_detector_are_read_with_spaces_too() -> None:
    words = [
        "--program=vgg_at_pascalvoc_run",
        "--lrn_rate_dcy_bnds=5, 80, 100",
        "--lrn_rate_dcy_rates",
        "0.5, 1, 0.1, 0.01",
        "--warm_start_excl_scopes=ssd300/a, ssd300/b",
    ]
    assert lower(cli.parse_train(words)) == changed(
        base("vgg_at_pascalvoc"),
        lrn_rate_dcy_bnds=(5, 80, 100),
        lrn_rate_dcy_rates=(0.5, 1.0, 0.1, 0.01),
        warm_start_excl_scopes=("ssd300/a", "ssd300/b"),
    )


def test_every_flag_has_absls_forms() -> None:
    truths = {flag for flag in cli.config_flags() if flag.read is cli.word_bool}
    assert len(truths) > 15
    for flag in truths:
        key = flag.key
        for words, expected in (
            (f"--{key}", "true"),
            (f"-{key}", "true"),
            (f"--{key}=True", "True"),
            (f"--{key} true", "true"),
            (f"-{key}=False", "False"),
            (f"--{key} False", "False"),
            (f"--no{key}", "false"),
            (f"-no{key}", "false"),
        ):
            assert cli.canonical(words.split(), [flag]) == [f"{flag.text}={expected}"]
    for flag in set(cli.config_flags()) - truths:
        key, expected = flag.key, [f"{flag.text}=-1e-4"]
        for words in (f"--{key}=-1e-4", f"--{key} -1e-4", f"-{key}=-1e-4", f"-{key} -1e-4"):
            assert cli.canonical(words.split(), [flag]) == expected
        assert cli.canonical([f"--{key}"], [flag]) == [flag.text]


def test_the_last_of_equal_flags_counts() -> None:
    assert typed("--enbl_dst --noenbl_dst --resnet_size=32 -resnet_size 44").net.resnet_size == 44
    assert not typed("--enbl_dst --noenbl_dst").distill.enbl_dst


def test_every_field_is_a_flag_of_its_own_name() -> None:
    flags = cli.config_flags()
    names = [flag.name for flag in flags]
    assert len(names) == len(set(names))
    assert set(FIELDS.group_of) - set(names) == cli.UNSET
    assert {flag.text for flag in flags if flag.name in cli.PRUNING} == {f"--cpr_{n}" for n in cli.PRUNING}
    for flag in flags:
        assert ("-" in flag.text[2:]) <= (not flag.original)


# --- ours ---

OWN: list[tuple[str, dict[str, Any]]] = [
    ("--output out --seed 3 --max-steps 7", {"output": "out", "seed": 3, "max_steps": 7}),
    ("--max_steps=7 --resume", {"max_steps": 7, "resume": True}),
    ("--amp bf16 --compile --channels-last", {"amp": "bf16", "compile": True, "channels_last": True}),
    ("--device cuda:1 --dry-run", {"device": "cuda:1", "dry_run": True}),
    ("--cpr_ratio_list 0,0.5,.25", {"ratio_list": (0.0, 0.5, 0.25)}),
    (
        "--selection lasso --reconstruction ridge --sample-mode eval --positions all",
        {"selection": "lasso", "reconstruction": "ridge", "sample_mode": "eval", "positions": "all"},
    ),
    ("--round-to 8 --recalibrate 200", {"round_to": 8, "recalibrate": 200}),
    ("--sample-memory 0.5 --slim-before-finetune", {"sample_memory": 0.5, "slim_before_finetune": True}),
    ("--sample-memory none", {"sample_memory": None}),
    ("--compensate-shortcut --skip_match=parts", {"compensate_shortcut": True, "skip_match": "parts"}),
    ("--flops-convention=published", {"flops_convention": "published"}),
    ("--noscore-rounding", {"score_rounding": False}),
    ("--weights w.th --workers 0 --fake-data", {"weights": "w.th", "workers": 0, "fake_data": True}),
]


@pytest.mark.parametrize(("words", "values"), OWN)
def test_our_own_flags_change_their_field(words: str, values: dict[str, Any]) -> None:
    assert typed(words, "resnet_at_cifar10") == changed(base("resnet_at_cifar10"), **values)


def test_a_list_of_ratios_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "ratio.list").write_text("0, 0.5\n0.25\n")
    assert typed("--cpr_ratio_list ratio.list").prune.ratio_list == (0.0, 0.5, 0.25)
    with pytest.raises(UserError, match=r"'missing\.list' is neither a file nor numbers"):
        typed("--cpr_ratio_list missing.list")


def test_a_part_of_a_flags_name_is_no_flag_as_with_absl() -> None:
    for words in ("--cpr_prune 0.3", "--enbl_d", "--max-st 3", "--outp x", "--resum"):
        with pytest.raises(UserError, match="unknown flag"):
            typed(words)


def test_nothing_typed_is_the_tour_and_resume_alone_resumes_it() -> None:
    tour, resumed = typed(""), typed("--resume")
    assert tour.run.tour
    assert tour.run.preset == "fixed"
    assert tour.quirks == QuirkConfig()
    assert (tour.net.name, tour.data.dataset) == ("tiny", "tiny")
    assert {name: value(tour, name) for name in TOUR} == TOUR
    assert resumed == changed(tour, resume=True)
    assert typed("--dry-run") == changed(tour, dry_run=True)
    assert typed("--tour --seed 3 --output x") == changed(tour, seed=3, output="x")
    assert typed("--tour") == tour
    assert typed("--tour --preset faithful").quirks == QuirkConfig.of("faithful")


def test_any_other_argument_means_the_originals_defaults() -> None:
    for words in ("--seed 0", "--print-config", "--device auto"):
        assert typed(words) == base("resnet_at_cifar10")


def test_tour_refuses_what_would_make_it_another_run() -> None:
    for words, named in (
        ("--tour --amp bf16", "--amp"),
        ("--tour --net resnet_v1", "--net"),
        ("--tour --program resnet_at_cifar10_run", "resnet_at_cifar10_run"),
    ):
        with pytest.raises(UserError, match=f"--tour does not go with {named}"):
            typed(words)


def test_the_fixed_preset_turns_everything_of_the_faithful_one_off() -> None:
    faithful, fixed = base("vgg_at_pascalvoc"), typed("--preset fixed", "vgg_at_pascalvoc")
    assert fixed.quirks == QuirkConfig()
    own = PruneConfig()
    differing = {
        f.name for f in fields(own) if getattr(fixed.prune, f.name) != getattr(faithful.prune, f.name)
    }
    assert differing == FAITHFUL.keys()
    assert {name: getattr(fixed.prune, name) for name in FAITHFUL} == {
        name: getattr(own, name) for name in FAITHFUL
    }
    same = changed(fixed, preset="faithful", **FAITHFUL, **to_plain(QuirkConfig.of("faithful")))
    assert same == faithful


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cpr_prune_ration 1", "did you mean --cpr_prune_ratio"),
        ("--cpr_prune_ratio 1", "prune_ratio is 1.0, expected 0 <= prune_ratio < 1"),
        ("--cpr_prune_ratio -0.1", "prune_ratio is -0.1"),
        ("--cpr_ratio_list 0,1.5", "ratio_list[1] is 1.5"),
        ("--cpr_nb_smpls many", "invalid int value: 'many'"),
        ("--cpr_nb_smpls", "expected one argument"),
        ("--amp fp16", "did you mean bf16"),
        ("--device gpu", "device is 'gpu'"),
        ("--max-steps 0", "max_steps is 0, expected at least 1"),
        ("--enbl_dst maybe", "unexpected argument 'maybe'"),
        ("--exec_mode=test", "exec_mode is 'test', expected one of train, eval"),
        ("--learner=channel", "--learner=channel is not there, expected full-prec or chn-pruned-rmt"),
        ("--learner=chn-pruned", "learner is 'chn-pruned'"),
        ("--cp_prune_option=list", "--cp_prune_option belongs to a learner that is not there"),
        ("--nb_gpus=4", "'4', but 1 processes run"),
        ("-n 4", "'4', but 1 processes run"),
        ("--data_disk=hdfs", "'hdfs' is not possible"),
        ("--enbl_fused_batchnorm=False", "fused"),
        ("--mobilenet_version=3", "mobilenet_version is 3, expected 1 or 2"),
        ("--resnet_size=18", "resnet_size is 18, expected 6n + 2"),
        ("--net resnet_v3", "did you mean resnet_v2"),
        ("--net ssd_vgg16 --dataset cifar10", "net ssd_vgg16 does not go with dataset cifar10"),
        ("--net ssd_vgg16 --enbl_dst", "enbl_dst is True, expected False for ssd_vgg16"),
        ("--net ssd_vgg16 --image_size=96", "image_size_eval is 300, expected the network's image_size, 96"),
        ("--net ssd_vgg16 --lrn_rate_dcy_bnds=5,1", "lrn_rate_dcy_bnds is (5, 1)"),
        ("--schedule constant", "nb_iters is not given"),
        ("--program lenet_at_cifar10_run", "did you mean resnet_at_cifar10_run"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_them(words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        typed(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_other_learner_of_the_original_is_refused_with_what_there_is_instead() -> None:
    for learner, instead in cli.OTHER_LEARNERS.items():
        with pytest.raises(UserError) as caught:
            typed(f"--learner {learner}")
        assert instead in str(caught.value)


def test_help_names_every_flag_and_begins_with_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "test", "prune", "demo", "convert", "export"):
        with pytest.raises(SystemExit) as stop:
            getattr(cli, f"parse_{command}")(["--help"])
        shown = capsys.readouterr().out
        assert stop.value.code == 0
        assert shown.startswith(f"channel-prune {command}: ")
        assert "--version" in shown
        if command in ("train", "test", "prune"):
            for flag in cli.config_flags():
                assert f"{flag.text} " in shown


def test_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse_train(["--version"])
    assert capsys.readouterr().out == f"channel-prune {metadata.version('channel-prune')}\n"
