"""Shipped configurations train: two steps of a small model on generated data in the real layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smp_caption import cli, train
from smp_caption.config import Config
from smp_caption.lowering import lower, run_folder

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path for path in (PROJECT / "config").rglob("*.yaml") if path.parent.name != "tiny")
SMALL = (
    "--fake-data --max-steps 2 --model_size testing --batch_size 2 --batch_size_eval 4 --num_workers 0 "
    "--device cpu --beam_size_test 2 --beam_size_val 1 --prune_gradual_frequency 1"
)
FAMILIES = {
    "Up-Down": ["--config", "config/up_down/gradual_0.95.yaml"],
    "transformer": ["--caption_model", "transformer"],
    "pruned transformer": ["--caption_model", "transformer_prune", "--prune_type", "snip"],
    "ORT": ["--config", "config/ort/smp_0.95.yaml"],
    "ACORT": ["--config", "config/acort/base.yaml"],
}


def of(path: Path) -> Config:
    return lower(cli.parse_train(["--config", str(path)]))


def finishes(words: list[str]) -> Path:
    """Run two steps and look at what they leave."""
    train.main([*words, *SMALL.split()])
    run = run_folder(lower(cli.parse_train([*words, *SMALL.split()])))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "test/CIDEr" in {name for line in lines for name in line}
    assert list(run.glob("test_beam_2/caption_*.json"))
    return run


@pytest.mark.parametrize("words", FAMILIES.values(), ids=FAMILIES)
def test_two_steps_of_each_family(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNELAB_RUNS", str(tmp_path))
    monkeypatch.chdir(PROJECT)
    assert finishes(words).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=[str(path.relative_to(PROJECT)) for path in CONFIGS])
def test_two_steps_of_every_configuration_after_those_of_the_run_that_it_starts_from(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.getbasetemp() / "runs_of_configurations"
    monkeypatch.setenv("PRUNELAB_RUNS", str(root))
    made_by = {run_folder(of(file)).name: file for file in CONFIGS}

    def once(file: Path) -> Path:
        folder = run_folder(of(file))
        if (folder / "metrics.jsonl").is_file():
            return folder
        if start := of(file).run.start_from:
            once(made_by[Path(start).parts[1]])
        return finishes(["--config", str(file)])

    assert (once(path) / "config.yaml").is_file()
