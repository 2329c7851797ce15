"""The original's file names start our commands, and launch files work from any folder."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

from channel_prune.lowering import PROGRAMS
from testing.launching import SAY, SLOW, SLURM, SRUN, copy_of, got, interrupted, stand_ins, start

from .commands import PROJECT

SCRIPTS = PROJECT / "scripts"
SHIMS = [PROJECT / "main.py", *sorted((PROJECT / "nets").glob("*.py"))]
EXPORT = PROJECT / "tools/conversion/export_chn_pruned_tflite_model.py"

# A stand-in for Python: it says where it is and what it was asked for, and ends with the status that the
# environment names.
RECORDER = """#!/bin/sh
echo "in $(pwd)"
for word in "$@"; do echo "got $word"; done
echo "sees ${CUDA_VISIBLE_DEVICES-all}"
echo "mode ${CHANNEL_PRUNE_MODE:-none} at ${MASTER_ADDR:-nowhere}"
echo "runs ${PRUNELAB_RUNS:-none}"
exit "${STATUS:-0}"
"""
DOCKER = SAY + '[ "$1" != image ]\n'
SMI = """#!/bin/sh
printf '0, 9000, 10000\\n1, 100, 10000\\n2, 4999, 10000\\n3, 0, 10000\\n'
"""


@pytest.mark.parametrize("shim", SHIMS, ids=lambda path: path.name)
def test_file_names_of_the_original_start_our_commands(
    shim: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(shim), "--learner=chn-pruned-rmt", "--dry-run"])
    runpy.run_path(str(shim), run_name="__main__")
    expected = PROGRAMS.get(shim.stem, {"name": "resnet_v2", "dataset": "cifar10"})
    assert capsys.readouterr().out.startswith(f"{expected['name']} on {expected['dataset']}: ")
    assert not list(tmp_path.iterdir())


def test_the_originals_export_tool_starts_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [EXPORT.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXPORT), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("channel-prune export: ")


def test_every_program_has_a_file_of_few_lines() -> None:
    assert {path.stem for path in SHIMS} == PROGRAMS.keys() | {"main"}
    for path in (*SHIMS, EXPORT):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) <= 5


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what launch files need of this project."""
    return copy_of(PROJECT, tmp_path, ("scripts", "nets"))


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python, Docker and SLURM's commands are stand-ins that record."""
    programs = {"recorder": RECORDER, "srun": SRUN, "sbatch": RECORDER, "docker": DOCKER, **SLURM}
    return stand_ins(tmp_path, programs, CUDA_VISIBLE_DEVICES="")


