"""Commands as documents show them: understood as their programs understand them, without running any."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_vit import cli
from apt_vit.config import Config
from apt_vit.lowering import FIELDS, lower, lower_infer, lower_test
from apt_vit.model import build

PROJECT = Path(__file__).resolve().parents[1]
UV = ["uv", "run", "--package", "apt-vit"]
LAUNCHERS = ("local.sh", "train_cifar.sh", "slurm.sh")
SHIMS = ("train.py", "infer.py")


def changed(cfg: Config, **values: Any) -> Config:
    """A configuration with some fields set."""
    for name, value in values.items():
        group = FIELDS.group_of[name]
        cfg = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
    return cfg


def typed(words: str) -> Config:
    """What a command line of `train` means."""
    return lower(cli.parse_train(words.split()))


def inferred(words: str) -> Config:
    """What a command line of `infer` means, of a model that says nothing about itself."""
    return lower_infer(cli.parse_infer(words.split()))


def script_words(script: Path) -> list[str]:
    """What follows ``launch`` in a launch file, its variables and further arguments left as they are."""
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("launch "))
    return line.replace('"$@"', "").replace('"', "").split()[1:]


class Documented:
    """Tries commands in a folder where they leave nothing behind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.networks: set[str] = set()

    def understood(self, words: list[str]) -> bool:
        """Whether a command does what it says, as far as that can be told without data and models."""
        words = words[len(UV) :] if words[: len(UV)] == UV else words
        while "=" in words[0]:  # a variable of the environment
            words = words[1:]
        match words:
            case ["sh" | "sbatch", script, *rest] if Path(script).name in LAUNCHERS:
                return self.launched(PROJECT / "scripts" / Path(script).name, rest)
            case ["torchrun", "--nproc_per_node", _, "-m", module, *rest]:
                return self.parsed(module.removeprefix("apt_vit."), rest)
            case ["python", "-m", module, *rest] if module.startswith("apt_vit."):
                return self.parsed(module.removeprefix("apt_vit."), rest)
            case ["python" | "python3", script, *rest] if script in SHIMS:
                return self.shim(PROJECT / script, rest)
            case [program, *rest]:
                return self.parsed(program, rest)
        return False

    def launched(self, script: Path, rest: list[str]) -> bool:
        """A launch file's command: it is there, and its program understands what is left of the words."""
        assert script.is_file()
        match script.name, rest:
            case "local.sh", [program, *more]:
                return self.parsed(program, more)
            case "train_cifar.sh", [classes, *more]:
                program, *own = [word.replace("$classes", classes) for word in script_words(script)]
                return self.parsed(program, [*own, *more])
            case "slurm.sh", [launcher, *more]:
                return self.launched(script.with_name(f"{launcher}.sh"), more)
        return False

    def parsed(self, program: str, rest: list[str]) -> bool:
        """The program takes the arguments, and the network of a configuration can be built."""
        match program:
            case "train":
                return self.builds(lower(cli.parse_train(rest)))
            case "test":
                return self.builds(lower_test(cli.parse_test(rest)))
            case "infer":
                return self.builds(lower_infer(cli.parse_infer(rest)))
            case "compare":
                return self.builds(lower(cli.parse_compare(rest)[0]))
            case "bench":
                from apt_vit.bench import ROWS

                return set(rest) <= ROWS.keys()
        parse = {"demo": cli.parse_demo, "convert": cli.parse_convert, "export": cli.parse_export}[program]
        return bool(parse(rest))

    def builds(self, cfg: Config) -> bool:
        """The network of a configuration can be built; each kind is once."""
        key = str(replace(cfg.model, pretrained_dir=""))
        if key not in self.networks:
            with torch.device("meta"):
                build(cfg.model)
            self.networks.add(key)
        return True

    def shim(self, script: Path, rest: list[str]) -> bool:
        """A file under the original's name runs dry, and the network can be built."""
        self.monkeypatch.setattr(sys, "argv", [script.name, *rest, "--dry-run"])
        runpy.run_path(str(script), run_name="__main__")
        return self.parsed(script.stem, rest)
