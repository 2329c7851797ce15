"""Command lines become exactly the configuration that they mean, and prefixes stay what they were."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from prunelab.errors import UserError
from smp_caption import cli
from smp_caption.config import Config, ModelConfig, QuirksConfig, RunConfig
from smp_caption.lowering import FIELDS, TOUR, lower, run_folder

FAITHFUL = Config(
    model=ModelConfig(caption_model="relation_transformer"),
    run=RunConfig(preset="faithful"),
    quirks=QuirksConfig.of("faithful"),
)
"""What the original's programs mean without a flag."""


def changed(**values: Any) -> Config:
    """The original's defaults with some fields set."""
    groups = {
        group: replace(
            getattr(FAITHFUL, group), **{k: v for k, v in values.items() if FIELDS.group_of[k] == group}
        )
        for group in FIELDS.groups
    }
    return Config(**groups)


UP_DOWN = "--caption_model up_down_lstm --lr_scheduler cosine --learning_rate 0.01 --optim_epsilon 0.01"
UP_DOWN_VALUES = {
    "caption_model": "up_down_lstm",
    "lr_scheduler": "cosine",
    "learning_rate": 0.01,
    "optim_epsilon": 0.01,
}
PRUNED = UP_DOWN.replace("up_down_lstm", "up_down_lstm_prune") + " --drop_prob_lm 0.1"
PRUNED_VALUES = UP_DOWN_VALUES | {"caption_model": "up_down_lstm_prune", "drop_prob_lm": 0.1}
ORT_PRUNED = "--caption_model relation_transformer_prune --drop_prob_src 0.1"
ORT_PRUNED_VALUES = {"caption_model": "relation_transformer_prune", "drop_prob_src": 0.1}
SCST = (
    "--lr_scheduler step --learning_rate 5e-5 --learning_rate_decay_start -1 --batch_size 5 --max_epochs 10 "
    "--scst_start_epoch 0 --scst_num_samples 15 --scst_bleu_weight 0,0,0,1 --losses_log_every 75"
)
SCST_VALUES = {
    "lr_scheduler": "step",
    "learning_rate": 5e-5,
    "learning_rate_decay_start": -1,
    "batch_size": 5,
    "max_epochs": 10,
    "scst_start_epoch": 0,
    "scst_num_samples": 15,
    "scst_bleu_weight": (0.0, 0.0, 0.0, 1.0),
    "losses_log_every": 75,
}
ACORT = (
    "--tokenizer radix --radix_base 768 --max_seq_length 26 --share_att_encoder kv --share_att_decoder kv "
    "--share_layer_encoder (0,0,0,1,1,1) --share_layer_decoder"
)
ACORT_VALUES = {
    "tokenizer": "radix",
    "radix_base": 768,
    "max_seq_length": 26,
    "share_att_encoder": "kv",
    "share_att_decoder": "kv",
    "share_layer_encoder": (0, 0, 0, 1, 1, 1),
    "share_layer_decoder": (0, 0, 0, 1, 1, 1),
}

