"""Command lines parse to exactly the expected config, and bad ones to one line."""

from __future__ import annotations

import pytest

from apt_vit.cli import parse
from apt_vit.config import Config, OptimConfig, RunOptions, lower
from apt_vit.demo import main as demo
from apt_vit.test import main as evaluate
from apt_vit.train import main as train
from prunelab.errors import UserError


def test_no_argument_gives_the_defaults() -> None:
    assert lower(parse("train", [])) == Config()


def test_flags_and_prefixes_of_the_original_reach_their_fields() -> None:
    typed = parse("train", ["--learn", "0.5", "--seed", "3", "--resume"])
    assert lower(typed) == Config(optim=OptimConfig(learning_rate=0.5), run=RunOptions(seed=3, resume=True))


def test_an_unknown_flag_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="learning_rate"):
        parse("train", ["--lerning_rate", "1"])


@pytest.mark.parametrize("main", [train, evaluate, demo])
def test_dry_run_prints_the_config(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    main(["--dry-run"])
    assert "preset: fixed" in capsys.readouterr().out
