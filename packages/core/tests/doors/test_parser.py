from __future__ import annotations

import argparse

import pytest

from prunelab.doors import Parser, bracket_list, positive_int, word_bool
from prunelab.errors import UserError


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


def test_our_own_flags_may_be_typed_with_underscores_unless_the_original_has_that_flag() -> None:
    parser = Parser("smp-caption train", argument_default=argparse.SUPPRESS)
    parser.add_argument("--beam_size", type=int, dest="theirs")
    parser.add_own_argument("--beam-size", type=int, dest="ours")
    parser.add_own_argument("--max-steps", type=int)
    for words in (["--max_steps", "3"], ["--max-steps=3"], ["--max_steps=3"]):
        assert vars(parser.parse_args(words)) == {"max_steps": 3}
    assert vars(parser.parse_args(["--beam_size", "3", "--beam-size", "4"])) == {"theirs": 3, "ours": 4}
    with pytest.raises(UserError, match="unknown flag --max_step: did you mean --max-steps"):
        parser.parse_args(["--max_step", "3"])
    assert "--max_steps" not in parser.format_help()


def test_pairs_may_be_absent_and_unknown_flags_after_them_are_found() -> None:
    assert pairs_parser().parse_args(["--config", "a"]).pairs == []
    with pytest.raises(UserError, match="unknown flag --dryrun: did you mean --dry-run"):
        pairs_parser().parse_args(["--config", "a", "epochs", "3", "--dryrun"])