def test_one_process_starts_plainly_and_several_by_torchrun_from_any_folder(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    local, program = project / "scripts/run_local.sh", "nets/resnet_at_cifar10_run.py"
    words = [program, "--learner=chn-pruned-rmt", "--cpr_skip_op_names=a b"]
    done = start(local, words, machine | {"PRUNELAB_RUNS": "mine"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in {project}" in done.stdout
    assert f"runs {tmp_path}/mine" in done.stdout
    assert got(done) == words
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    several = start(local, [words[0], "-n=2", *words[1:]], machine, tmp_path)
    assert got(several) == torchrun


def test_a_failed_training_is_reported_as_failed(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    (project / "logs").mkdir()
    (project / "logs/kept.txt").touch()
    words = ["nets/vgg_at_pascalvoc_run.py"]
    done = start(project / "scripts/run_local.sh", words, machine | {"STATUS": "7"}, tmp_path)
    assert done.returncode == 7
    assert done.stderr == "error: nets/vgg_at_pascalvoc_run.py failed with status 7\n"
    assert (project / "logs/kept.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "expected a program, one of: nets/mobilenet_at_ilsvrc12_run.py"),
        ("nets/lenet_at_cifar10_run.py", "nets/lenet_at_cifar10_run.py: no such program"),
        ("nets/resnet_at_cifar10_run.py -n", "-n needs a number"),
        ("nets/resnet_at_cifar10_run.py --nb_gpus=two", "the number of processes is 'two'"),
        ("nets/resnet_at_cifar10_run.py -n=0", "the number of processes is '0'"),
    ],
)
def test_mistakes_at_a_start_are_one_line(
    words: str, message: str, project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "scripts/run_local.sh", words.split(), machine, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["-n=2", "-n 2", "--nb_gpus=2", "--nb_gpus 2", "-nb_gpus=2"])
def test_the_number_of_processes_has_several_names(
    form: str, project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    words = ["nets/resnet_at_cifar10_run.py", "--enbl_dst", *form.split(), "--debug"]
    found = got(start(project / "scripts/run_local.sh", words, machine, tmp_path))
    assert found[-3:] == ["nets/resnet_at_cifar10_run.py", "--enbl_dst", "--debug"]
    assert "2" in found


@pytest.mark.slow
def test_idle_gpus_are_taken_in_their_order(project: Path, machine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin/nvidia-smi").write_text(SMI)
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    del machine["CUDA_VISIBLE_DEVICES"]
    local, words = project / "scripts/run_local.sh", ["nets/resnet_at_cifar10_run.py"]
    assert "sees 1,2\n" in start(local, [*words, "-n=2"], machine, tmp_path).stdout
    assert "sees 1\n" in start(local, words, machine, tmp_path).stdout
    many = start(local, [*words, "-n=4"], machine, tmp_path)
    assert many.returncode == 2
    assert many.stderr == "error: 3 GPUs have half of their memory free, expected 4 (-n)\n"
    named = start(local, [*words, "-n=4"], machine | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, tmp_path)
    assert "sees 0,1,2,3\n" in named.stdout


@pytest.mark.slow
def test_a_container_gets_the_same_command_without_a_terminal(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    program = "nets/resnet_at_ilsvrc12_run.py"
    words = [program, "-n=4", "--learner=chn-pruned-rmt", "--cpr_skip_last_layer=True"]
    (project / "path.conf").write_text("data_dir_local_ilsvrc12 = /disk/imagenet  # here\n")
    done = start(project / "scripts/run_docker.sh", words, machine, tmp_path)
    assert done.returncode == 0, done.stderr
    _, build, run = (tmp_path / "said.txt").read_text().splitlines()
    assert build == "docker build --tag channel-prune --file Dockerfile ../.."
    assert run.startswith("docker run --rm --ipc=host --user ")
    for part in ("--volume /disk/imagenet:/opt/ml/data:ro", f"--volume {project}/runs:/runs"):
        assert part in run
    inside = f"sh scripts/run_local.sh {program} -n=4 --data_dir_local=/opt/ml/data --learner=chn-pruned-rmt"
    assert run.endswith(f"channel-prune {inside} --cpr_skip_last_layer=True")
    assert " -it " not in run


@pytest.mark.slow
def test_a_cluster_gets_one_task_a_node(project: Path, machine: dict[str, str], tmp_path: Path) -> None:
    program = "nets/mobilenet_at_ilsvrc12_run.py"
    words = [program, "-n=16", "--cpr_warm_start=True"]
    done = start(project / "scripts/run_seven.sh", words, machine | {"SBATCH_ARGS": "-p gpu"}, tmp_path)
    assert done.returncode == 0, done.stderr
    options = ["--nodes=2", "--gpus-per-node=8", "--export=ALL", "-p", "gpu"]
    assert got(done) == [*options, "scripts/run_seven.sh", program, "-n=16", "--cpr_warm_start=True"]
    job = machine | {"SLURM_JOB_ID": "41", "GPUS_PER_NODE": "8", "PROJECT": str(project)}
    copied = tmp_path / "spool/job41"
    copied.parent.mkdir()
    copied.write_text((SCRIPTS / "run_seven.sh").read_text())
    inside = start(copied, words, job, tmp_path)
    rendezvous = ["--rdzv_id", "41", "--rdzv_backend", "c10d", "--rdzv_endpoint", "node7:20041"]
    assert got(inside) == [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "8", *rendezvous),
        *(program, "--resume", "--cpr_warm_start=True"),
    ]
    assert "mode seven at node7" in inside.stdout


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_saves_and_asks_to_be_requeued(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/recorder").write_text(SLOW)
    words, environment = ["nets/resnet_at_cifar10_run.py"], machine | {"SLURM_JOB_ID": "41"}
    code, out = interrupted(project / "scripts/run_seven.sh", words, environment, project / "started")
    assert code == 0
    assert out.startswith("saved\n")
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=TERM 41", "scontrol requeue 41"]


@pytest.mark.slow
def test_launch_files_say_what_is_missing(project: Path, machine: dict[str, str], tmp_path: Path) -> None:
    words = ["nets/resnet_at_cifar10_run.py"]
    for name in ("sbatch", "docker"):
        (tmp_path / "bin" / name).unlink()
    machine["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    docker = start(project / "scripts/run_docker.sh", words, machine | {"DOCKER": "no-docker"}, tmp_path)
    seven = start(project / "scripts/run_seven.sh", words, machine, tmp_path)
    assert (docker.returncode, seven.returncode) == (2, 2)
    assert docker.stderr.startswith("error: no-docker: no such program")
    assert seven.stderr.startswith("error: sbatch: no such program")
    uneven = start(project / "scripts/run_seven.sh", [*words, "-n=12"], machine, tmp_path)
    assert uneven.stderr == "error: -n is 12, expected a multiple of GPUS_PER_NODE, 8\n"
    copied = tmp_path / "job41"
    copied.write_text((SCRIPTS / "run_seven.sh").read_text())
    assert "set PROJECT=" in start(copied, words, machine, tmp_path).stderr