# (words, one argument that holds blanks or none, values that differ from the defaults): the rows of the
# published tables, as the original's two training programs take them.
ROWS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("--dataset_dir /datasets/mscoco", [], {"dataset_dir": "/datasets/mscoco"}),
    (f"{UP_DOWN} --id UD", [], UP_DOWN_VALUES | {"id": "UD"}),
    *(
        (
            f"{PRUNED} --prune_type supermask --prune_sparsity_target {target} "
            f"--prune_supermask_sparsity_weight {weight}",
            [],
            PRUNED_VALUES
            | {
                "prune_type": "supermask",
                "prune_sparsity_target": target,
                "prune_supermask_sparsity_weight": weight,
            },
        )
        for target in (0.95, 0.975, 0.9875, 0.991)
        for weight in (40.0, 80.0, 120.0)
    ),
    (
        f"{ORT_PRUNED} --prune_type supermask --prune_sparsity_target 0.9875 "
        "--prune_supermask_sparsity_weight 80",
        [],
        ORT_PRUNED_VALUES
        | {
            "prune_type": "supermask",
            "prune_sparsity_target": 0.9875,
            "prune_supermask_sparsity_weight": 80.0,
        },
    ),
    *(
        (
            f"{PRUNED} --prune_type {kind} --prune_sparsity_target 0.95 --start_from /runs/dense "
            "--max_epochs 10",
            [],
            PRUNED_VALUES
            | {
                "prune_type": kind,
                "prune_sparsity_target": 0.95,
                "start_from": "/runs/dense",
                "max_epochs": 10,
            },
        )
        for kind in ("mag_blind", "mag_dist", "mag_uniform")
    ),
    *(
        (
            f"{ORT_PRUNED} --prune_type {kind} --prune_sparsity_target 0.991",
            [],
            ORT_PRUNED_VALUES | {"prune_type": kind, "prune_sparsity_target": 0.991},
        )
        for kind in ("mag_grad_uniform", "snip", "lottery_mask_freeze")
    ),
    (ACORT, ["(0, 0, 0, 1, 1, 1)"], ACORT_VALUES),
    (f"{UP_DOWN} --drop_prob_lm 0.1 {SCST}", [], UP_DOWN_VALUES | {"drop_prob_lm": 0.1} | SCST_VALUES),
    (
        f"{PRUNED} {SCST} --prune_type mask_freeze --start_from /runs/smp/model_best_bin_mask.pth",
        [],
        PRUNED_VALUES
        | SCST_VALUES
        | {"prune_type": "mask_freeze", "start_from": "/runs/smp/model_best_bin_mask.pth"},
    ),
    *(
        (
            f"{PRUNED} --prune_type {kind} --prune_sparsity_target 0.975 --start_from /runs/{start}",
            [],
            PRUNED_VALUES
            | {"prune_type": kind, "prune_sparsity_target": 0.975, "start_from": f"/runs/{start}"},
        )
        for kind, start in (
            ("lottery_mag_uniform", "dense"),
            ("lottery_mag_blind", "dense"),
            ("lottery_mask_freeze", "gradual"),
        )
    ),
    (
        f"{ACORT.replace('0,0,0,1,1,1', '0,0,0,0,0,0')}",
        ["[0, 0, 0, 0, 0, 0]", "--d_model", "256", "--dim_feedforward", "1024"],
        ACORT_VALUES
        | {
            "share_layer_encoder": (0,) * 6,
            "share_layer_decoder": (0,) * 6,
            "d_model": 256,
            "dim_feedforward": 1024,
        },
    ),
    *(
        (
            f"--scst_start_epoch 0 --lr_scheduler step --scst_sample {sample} --scst_baseline {baseline}",
            [],
            {
                "scst_start_epoch": 0,
                "lr_scheduler": "step",
                "scst_sample": sample,
                "scst_baseline": baseline,
            },
        )
        for sample in ("random", "beam_search")
        for baseline in ("greedy", "sample")
    ),
    (
        "--caption_model transformer --label_smoothing 0.1",
        [],
        {"caption_model": "transformer", "label_smoothing": 0.1},
    ),
    ("--no_box --share_att_e qk", [], {"no_box_trigonometric_embedding": True, "share_att_encoder": "qk"}),
    ("--share_att_encoder none --cached_tokens null", ["--id", ""], {}),
    (
        "--share_layer_encoder none --share_layer_decoder null --share_att_decoder",
        ["", "--tokenizer", "character", "--max_seq_length", "60"],
        {"tokenizer": "character", "max_seq_length": 60},
    ),
    ("--mscoco_online_test --retokenize", [], {"mscoco_online_test": True, "retokenize_captions": True}),
]


