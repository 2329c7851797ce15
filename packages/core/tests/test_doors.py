from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunelab.doors import (
    Parser,
    apply_pairs,
    bracket_list,
    csv,
    did_you_mean,
    fraction,
    natural_int,
    nearest,
    none_word,
    number,
    positive_float,
    positive_int,
    read_sections,
    read_yaml,
    tuple_literal,
    word_bool,
)
from prunelab.errors import UserError


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    names = ["lr_scheduler", "learning_rate", "batch_size", "batch_size_eval"]
    assert did_you_mean("lr_sheduler", names) == "did you mean lr_scheduler?"
    assert did_you_mean("--Batch-Size", names).startswith("did you mean batch_size or batch_size_eval")
    assert did_you_mean("eval", names) == "did you mean batch_size_eval?"
    assert did_you_mean("zzz", ["a", "b", "a"]) == "expected one of: a, b"
    assert did_you_mean("zzz", []) == "nothing is expected here"
    assert nearest("rate", names) == ["learning_rate"]


@pytest.mark.parametrize("word", ["yes", "True", "T", "y", "1", " TRUE "])
def test_words_for_true(word: str) -> None:
    assert word_bool(word) is True


@pytest.mark.parametrize("word", ["no", "False", "F", "N", "0"])
def test_words_for_false(word: str) -> None:
    assert word_bool(word) is False


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (none_word(), "None", None),
        (none_word(), "", None),
        (none_word(), "NULL", None),
        (none_word(), "kv", "kv"),
        (none_word(int), "3", 3),
        (none_word(csv(float)), "none", None),
        (csv(float), "0, 0,0,1", (0.0, 0.0, 0.0, 1.0)),
        (csv(), "a,b", ("a", "b")),
        (csv(), " ", ()),
        (bracket_list(), "[3]", (3,)),
        (bracket_list(), "[3, 5,]", (3, 5)),
        (bracket_list(), "3,5", (3, 5)),
        (bracket_list(), "[]", ()),
        (bracket_list(str), "['a.jpg', \"b c.jpg\", d]", ("a.jpg", "b c.jpg", "d")),
        (tuple_literal, "(0,0,1)", (0, 0, 1)),
        (tuple_literal, "[0, 1]", (0, 1)),
        (tuple_literal, "0,'a'", (0, "a")),
        (positive_int, "1", 1),
        (natural_int, "0", 0),
        (positive_float, "1e-8", 1e-8),
        (fraction, "0.95", 0.95),
        (number(int, low=-1), "-1", -1),
    ],
)
def test_texts_become_values(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (word_bool, "maybe", "'maybe' is neither True"),
        (csv(int), "1,x", "'1,x': the item 'x' is not a whole number"),
        (bracket_list(), "[3", r"'\[3' has one bracket only"),
        (bracket_list(), "[3,,5]", "the item '' is not a whole number"),
        (tuple_literal, "3", r"'3' is not a tuple such as \(0,0,1\)"),
        (tuple_literal, "(0", r"is not a tuple such as"),
        (tuple_literal, "__import__('os')", r"is not a tuple such as"),
        (positive_int, "0", "0 is not a whole number >= 1"),
        (positive_int, "2.5", "'2.5' is not a whole number >= 1"),
        (positive_float, "0", "0 is not a number > 0"),
        (fraction, "1.5", "1.5 is not a number >= 0 and <= 1"),
        (fraction, "nan", "nan is not a number"),
    ],
)
def test_texts_that_do_not_fit_are_named(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)


def make_parser() -> Parser:
    parser = Parser("smp-caption train", "Train a captioning model.", version="1.2")
    parser.add_argument("--warmup_iters", type=int, default=4000)
    parser.add_argument("--batch_size", type=positive_int, default=15)
    parser.add_argument("--batch_size_eval", type=int, default=50)
    parser.add_argument("--optim", choices=["adam", "radam"], default="adam")
    parser.add_argument("--eval_beam_sizes", type=bracket_list(), default=(3,))
    parser.add_argument("--reinforce", type=word_bool, default=False)
    parser.add_own_argument("--warm", action="store_true", help="a flag of ours")
    parser.add_own_argument("--preset", choices=["faithful", "fixed"])
    return parser


