"""The original's file names are few lines, and launch files work from any folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from expansionnet import processes
from expansionnet.layout import KINDS
from expansionnet.lowering import model_config
from expansionnet.model.swin import build_swin, to_official
from prunelab.errors import UserError
from testing.launching import RECORDER, SLOW, SLURM, SRUN, copy_of, got, interrupted, stand_ins, start

from .commands import PROJECT, README_COMMANDS, launch_words, words_of

SCRIPTS = PROJECT / "scripts"
SHIMS = [PROJECT / words_of(command)[1] for command in README_COMMANDS.values()]


def test_every_program_of_the_originals_readme_has_a_file_of_few_lines() -> None:
    assert len(set(SHIMS)) == 6
    for path in SHIMS:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) <= 6
        assert lines[0].startswith('"""The original\'s ')


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what launch files need of this project."""
    return copy_of(PROJECT, tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python and SLURM's commands are stand-ins that record."""
    return stand_ins(tmp_path, {"recorder": RECORDER, "srun": SRUN, **SLURM})


@pytest.mark.parametrize("phase", range(1, 7))
def test_a_phase_starts_its_command_from_any_folder_and_passes_arguments_on(
    phase: int, project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / f"scripts/phase{phase}.sh", ["--device", "a b"], machine, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in {project}" in done.stdout
    command, *words = launch_words(SCRIPTS / f"phase{phase}.sh")
    assert got(done) == ["-m", f"expansionnet.{command}", *words, "--device", "a b"]


def test_several_processes_are_started_by_torchrun(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    local = project / "scripts/local.sh"
    begin = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    all_of_them = got(start(local, ["train", "--lr", "1"], machine, tmp_path))
    assert all_of_them == [*begin, "3", "-m", "expansionnet.train", "--lr", "1"]
    two = got(start(local, ["test", "--model", "x"], machine | {"PROCESSES": "2"}, tmp_path))
    assert two == [*begin, "2", "-m", "expansionnet.test", "--model", "x"]
    failed = start(local, ["train"], machine | {"PROCESSES": "1", "STATUS": "7"}, tmp_path)
    assert failed.returncode == 7
    wrong = start(local, ["tran"], machine, tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: tran is no command to start here, expected train, test or data_generator\n"


def test_all_phases_hand_on_what_they_wrote_and_skip_what_is_finished(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    every = project / "scripts/all_phases.sh"
    done = start(every, ["--workers", "3"], machine, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("phase")] == [
        f"phase {phase}" for phase in range(1, 7)
    ]
    saves, words = "./github_ignore_material/saves", got(done)
    assert words.count("--resume") == 6
    assert words.count("--workers") == 4
    handed = [f"{saves}/xe/last", f"{saves}/end_to_end_xe/last", f"{saves}/rf/last"]
    assert [words.count(path) for path in handed] == [1, 3, 1]
    for kind in ("xe", "end_to_end_xe"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        (tmp_path / "mine" / kind / "finished.json").touch()
    later = start(every, [], machine | {"SAVES": str(tmp_path / "mine"), "PHASES": "1 2 3 4 5"}, tmp_path)
    assert [line for line in later.stdout.splitlines() if line.startswith("phase")] == ["phase 4", "phase 5"]


SMALL = "--model-size testing --fake-data --workers 0 --device cpu"
SMALL_TRAINING = (
    f"{SMALL} --model_dim 32 --N_enc 2 --N_dec 2 --num_epochs 1 --batch_size 4 --max-len 6 --scst_max_len 5 "
    "--num-samples 2 --print_every_iter 1"
)


@pytest.mark.slow
@pytest.mark.tiny
def test_all_phases_run_one_after_the_other_on_made_data(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = build_swin(model_config({"model_size": "testing"}).swin)
    raw = project / "github_ignore_material/raw_data"
    raw.mkdir(parents=True)
    torch.save({"model": to_official(backbone.state_dict())}, raw / "swin_large_patch4_window12_384_22k.pth")
    environment = machine | {"PYTHON": sys.executable, "FEATURE_FLAGS": SMALL}
    every = project / "scripts/all_phases.sh"
    done = start(every, SMALL_TRAINING.split(), environment, tmp_path)
    assert done.returncode == 0, done.stderr
    for kind in KINDS:
        assert (project / "github_ignore_material/saves" / kind / "finished.json").is_file()
    again = start(every, SMALL_TRAINING.split(), environment, tmp_path)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_cluster_gets_one_task_a_node_and_goes_on_after_a_stop(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    job = machine | {"SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    job |= {"PROJECT": str(project)}
    copied = tmp_path / "spool/job41"
    copied.parent.mkdir()
    copied.write_text((SCRIPTS / "slurm.sh").read_text())
    done = start(copied, ["phase5", "--lr", "1"], job, tmp_path)
    meet = ["--rdzv_id", "41", "--rdzv_backend", "c10d", "--rdzv_endpoint", "node7:20041"]
    begin = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "4", *meet]
    _, *phase5 = launch_words(SCRIPTS / "phase5.sh")
    assert got(done) == [*begin, "-m", "expansionnet.train", *phase5, "--lr", "1", "--resume"]
    for words, message in ((["phase9"], "phase9 is no launch file"), ([], "nothing is no launch file")):
        wrong = start(copied, words, job, tmp_path)
        assert (wrong.returncode, wrong.stderr.startswith(f"error: {message}")) == (2, True)
    lost = start(copied, ["phase5"], {**job, "PROJECT": ""}, tmp_path)
    assert lost.returncode == 2
    assert "set PROJECT=" in lost.stderr


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_saves_and_asks_to_be_requeued(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/recorder").write_text(SLOW)
    job = machine | {"SLURM_JOB_ID": "41"}
    code, out = interrupted(project / "scripts/slurm.sh", ["phase2"], job, project / "started")
    assert code == 0
    assert out.startswith("saved\n")
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=TERM 41", "scontrol requeue 41"]


# --- the original's flag for several processes ---


@pytest.mark.usefixtures("alone")
def test_num_gpus_becomes_torchrun_with_as_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(processes.os, "execv", lambda _, words: became.append(words))
    monkeypatch.setattr(processes.sys, "executable", "python")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    processes.start_processes(1, 12354, "expansionnet.train", [])
    assert not became
    processes.start_processes(3, 11317, "expansionnet.train", ["--num_gpus", "3"])
    place = ["--nnodes", "1", "--nproc_per_node", "3", "--master_port", "11317"]
    command = ["-m", "expansionnet.train", "--num_gpus", "3"]
    assert became == [["python", "-m", "torch.distributed.run", *place, *command]]
    monkeypatch.setenv("WORLD_SIZE", "3")
    for count in (1, 3):
        processes.start_processes(count, 11317, "expansionnet.train", [])
    assert len(became) == 1
    with pytest.raises(UserError, match="num_gpus is 2, but 3 processes run: expected 3, or 1"):
        processes.start_processes(2, 11317, "expansionnet.train", [])