@pytest.mark.parametrize(("words", "last", "values"), ROWS, ids=[str(n) for n in range(len(ROWS))])
def test_rows_of_the_published_tables_become_exactly_their_configuration(
    words: str, last: list[str], values: dict[str, Any]
) -> None:
    assert lower(cli.parse_train([*words.split(), *last])) == changed(**values)


def test_nothing_typed_is_the_tour_and_resume_alone_resumes_it() -> None:
    tour, resumed = lower(cli.parse_train([])), lower(cli.parse_train(["--resume"]))
    assert tour.run.tour
    assert tour.run.preset == "fixed"
    assert tour.quirks == QuirksConfig.of("fixed")
    assert tour.data.dataset == TOUR["dataset"] == "tiny"
    assert resumed.run == replace(tour.run, resume=True)
    typed = lower(cli.parse_train(["--tour", "--seed", "3", "--output", "x"]))
    assert typed.run == replace(tour.run, seed=3, output="x")
    assert lower(cli.parse_train(["--tour"])) == tour


def test_any_other_argument_means_the_papers_defaults() -> None:
    for words in (["--seed", "8888"], ["--output", ""], ["--print-config"], ["--device", "auto"]):
        assert lower(cli.parse_train(words)) == FAITHFUL


def test_tour_refuses_flags_that_would_make_it_another_run() -> None:
    with pytest.raises(UserError, match="--tour does not go with --batch_size"):
        lower(cli.parse_train(["--tour", "--batch_size", "3"]))


def test_preset_fixed_switches_every_quirk_off() -> None:
    cfg = lower(cli.parse_train(["--preset", "fixed"]))
    assert cfg == replace(
        FAITHFUL, run=replace(FAITHFUL.run, preset="fixed"), quirks=QuirksConfig.of("fixed")
    )
    assert not any(vars(cfg.quirks).values())
    assert all(vars(FAITHFUL.quirks).values())


def test_model_size_sets_sizes_that_are_not_typed() -> None:
    words = "--caption_model up_down_lstm --model_size testing --rnn_size 77"
    cfg = lower(cli.parse_train(words.split()))
    assert cfg.model.rnn_size == 77
    assert cfg.model.att_hid_size == 32
    assert cfg.model.d_model == 512
    cfg = lower(cli.parse_train(["--model_size", "testing", "--num_layers", "3"]))
    assert (cfg.model.d_model, cfg.model.num_layers, cfg.model.rnn_size) == (32, 3, 1000)


def test_our_own_flags_of_methods_may_be_typed_with_either_line() -> None:
    words = "--prune_gradual_frequency 25 --scst_end_in_reward --drop_prob_layer 0.2"
    expected = changed(prune_gradual_frequency=25, scst_end_in_reward=True, drop_prob_layer=0.2)
    assert lower(cli.parse_train(words.split())) == expected
    assert lower(cli.parse_train(words.replace("_", "-").split())) == expected
    assert lower(cli.parse_train(["--drop_prob_layer", "none", "--seed", "8888"])) == FAITHFUL
    with pytest.raises(UserError, match="unknown flag --drop_prob_layer"):
        cli.parse_train([*UP_DOWN.split(), "--drop_prob_layer", "0.2"])


def test_a_radix_networks_ids_are_its_digits_pad_bos_and_eos() -> None:
    assert changed(tokenizer="radix").network_vocab_size == 768 + 3
    assert FAITHFUL.network_vocab_size == 10001


