"""Commands as documents show them: understood as their programs understand them, without running any."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from acosp_seg import cli, study
from acosp_seg.config import Config
from acosp_seg.lowering import lower, lower_cifar10, lower_test
from acosp_seg.model import build
from acosp_seg.options import StudyOptions

PROJECT = Path(__file__).resolve().parents[1]
UV = ["uv", "run", "--package", "acosp-seg"]
PARSERS = {
    "prepare": cli.parse_prepare,
    "convert": cli.parse_convert,
    "export": cli.parse_export,
    "demo": cli.parse_demo,
    "compare": cli.parse_compare,
    "study": cli.parse_create_study,
}
"""Programs whose arguments are read, since nothing that they need is there."""


class Documented:
    """Tries commands in a folder where they leave nothing behind."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        # Launch files make a missing configuration of the study, so it is there for them.
        options = StudyOptions(
            template=str(PROJECT / "config/camvid/camvid_segnet_base.yaml"), output=str(folder)
        )
        self.study = {path.stem: path for path in study.create_study(options)}
        self.networks: set[str] = set()

    def understood(self, words: list[str]) -> bool:
        """Whether a command does what it says, as far as that can be told without data and models."""
        words = words[len(UV) :] if words[: len(UV)] == UV else words
        match words:
            case ["sh", "tool/train_cifar10.sh", sparsity, *rest]:
                return self.builds(
                    lower_cifar10(cli.parse_train_cifar10(["x", "--sparsity", sparsity, *rest]))
                )
            case ["sh", "tool/train.sh" | "tool/test.sh" as script, dataset, name, *rest]:
                return self.launched(Path(script).stem, dataset, name, rest)
            case ["python", "-c", code]:
                exec(compile(code, "command", "exec"), {})
                return True
            case ["sh", "tool/make_video.sh", *folders]:
                return len(folders) in (2, 5)
            case ["python", "-m", module, *rest] if module.startswith("acosp_seg."):
                return self.parsed(module.removeprefix("acosp_seg."), rest)
            case ["python", script, *rest] if script.startswith("tool/"):
                return self.shim(PROJECT / script, rest)
            case [program, *rest]:
                return self.parsed(program, rest)
        return False

    def launched(self, program: str, dataset: str, name: str, rest: list[str]) -> bool:
        """A launch file's command: its configuration is there and builds its network."""
        stem = f"{dataset}_{name}"
        path = self.study.get(stem, PROJECT / "config" / dataset / f"{stem}.yaml")
        return self.parsed(program, ["--config", str(path), *rest])

    def parsed(self, program: str, rest: list[str]) -> bool:
        """The program takes the arguments, and the network of a training can be built."""
        if program == "train":
            return self.builds(lower(cli.parse_train(rest)))
        if program == "test":
            raw = cli.parse_test(rest)
            return raw.config_file is None or self.builds(lower_test(raw))
        return bool(PARSERS[program](rest))

    def builds(self, cfg: Config) -> bool:
        """The network of a configuration can be built; each kind is once."""
        key = str(cfg.model)
        if key not in self.networks:
            with torch.device("meta"):
                build(cfg.model)
            self.networks.add(key)
        return True

    def shim(self, script: Path, rest: list[str]) -> bool:
        """A file under the original's name runs dry."""
        self.monkeypatch.setattr(sys, "argv", [script.name, *rest, "--dry-run"])
        runpy.run_path(str(script), run_name="__main__")
        return True