def test_the_originals_flags_may_be_shortened() -> None:
    found = make_parser().parse_args(
        ["--warmup", "10", "--rein", "True", "--eval_beam_sizes", "[3,5]", "--op=radam"]
    )
    assert (found.warmup_iters, found.reinforce, found.optim) == (10, True, "radam")
    assert found.eval_beam_sizes == (3, 5)
    assert found.warm is False


def test_our_own_flags_match_in_full_only() -> None:
    assert make_parser().parse_args(["--warm"]).warm is True
    assert make_parser().parse_args(["--preset", "fixed"]).preset == "fixed"
    assert make_parser().parse_args(["--war", "7"]).warmup_iters == 7
    with pytest.raises(UserError, match="unknown flag --pres: did you mean --preset"):
        make_parser().parse_args(["--pres", "fixed"])
    with pytest.raises(UserError, match="unknown flag --pres: did you mean --preset"):
        make_parser().parse_args(["--pres=fixed"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batchsize", "3"], "smp-caption train: unknown flag --batchsize: did you mean --batch_size or"),
        (
            ["--batch", "3"],
            "smp-caption train: ambiguous option: --batch could match --batch_size, --batch_size_eval",
        ),
        (["--batch_size", "0"], "argument --batch_size: 0 is not a whole number >= 1"),
        (["--batch_size_eval", "x"], "argument --batch_size_eval: invalid int value: 'x'"),
        (["--optim", "adamm"], "argument --optim: 'adamm' is not possible: did you mean adam or radam"),
        (["--optim"], "argument --optim: expected one argument"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_wrong_arguments_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_parser().parse_args(argv)
    assert message in str(caught.value)


def test_help_begins_with_the_project_and_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("smp-caption train: Train a captioning model.\n")
    for flag in ("--warmup_iters", "--preset", "--version", "PruneLab's own flags"):
        assert flag in text
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--version"])
    assert capsys.readouterr().out == "smp-caption 1.2\n"


def pairs_parser() -> Parser:
    parser = Parser("acosp-seg train")
    parser.add_argument("--config", default="base.yaml")
    parser.add_pairs()
    parser.add_own_argument("--dry-run", action="store_true")
    parser.add_own_argument("--seed", type=int)
    return parser


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "a.yaml", "--dry-run", "--seed", "3", "epochs", "3", "TRAIN.rotate_min", "-10"],
        ["--config", "a.yaml", "epochs", "3", "TRAIN.rotate_min", "-10", "--dry-run", "--seed", "3"],
        ["--config", "a.yaml", "epochs", "3", "--dry-run", "TRAIN.rotate_min", "-10", "--seed=3"],
        ["epochs", "3", "--config", "a.yaml", "--seed", "3", "TRAIN.rotate_min", "-10", "--dry-run"],
    ],
)
def test_flags_may_stand_before_between_and_after_pairs(argv: list[str]) -> None:
    found = pairs_parser().parse_args(argv)
    assert found.pairs == ["epochs", "3", "TRAIN.rotate_min", "-10"]
    assert (found.config, found.dry_run, found.seed) == ("a.yaml", True, 3)


def test_pairs_may_be_absent_and_unknown_flags_after_them_are_found() -> None:
    assert pairs_parser().parse_args(["--config", "a"]).pairs == []
    with pytest.raises(UserError, match="unknown flag --dryrun: did you mean --dry-run"):
        pairs_parser().parse_args(["--config", "a", "epochs", "3", "--dryrun"])