# The original's flags as its parser adds them for one model, data set and tokenizer; a value to type.
GENERAL = {"dataset": "mscoco", "tokenizer": "word", "caption_model": "", "logging_level": "INFO"}
TRAINING = {
    **dict.fromkeys(("seed", "num_workers", "save_checkpoint_every", "losses_log_every"), "3"),
    **dict.fromkeys(("batch_size", "batch_size_eval", "max_epochs", "noamopt_warmup"), "3"),
    **dict.fromkeys(("cache_min_free_ram", "weight_decay", "grad_clip", "label_smoothing"), "0.1"),
    **dict.fromkeys(("optim_alpha", "optim_beta", "optim_epsilon", "noamopt_factor"), "0.1"),
    **dict.fromkeys(("learning_rate", "learning_rate_min", "learning_rate_decay_rate"), "0.1"),
    **dict.fromkeys(("learning_rate_decay_start", "learning_rate_decay_every"), "3"),
    **dict.fromkeys(("scst_start_epoch", "scst_num_samples", "beam_size_test", "beam_size_val"), "3"),
    **dict.fromkeys(("cached_tokens", "id", "log_dir", "start_from"), "x"),
    **{"optim": "adam", "lr_scheduler": "step", "scst_sample": "random", "scst_baseline": "greedy"},
    **{"scst_cider_weight": "1", "scst_bleu_weight": "0,0,0,1", "resume_training": None},
}
DATA = {
    **{"dataset_dir": "x", "retokenize_captions": None, "mscoco_online_test": None},
    **{"tokenizer_train_files": "x", "vocab_size": "99", "max_seq_length": "9", "seq_per_img": "3"},
    **{"input_att_dir": "x", "att_feat_size": "9"},
}
PRUNING = {
    **{"prune_type": "supermask", "prune_sparsity_target": "0.9", "prune_mask_freeze_scope": "x"},
    **{"prune_snip_grad_accum": "1", "prune_supermask_init": "1", "prune_supermask_lr": "1"},
    **{"prune_supermask_sparsity_weight": "1", "prune_supermask_bypass_sigmoid_grad": None},
}
UP_DOWN_FLAGS = {
    **dict.fromkeys(("rnn_size", "input_encoding_size", "att_hid_size", "fc_feat_size", "logit_layers"), "9"),
    **{"drop_prob_lm": "0.1", "input_fc_dir": "x"},
}
TRANSFORMER_FLAGS = {
    **dict.fromkeys(("d_model", "dim_feedforward", "num_layers", "num_heads"), "8"),
    **{"drop_prob_src": "0.1", "share_att_encoder": "kv", "share_att_decoder": "kv"},
    **{"share_layer_encoder": "(0,1)", "share_layer_decoder": "(0,1)"},
}
ORT_FLAGS = TRANSFORMER_FLAGS | {"input_rel_box_dir": "x", "no_box_trigonometric_embedding": None}
PARSERS = [
    ("up_down_lstm", "word", UP_DOWN_FLAGS),
    ("up_down_lstm_prune", "word", UP_DOWN_FLAGS | PRUNING),
    ("transformer", "word", TRANSFORMER_FLAGS),
    ("transformer_prune", "bpe", TRANSFORMER_FLAGS | PRUNING),
    ("relation_transformer", "radix", ORT_FLAGS | {"radix_base": "7"}),
    ("relation_transformer_prune", "word", ORT_FLAGS | PRUNING),
]


@pytest.mark.parametrize(("model", "tokenizer", "flags"), PARSERS, ids=[p[0] for p in PARSERS])
def test_every_prefix_resolves_to_the_flag_that_it_did(
    model: str, tokenizer: str, flags: dict[str, str | None]
) -> None:
    known = {**GENERAL, "caption_model": model, **TRAINING, **DATA, **flags}
    plain = argparse.ArgumentParser(exit_on_error=False)
    for name, value in known.items():
        plain.add_argument(f"--{name}", action="store_true" if value is None else "store")
    ours = cli.train_parser({"caption_model": model, "dataset": "mscoco", "tokenizer": tokenizer})
    tried = 0
    for name in known:
        for length in range(1, len(name) + 1):
            prefix = f"--{name[:length]}"
            if prefix == "--resume":
                continue  # ours in full, and the original's long flag where a start is given: tested below
            fits = [f for f in known if f.startswith(name[:length])]
            meant = name[:length] if name[:length] in known else fits[0]
            if len(fits) > 1 and meant != name[:length]:
                continue  # ambiguous there
            value = known[meant]
            words = [prefix] if value is None else [prefix, value]
            assert getattr(plain.parse_args(words), meant) not in (None, False)
            assert set(vars(ours.parse_args(words))) - {"pairs"} == {meant}, prefix
            tried += 1
    assert tried > 5 * len(known)


