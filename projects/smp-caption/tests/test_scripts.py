"""The original's file names start our commands, and launch files work from any folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from testing.launching import SLOW, SLURM, interrupted, stand_ins, start

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

# A stand-in for Python: says where it is, what it was asked for and what torchrun would tell it.
RECORDER = """#!/bin/sh
echo "in $(pwd)"
echo "got $*"
echo "rank ${RANK:-none} of ${WORLD_SIZE:-none} at ${MASTER_ADDR:-none}"
"""
SRUN = """#!/bin/sh
shift
SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2 exec "$@"
"""


COMMANDS = [
    ("train_transformer.py", "--caption_model up_down_lstm --lr_scheduler cosine"),
    ("train_transformer.py", "--share_layer_encoder (0,0,0,1,1,1) --tokenizer radix --scst_start_epoch 0"),
    ("train_n_prune_transformer.py", "--caption_model up_down_lstm_prune --prune_type supermask"),
    ("train_n_prune_transformer.py", "--caption_model relation_transformer_prune --prune_type mask_freeze"),
    ("eval_model.py", "--log_dir runs --id a --beam_size_test 2"),
    ("make_bu_data.py", "--downloaded_feats bu_data --output_dir mscoco/bu/cocobu"),
    ("prepro_bbox_relative_coords.py", "--input_json a.json --image_root mscoco --input_box_dir box"),
    ("prepro_labels.py", "--input_json a.json --output_json b.json --output_h5 b --word_count_threshold 2"),
    ("prepro_ngrams.py", "--input_json a.json --dict_json b.json --output_pkl coco-train --split train"),
    ("collect_scores.py", "--log_dir runs"),
    ("collect_captions_plus.py", "runs/a runs/b"),
    ("plot_scores.py", "runs"),
    ("plot_sparsities.py", "runs/a runs/b"),
]


def test_every_program_is_tried() -> None:
    ours = {
        "binarize_supermask.py",
        "config_file.py",
        "make_configs.py",
    }  # tried below, and in test_configs.py
    assert {path.name for path in SCRIPTS.glob("*.py")} == {name for name, _ in COMMANDS} | ours
    assert {path.name for path in SCRIPTS.glob("*.sh")} == {"train.sh", "pipeline.sh", "slurm.sh"}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_file_names_of_the_original_start_our_commands(
    name: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *words.split(), "--dry-run"])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


def test_rounding_masks_of_a_run_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["binarize_supermask.py", "--log_dir", str(tmp_path), "--id", "a"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS / words[0]), run_name="__main__")
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {tmp_path / 'a'}")
    assert shown.count("\n") == 1


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python and SLURM's commands are stand-ins that record."""
    return stand_ins(tmp_path, {"recorder": RECORDER, "srun": SRUN, **SLURM}, SLURM_JOB_ID="41")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.sh", "slurm.sh"])
def test_launch_files_start_from_any_folder(name: str, tools: dict[str, str], tmp_path: Path) -> None:
    words = ["--id", "two words"]
    done = start(SCRIPTS / name, words, tools | {"PROCESSES": "3"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in {SCRIPTS.parent}" in done.stdout
    if name == "train.sh":
        assert "--nproc_per_node 3 -m smp_caption.train --id two words" in done.stdout
    else:
        assert "-m smp_caption.train --resume --id two words" in done.stdout
        assert "rank 1 of 2 at node7" in done.stdout


@pytest.mark.slow
def test_phases_are_trained_one_after_the_other_from_any_folder(
    tools: dict[str, str], tmp_path: Path
) -> None:
    words = ["config/a b.yaml", "config/c.yaml", "--", "--num_workers", "8"]
    done = start(SCRIPTS / "pipeline.sh", words, tools | {"PROCESSES": "2"}, tmp_path)
    assert done.returncode == 0, done.stderr
    got = [line for line in done.stdout.splitlines() if line.startswith("got")]
    ends = [
        f"-m smp_caption.train --resume --config config/{name}.yaml --num_workers 8" for name in ("a b", "c")
    ]
    assert [line.endswith(end) for line, end in zip(got, ends, strict=True)] == [True, True]
    alone = start(SCRIPTS / "pipeline.sh", ["--", "--seed", "3"], tools, tmp_path)
    assert alone.returncode == 2
    assert "no configuration" in alone.stderr


@pytest.mark.slow
def test_a_phase_that_fails_ends_the_training(tools: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin/recorder").write_text("#!/bin/sh\necho tried\nexit 3\n")
    done = start(SCRIPTS / "pipeline.sh", ["a.yaml", "b.yaml"], tools | {"PROCESSES": "2"}, tmp_path)
    assert done.returncode == 3
    assert done.stdout.count("tried") == 1


@pytest.mark.slow
def test_slurm_file_tells_the_tasks_to_stop_and_asks_to_be_requeued(
    tools: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/recorder").write_text(SLOW)
    project = tmp_path / "project"
    (project / "src/smp_caption").mkdir(parents=True)
    (project / "src/smp_caption/train.py").touch()
    copied = tmp_path / "spool" / "job41"
    copied.parent.mkdir()
    copied.write_text((SCRIPTS / "slurm.sh").read_text())
    environment = tools | {"PROJECT": str(project)}
    status, out = interrupted(copied, [], environment, project / "started")
    assert status == 0
    assert out.startswith("saved\n")
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=USR1 41", "scontrol requeue 41"]


@pytest.mark.slow
def test_slurm_file_says_what_is_missing(tools: dict[str, str], tmp_path: Path) -> None:
    copied = tmp_path / "job41"
    copied.write_text((SCRIPTS / "slurm.sh").read_text())
    done = start(copied, [], tools, tmp_path)
    assert done.returncode == 2
    assert "set PROJECT=" in done.stderr