def test_yaml_reads_exponents_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1e-4\nb: 1.5E+3\nc: 0.1\nd: [1e5, -2e-3]\ne: e5\nf: '1e-4'\ng:\nh: 12e03\n")
    assert read_yaml(file) == {
        "a": 1e-4,
        "b": 1500.0,
        "c": 0.1,
        "d": [1e5, -2e-3],
        "e": "e5",
        "f": "1e-4",
        "g": None,
        "h": 12000.0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a: 1\nb: 2\na: 3\n",
            r"x\.yaml: broken YAML at line 3, column 1: the key 'a' is there already in line 1",
        ),
        (b"a: [1\nb: 2\n", r"x\.yaml: broken YAML at line 2, column 2"),
        (
            b"a: !!python/object:os.system x\n",
            r"x\.yaml: broken YAML at line 1, column 4: could not determine",
        ),
        (b"a: \xff\n", r"x\.yaml: not a YAML text file: byte 3"),
        (b"a: \x01\n", r"x\.yaml: broken YAML"),
        (b"a: 2001-99-99\n", r"x\.yaml: broken YAML: month must be in 1\.\.12"),
    ],
)
def test_broken_yaml_names_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_yaml(file)


def test_a_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nothing.yaml")


def test_sections_are_joined_and_later_keys_win(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("DATA:\n  a: 1\n  b:\nEMPTY:\nTRAIN:\n  a: 2\n  scales: [1.0]\n")
    assert read_sections(file) == {"a": 2, "b": None, "scales": [1.0]}
    file.write_text("a: 1\n")
    with pytest.raises(UserError, match=r"a\.yaml: expected keys and values under a, not a whole number"):
        read_sections(file)
    file.write_text("")
    with pytest.raises(UserError, match="expected sections of keys and values, not nothing"):
        read_sections(file)


BASE = {
    "epochs": 100,
    "base_lr": 0.01,
    "scales": [1.0],
    "manual_seed": None,
    "evaluate": False,
    "save_path": "/logs",
    "pair": (1, 2),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (["epochs", "3"], {"epochs": 3}),
        (["TRAIN.base_lr", "0.5"], {"base_lr": 0.5}),
        (["scales", "(0.5, 1.0)"], {"scales": [0.5, 1.0]}),
        (["scales", "[1]"], {"scales": [1]}),
        (["pair", "[3, 4]"], {"pair": (3, 4)}),
        (["evaluate", "True"], {"evaluate": True}),
        (["save_path", "/some/dir"], {"save_path": "/some/dir"}),
        (["save_path", "'3'"], {"save_path": "3"}),
        (["epochs", "3", "epochs", "4"], {"epochs": 4}),
        ([], {}),
    ],
)
def test_pairs_go_over_the_file(pairs: list[str], changed: dict[str, Any], strict: bool) -> None:
    assert apply_pairs(BASE, pairs, strict=strict) == {**BASE, **changed}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["epochs", "3.0"], "epochs '3.0': expected a whole number like 100, not a number with a point"),
        (["epochs", "x"], "epochs 'x': expected a whole number like 100, not text"),
        (["evaluate", "maybe"], "evaluate 'maybe': expected True or False like False, not text"),
        (["scales", "1.0"], "expected a list like"),
        (["epoch", "1"], "the config file has no key 'epoch': did you mean epochs"),
        (["epochs"], "KEY VALUE pairs: 'epochs' has no value"),
    ],
)
def test_pairs_that_do_not_fit_are_named(pairs: list[str], message: str, strict: bool) -> None:
    with pytest.raises(UserError, match=message):
        apply_pairs(BASE, pairs, strict=strict)


@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (["base_lr", "1"], {"base_lr": 1.0}),
        (["manual_seed", "1"], {"manual_seed": 1}),
        (["manual_seed", "x.pth"], {"manual_seed": "x.pth"}),
        (["evaluate", "true"], {"evaluate": True}),
        (["sparsity", "0.5"], {"sparsity": 0.5}),
    ],
)
def test_what_only_the_mended_rule_accepts(pairs: list[str], changed: dict[str, Any]) -> None:
    assert apply_pairs(BASE, pairs, also=["sparsity"]) == {**BASE, **changed}
    with pytest.raises(UserError):
        apply_pairs(BASE, pairs, also=["sparsity"], strict=True)


def test_a_bool_never_stands_for_a_number() -> None:
    with pytest.raises(UserError, match="epochs 'True': expected a whole number"):
        apply_pairs(BASE, ["epochs", "True"])