def test_resume_in_full_is_ours_and_the_originals_long_flag_where_a_start_is_given() -> None:
    assert lower(cli.parse_train(["--resume", "--id", "x"])) == changed(id="x", resume=True)
    both = changed(start_from="y", resume=True, resume_training=True)
    assert lower(cli.parse_train(["--resume", "--start_from", "y"])) == both
    for prefix in ("--res", "--resum", "--resume_t", "--resume_training"):
        cfg = lower(cli.parse_train([prefix, "--start_from", "y"]))
        assert cfg == changed(start_from="y", resume_training=True)


def test_our_own_flags_match_in_full_only() -> None:
    for words in (
        ["--max-st", "3"],
        ["--dev", "cpu"],
        ["--dry"],
        ["--output=x", "--tou"],
        ["--pres", "fixed"],
    ):
        with pytest.raises(UserError, match="unknown flag"):
            cli.parse_train(words)


def test_flags_of_another_model_are_unknown() -> None:
    with pytest.raises(UserError, match="unknown flag --rnn_size"):
        cli.parse_train(["--caption_model", "transformer", "--rnn_size", "3"])
    with pytest.raises(UserError, match="unknown flag --radix_base"):
        cli.parse_train(["--radix_base", "3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr_shceduler", "cosine"], "did you mean --lr_scheduler"),
        (["--lr_scheduler", "cosin"], "did you mean cosine"),
        (["--batch_size", "many"], "--batch_size: invalid int value: 'many'"),
        (["--share_layer_encoder", "0;1"], "not a tuple"),
        (["--batch_size", "0"], "batch_size is 0, expected at least 1"),
        (["--caption_model", "up_down_lstm_prune"], "needs prune_type"),
        (["--caption_model", "up_down_lstm", "--prune_type", "snip"], "needs a pruned model"),
        (["--caption_model", "up_down_lstm", "--label_smoothing", "0.1"], "preset fixed"),
        (["--prune_sparsity_target", "1"], "prune_sparsity_target is 1.0"),
        (["--share_layer_encoder", "(0,2)"], "expected the numbers 0 to n-1"),
        (["--scst_bleu_weight", "1,0"], "expected four"),
        (["--dataset", "tiny", "--mscoco_online_test"], "unknown flag"),
        (["--device", "gpu"], "device is 'gpu'"),
        (["--max-steps", "0"], "max_steps is 0"),
        (["model.rnn_size", "3"], "KEY VALUE pairs need --config"),
    ],
)
def test_mistakes_are_answered_in_one_line_that_names_them(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        lower(cli.parse_train(words))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_folder_is_output_or_id_in_log_dir_with_the_weights_suffix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRUNELAB_RUNS", raising=False)
    supermask = {"caption_model": "up_down_lstm_prune", "prune_type": "supermask"}
    assert str(run_folder(changed(log_dir="logs", id="a"))) == "logs/a"
    assert str(run_folder(changed(log_dir="logs"))) == "logs"
    assert str(run_folder(changed(log_dir="logs", id="a", output="b"))) == "b"
    assert str(run_folder(changed(log_dir="logs", id="a", **supermask))) == "logs/a__wg_5.0"
    target = changed(log_dir="logs", id="a", prune_sparsity_target=0.991, **supermask)
    assert str(run_folder(target)) == "logs/a__wg_55.6"
    fixed = replace(target, quirks=QuirksConfig.of("fixed"))
    assert str(run_folder(fixed)) == "logs/a"
    assert str(run_folder(FAITHFUL)) == "runs/relation_transformer"
    monkeypatch.setenv("PRUNELAB_RUNS", "/scratch")
    assert str(run_folder(changed(id="a"))) == "/scratch/a"


def test_help_names_every_flag_and_begins_with_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    for parse, command in (
        (cli.parse_train, "train"),
        (cli.parse_test, "test"),
        (cli.parse_demo, "demo"),
        (cli.parse_extract, "extract"),
        (cli.parse_convert, "convert"),
        (cli.parse_export, "export"),
        (cli.parse_collect_scores, "collect-scores"),
        (cli.parse_collect_captions, "collect-captions-plus"),
        (partial(cli.parse_plot, "plot-scores"), "plot-scores"),
        (partial(cli.parse_plot, "plot-sparsities"), "plot-sparsities"),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(["--help"])
        shown = capsys.readouterr().out
        assert stop.value.code == 0
        assert shown.startswith(f"smp-caption {command}: ")
        assert "--version" in shown
        if command == "train":
            for name in {**GENERAL, **TRAINING, **DATA, **PRUNING, **UP_DOWN_FLAGS, **ORT_FLAGS}:
                assert f"--{name}" in shown
            for name in ("radix_base", "prune-gradual-frequency", "scst-end-in-reward", "drop-prob-layer"):
                assert f"--{name}" in shown
            assert "(default: 8888)" in shown
    with pytest.raises(SystemExit):
        cli.parse_train(["--version"])
    assert capsys.readouterr().out.startswith("smp-caption ")


def test_eval_model_flags_choose_the_split_and_the_beams() -> None:
    words = "--log_dir runs --id a --model_file model_best.pth --beam_size_val 3 --batch_size_e 7"
    options = cli.parse_test(words.split())
    assert (options.split, options.beam_size, options.batch_size_eval) == ("val", 3, 7)
    assert cli.parse_test(["--beam_size_test", "5", "--load", "--mscoco"]).split == "test"
    assert cli.parse_test([]).beam_size is None
    assert cli.parse_test(["--metrics", "CIDEr,METEOR"]).metrics == ("CIDEr", "METEOR")
    with pytest.raises(UserError, match="expected only one of them"):
        cli.parse_test(["--beam_size_test", "2", "--beam_size_val", "2"])


def test_other_commands_read_their_arguments() -> None:
    assert cli.parse_demo(["a.jpg", "b.jpg", "--beam-size", "3"]).files == ("a.jpg", "b.jpg")
    assert cli.parse_extract(["--images", "x"]).scale_pairs() == ((32, 1), (64, 3), (128, 5))
    assert cli.parse_convert(["a", "b"]).destination == "b"
    assert cli.parse_export(["a", "--format", "onnx"]).format == "onnx"
    assert cli.parse_collect_scores(["--log", "runs", "--output", "x"]).log_dir == "runs"
    assert cli.parse_collect_captions(["a", "b", "--show", "3"]).runs == ("a", "b")
    assert cli.parse_plot("plot-scores", ["a", "--score", "Bleu_4"]).score == "Bleu_4"
    binarize = cli.parse_binarize(["--log_dir", "runs", "--id", "a"])
    assert (binarize.model, binarize.format) == ("runs/a", "binary")
    for parse, words in (
        (cli.parse_demo, []),
        (cli.parse_extract, []),
        (cli.parse_extract, ["--images", "x", "--scales", "32"]),
        (cli.parse_convert, ["a"]),
        (cli.parse_binarize, []),
        (cli.parse_demo, ["a.jpg", "--beam-size", "0"]),
        (cli.parse_collect_captions, []),
        (cli.parse_collect_captions, ["a", "--show", "-1"]),
        (cli.parse_collect_scores, ["--logdir", "x"]),
    ):
        with pytest.raises(UserError):
            parse(words)
