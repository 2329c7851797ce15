"""The phases' launch files say what the paper did, and every kind of training runs on made data."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from expansionnet import cli, train
from expansionnet.config import PRESETS, SCHEDULES, Config, SwinConfig
from expansionnet.layout import KINDS, run_kind
from expansionnet.lowering import FIELDS, MODEL_SIZES, TOUR, lower, lower_values
from prunelab.config import from_plain, to_plain, yaml_text
from prunelab.doors import field_docs

from .commands import PROJECT, README_COMMANDS, launch_words, parameters, typed, words_of

pytestmark = pytest.mark.usefixtures("alone")

PHASES = sorted((PROJECT / "scripts").rglob("phase*.sh"))
DIFFERENT: dict[str, dict[str, str]] = {}
"""Values of launch files that differ from the original's commands, with the reason: none does."""
BODY, BACKBONE = 38_604_560, 195_198_516
"""Parameters of the published model, with COCO's 10,000 words and 74 positions."""


def meant(phase: Path) -> tuple[str, Any]:
    """The command of a launch file and what it means."""
    command, *words = launch_words(phase)
    if command == "train":
        return command, lower(cli.parse_train(words))
    return command, cli.parse_data_generator(words)


def test_there_are_six_phases_two_of_them_compute_features() -> None:
    assert [phase.name for phase in PHASES] == [f"phase{number}.sh" for number in range(1, 7)]
    commands = [meant(phase)[0] for phase in PHASES]
    assert commands == ["data_generator", "train", "train", "data_generator", "train", "train"]
    assert {run_kind(cfg) for command, cfg in map(meant, PHASES) if command == "train"} == set(KINDS)


@pytest.mark.parametrize("phase", PHASES, ids=lambda path: path.stem)
def test_a_phase_means_what_the_originals_command_means(phase: Path) -> None:
    command, ours = meant(phase)
    _, _, *words = words_of(README_COMMANDS[phase.stem])
    theirs = lower(cli.parse_train(words)) if command == "train" else cli.parse_data_generator(words)
    plain = FIELDS.values(ours) if command == "train" else vars(ours)
    originals = FIELDS.values(theirs) if command == "train" else vars(theirs)
    different = {name for name, value in plain.items() if value != originals[name]}
    assert different == DIFFERENT.get(phase.stem, {}).keys()


@pytest.mark.parametrize("phase", PHASES, ids=lambda path: path.stem)
def test_a_launch_file_says_where_it_comes_from_and_what_to_expect(phase: Path) -> None:
    shell, *header = phase.read_text(encoding="utf-8").partition("\nset -eu")[0].splitlines()
    assert shell == "#!/bin/sh"
    text = "\n".join(header)
    for word in ("ExpansionNet v2 (Hu et al., BigData 2023)", "Row: ", "Expected: ", "Hardware there: "):
        assert word in text
    assert re.search(rf"Phase {phase.stem[-1]} of 6: .+\.", text)
    assert f"sh projects/expansionnet/scripts/{phase.name}" in text


@pytest.mark.parametrize("phase", PHASES, ids=lambda path: path.stem)
def test_a_phase_builds_the_published_model(phase: Path) -> None:
    command, found = meant(phase)
    if command == "data_generator":
        assert found.swin == SwinConfig()
        assert (found.swin.tokens, found.swin.width) == (144, 1536)
        return
    counts = parameters(found)
    assert counts == {"body": BODY, "backbone": BACKBONE if found.model.is_end_to_end else 0}
    assert BODY + BACKBONE == 233_803_076


def test_every_preset_and_size_of_model_can_be_built() -> None:
    counts = {
        (size, preset): parameters(lower_values({"model_size": size, "preset": preset}))
        for size in MODEL_SIZES
        for preset in PRESETS
    }
    assert len({str(count) for count in counts.values()}) == len(MODEL_SIZES)
    assert counts["paper", "fixed"] == {"body": BODY, "backbone": BACKBONE}
    assert parameters(lower_values(TOUR))["body"] < 2_500_000


