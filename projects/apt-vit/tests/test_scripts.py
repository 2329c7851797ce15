"""The original's file names start our commands, and launch files work from any folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from testing.launching import RECORDER, SLOW, SLURM, SRUN, copy_of, got, interrupted, stand_ins, start

from .commands import PROJECT, SHIMS, script_words, typed

SCRIPTS = PROJECT / "scripts"
README = (
    "--name cifar10-100_500 --dataset cifar100 --model_type ViT-B_16 --pretrained_dir checkpoint/ViT-B_16.npz"
)
"""Behind both programs in the original's README."""


@pytest.mark.parametrize("shim", SHIMS)
@pytest.mark.usefixtures("alone")
def test_commands_of_the_originals_readme_start_ours(
    shim: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [shim, *README.split(), "--dry-run"])
    runpy.run_path(str(PROJECT / shim), run_name="__main__")
    assert "ViT-B_16 on cifar100" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_every_program_of_the_original_has_a_file_of_few_lines() -> None:
    for shim in SHIMS:
        lines = [line for line in (PROJECT / shim).read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) <= 5
        assert lines[0].startswith('"""The original\'s ')


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what launch files need of this project."""
    return copy_of(PROJECT, tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python and SLURM's commands are stand-ins that record."""
    return stand_ins(tmp_path, {"recorder": RECORDER, "srun": SRUN, **SLURM})


def published(classes: str) -> list[str]:
    """The arguments of a row of the published table."""
    return [word.replace("$classes", classes) for word in script_words(SCRIPTS / "train_cifar.sh")[1:]]


@pytest.mark.parametrize("classes", ["10", "100"])
def test_a_row_of_the_published_table_starts_from_any_folder_and_passes_arguments_on(
    classes: str, project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "scripts/train_cifar.sh", [classes, "--device", "a b"], machine, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in {project}" in done.stdout
    assert got(done) == ["-m", "apt_vit.train", *published(classes), "--device", "a b"]
    named = f"--name cifar{classes} --dataset cifar{classes}"
    assert typed(" ".join(published(classes))) == typed(named)


def test_several_processes_are_started_by_torchrun(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    local = project / "scripts/local.sh"
    begin = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    every = got(start(local, ["train", "--name", "x"], machine, tmp_path))
    assert every == [*begin, "3", "-m", "apt_vit.train", "--name", "x"]
    two = got(start(local, ["test", "--model", "x"], machine | {"PROCESSES": "2"}, tmp_path))
    assert two == [*begin, "2", "-m", "apt_vit.test", "--model", "x"]
    failed = start(local, ["infer"], machine | {"PROCESSES": "1", "STATUS": "7"}, tmp_path)
    assert failed.returncode == 7


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("local.sh", ["tran"], "tran is no command to start here, expected train, test or infer"),
        ("local.sh", [], "nothing is no command to start here"),
        ("train_cifar.sh", ["1000"], "1000 is no number of classes here, expected 10 or 100"),
        ("slurm.sh", ["common"], "common is no launch file, expected train_cifar or local"),
        ("slurm.sh", [], "nothing is no launch file"),
    ],
)
def test_mistakes_at_a_start_are_one_line(
    script: str, words: list[str], message: str, project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "scripts" / script, words, machine, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_cluster_gets_one_task_a_node_and_goes_on_after_a_stop(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    job = machine | {"SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    job |= {"PROJECT": str(project)}
    copied = tmp_path / "spool/job41"
    copied.parent.mkdir()
    copied.write_text((SCRIPTS / "slurm.sh").read_text())
    done = start(copied, ["train_cifar", "100", "--amp", "bf16"], job, tmp_path)
    meet = ["--rdzv_id", "41", "--rdzv_backend", "c10d", "--rdzv_endpoint", "node7:20041"]
    begin = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "4", *meet]
    assert got(done) == [*begin, "-m", "apt_vit.train", *published("100"), "--amp", "bf16", "--resume"]
    lost = start(copied, ["train_cifar", "10"], {**job, "PROJECT": ""}, tmp_path)
    assert lost.returncode == 2
    assert "set PROJECT=" in lost.stderr


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_saves_and_asks_to_be_requeued(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/recorder").write_text(SLOW)
    job = machine | {"SLURM_JOB_ID": "41"}
    words = ["train_cifar", "10"]
    code, out = interrupted(project / "scripts/slurm.sh", words, job, project / "started")
    assert code == 0
    assert out.startswith("saved\n")
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=TERM 41", "scontrol requeue 41"]
