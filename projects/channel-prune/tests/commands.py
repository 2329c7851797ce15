"""Commands as documents show them: understood as their programs understand them, without running any."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from channel_prune import cli
from channel_prune.config import FOREIGN, Config
from channel_prune.lowering import COPIED, FIELDS, Raw, lower, lower_prune, lower_test
from channel_prune.model import build

PROJECT = Path(__file__).resolve().parents[1]
UV = ["uv", "run", "--package", "channel-prune"]
PRUNED = "--learner=chn-pruned-rmt"
LAUNCHERS = ("run_local.sh", "run_docker.sh", "run_seven.sh")
PARSERS = {
    "demo": cli.parse_demo,
    "convert": cli.parse_convert,
    "export": cli.parse_export,
    "compare": cli.parse_compare,
}
"""Programs whose arguments are read, since nothing that they need is there."""


def changed(cfg: Config, **values: Any) -> Config:
    """A configuration with some fields set, copies included."""
    for name, value in values.items():
        groups = {FIELDS.group_of[name], *(("prune",) if name in COPIED else ())}
        for group in groups:
            cfg = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
    return cfg


def value(cfg: Config, name: str) -> Any:
    """A field, by its name alone."""
    return getattr(getattr(cfg, FIELDS.group_of[name]), name)


def typed(words: str, program: str | None = None) -> Config:
    """What a command line of `train`, or of one of the original's programs, means."""
    start = [f"--program={program}_run"] if program else []
    return lower(cli.parse_train([*start, *words.split()]))


def base(program: str) -> Config:
    """What one of the original's programs does without flags."""
    return lower(Raw(program=f"{program}_run"))


class Documented:
    """Tries commands in a folder where they leave nothing behind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.networks: set[str] = set()

    def understood(self, words: list[str]) -> bool:
        """Whether a command does what it says, as far as that can be told without data and models."""
        words = words[len(UV) :] if words[: len(UV)] == UV else words
        words = words[1:] if words[0] == "sh" else words
        match words:
            case [script, program, *rest] if Path(script).name in LAUNCHERS:
                return self.launched(PROJECT / "scripts" / Path(script).name, program, rest)
            case ["python", "-m", module, *rest] if module.startswith("channel_prune."):
                return self.parsed(module.removeprefix("channel_prune."), rest)
            case ["python", "-c", code]:
                exec(compile(code, "command", "exec"), {})
                return True
            case ["python", script, *rest] if script.startswith("tools/conversion/"):
                assert (PROJECT / script).is_file()
                return self.parsed("export", rest)
            case ["python", script, *rest]:
                return self.shim(PROJECT / script, rest)
            case [program, *rest]:
                return self.parsed(program, rest)
        return False

    def launched(self, script: Path, program: str, rest: list[str]) -> bool:
        """A launch file's command: it is there, and the program understands what is left of the flags."""
        left = [word for word in rest if not word.startswith(("-n=", "--nb_gpus="))]
        assert script.is_file()
        return self.shim(PROJECT / program, left)

    def parsed(self, program: str, rest: list[str]) -> bool:
        """The program takes the arguments, and the network of a training can be built."""
        match program:
            case "train":
                return self.builds(lower(cli.parse_train(rest)))
            case "test":
                return self.builds(lower_test(cli.parse_test([*rest, "--dry-run"])))
            case "prune":
                return self.builds(lower_prune(cli.parse_prune([*rest, "--dry-run"])))
            case "bench":
                from channel_prune.bench import ROWS

                return set(rest) <= ROWS.keys()
        return bool(PARSERS[program](rest))

    def builds(self, cfg: Config) -> bool:
        """The network of a configuration can be built; each kind is once, those of other packages never."""
        key = str(cfg.net)
        if key not in self.networks and not cfg.net.name.startswith(FOREIGN):
            # normal numbers on the meta device load all of torch's compiler; this network is a small one
            with torch.device("cpu" if cfg.net.name == "resnet_v1" else "meta"):
                build(cfg.net)
            self.networks.add(key)
        return True

    def shim(self, script: Path, rest: list[str]) -> bool:
        """A file under the original's name runs dry, and the network of a training can be built."""
        self.monkeypatch.setattr(sys, "argv", [script.name, *rest, "--dry-run"])
        runpy.run_path(str(script), run_name="__main__")
        if script.parent.name == "nets":
            return self.builds(lower(cli.parse_train([f"--program={script.stem}", *rest])))
        return True