# --- what a configuration is ---


def test_every_field_and_every_group_has_a_docstring() -> None:
    for cls in (*FIELDS.groups.values(), SwinConfig, Config):
        assert cls.__doc__
        assert field_docs(cls).keys() == {f.name for f in fields(cls)}


@given(
    beams=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    steps=st.none() | st.integers(1, 10**6),
    preset=st.sampled_from(PRESETS),
    schedule=st.sampled_from(SCHEDULES),
    rate=st.floats(1e-9, 10),
    path=st.text(max_size=8),
    depths=st.lists(st.integers(1, 3), min_size=4, max_size=4).map(tuple),
)
@settings(max_examples=20, deadline=None)
def test_a_configuration_survives_its_file(
    beams: Any, steps: int | None, preset: str, schedule: str, rate: float, path: str, depths: Any
) -> None:
    cfg = lower_values(
        {
            **{"eval_beam_sizes": beams, "max_steps": steps, "preset": preset, "sched_type": schedule},
            **{"lr": rate, "features_path": path, "swin_depths": depths},
        }
    )
    assert from_plain(Config, yaml.safe_load(yaml_text(to_plain(cfg)))) == cfg


# --- two steps of every kind ---

SMALLER = (
    "--model-size testing --model_dim 32 --N_enc 2 --N_dec 2 --fake-data --max-steps 2 --batch_size 4 "
    "--workers 0 --device cpu --print_every_iter 1 --max-len 6 --scst_max_len 5 --num-samples 2"
)
"""What makes a phase quick enough for a CPU."""
FROM_SCRATCH = ["--partial_load", "False", "--backbone_save_path", "", "--body_save_path", ""]
"""Phases begin with weights that are not here."""
MORE = [
    "--preset fixed --is_end_to_end True --num_accum 3 --sched_type annealing",
    "--preset fixed --reinforce True --is_end_to_end False --baseline greedy --end-in-reward false",
]


def two_steps(words: list[str], folder: Path) -> Path:
    """Train two steps from scratch."""
    rest = [*SMALLER.split(), *FROM_SCRATCH, "--output", str(folder / "run")]
    train.main([*words, *rest])
    return folder / "run"


@pytest.mark.tiny
@pytest.mark.parametrize("phase", [2, 3, 5, 6])
def test_two_steps_of_every_phase_on_made_data(phase: int, tmp_path: Path) -> None:
    _, *words = launch_words(PROJECT / f"scripts/phase{phase}.sh")
    run = two_steps(words, tmp_path)
    for name in ("best/model.safetensors", "last/vocabulary.json", "config.yaml", "metrics.jsonl"):
        assert (run / name).is_file()


@pytest.mark.tiny
@pytest.mark.slow
@pytest.mark.parametrize("words", MORE)
def test_two_steps_of_other_configurations(words: str, tmp_path: Path) -> None:
    run = two_steps(words.split(), tmp_path)
    assert (run / "last/model.safetensors").is_file()


@pytest.mark.tiny
@pytest.mark.slow
@pytest.mark.parametrize("phase", [2, 5])
def test_two_steps_of_the_phases_that_read_features_at_full_size(phase: int, tmp_path: Path) -> None:
    _, *words = launch_words(PROJECT / f"scripts/phase{phase}.sh")
    full = "--fake-data --max-steps 2 --batch_size 2 --workers 0 --device cpu --max-len 4 --scst_max_len 4"
    train.main([*words, *full.split(), *FROM_SCRATCH, "--output", str(tmp_path / "run")])
    assert (tmp_path / "run/last/model.safetensors").is_file()


def test_a_training_by_reward_keeps_what_was_typed() -> None:
    assert typed("--reinforce True --num-samples 3").scst.num_samples == 3
