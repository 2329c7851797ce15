"""The original's file names start our commands, and launch files work from any folder."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from testing.launching import SLOW, SLURM, copy_of, interrupted, stand_ins, start

PROJECT = Path(__file__).resolve().parents[1]
TOOL = PROJECT / "tool"
SHIMS = {
    "train.py": "--config config/cityscapes/cityscapes_pspnet50_0.5.yaml epochs 3",
    "test.py": "--config config/ade20k/ade20k_pspnet50.yaml split test",
    "demo.py": "--config config/cityscapes/cityscapes_pspnet50.yaml --image-dir pictures/*.png",
    "train_cifar10.py": "--save_dir cifar10 --sparsity=0.5",
    "create_study.py": "",
    "convert_cityscapes.py": "--input_dir a --output_dir b --to_19 true",
}
"""Files of the original and what follows them."""

# A stand-in for Python: it counts GPUs as told, makes a missing configuration of the study, and for the rest
# says where it is and what it was asked for; a training ends with the status that the environment names.
RECORDER = """#!/bin/sh
case "$*" in
    *device_count*) echo "$GPUS"; exit 0 ;;
    *acosp_seg.study*)
        mkdir -p config/camvid/study
        echo "X:" > "config/camvid/study/camvid_$4.yaml"
        exit 0 ;;
esac
echo "in $(pwd)"
echo "got $*"
echo "sees ${CUDA_VISIBLE_DEVICES:-none}"
echo "rank ${RANK:-none} of ${WORLD_SIZE:-none} at ${MASTER_ADDR:-none}"
case "$*" in
    *acosp_seg.train*) exit "${TRAIN_STATUS:-0}" ;;
esac
"""
SRUN = """#!/bin/sh
shift
SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NTASKS=2 exec "$@"
"""


@pytest.mark.parametrize("name", SHIMS)
def test_file_names_of_the_original_start_our_commands(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *SHIMS[name].split(), "--dry-run"])
    runpy.run_path(str(TOOL / name), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir())


def test_the_classifiers_program_starts_as_a_module_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))
    monkeypatch.setattr(sys, "argv", ["train_cifar10", "--save_dir", "x", "--dry-run"])
    runpy.run_module("tool.train_cifar10", run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_every_file_name_is_a_shim_of_few_lines() -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in TOOL.glob("*.py")}
    assert files.keys() == SHIMS.keys()
    assert all(len([line for line in text.splitlines() if line.strip()]) == 4 for text in files.values())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what launch files need of this project."""
    return copy_of(PROJECT, tmp_path, ("tool", "config"))


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python and SLURM's commands are stand-ins that record."""
    programs = {"recorder": RECORDER, "srun": SRUN, **SLURM}
    return stand_ins(tmp_path, programs, PRUNELAB_RUNS=str(tmp_path / "runs"), GPUS="", SLURM_JOB_ID="41")


def test_training_starts_from_any_folder_keeps_the_originals_layout_and_ends_with_a_test(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    words = ["cityscapes", "pspnet50_0.5", "--resume", "epochs", "3"]
    done = start(project / "tool/train.sh", words, machine, tmp_path)
    assert done.returncode == 0, done.stderr
    config = "config/cityscapes/cityscapes_pspnet50_0.5.yaml"
    assert f"in {project}" in done.stdout
    assert f"got -m acosp_seg.train --config {config} --resume epochs 3" in done.stdout
    assert f"got -m acosp_seg.test --config {config}\n" in done.stdout
    folder = tmp_path / "runs/cityscapes/pspnet50_0.5"
    copies = {"train.sh", "train.py", "test.sh", "test.py", "common.sh", Path(config).name}
    assert {path.name for path in folder.iterdir()} == {"model", "result", *copies}
    (log,), (result,) = folder.glob("model/train-*.log"), folder.glob("result/test-*.log")
    assert "acosp_seg.train" in log.read_text()
    assert "acosp_seg.test" in result.read_text()


def test_a_failed_training_is_reported_as_failed_and_not_tested(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "tool/train.sh", ["ade20k", "pspnet50"], machine | {"TRAIN_STATUS": "7"}, tmp_path)
    assert done.returncode == 7
    assert "the training failed with status 7" in done.stderr
    assert "acosp_seg.test" not in done.stdout
    assert not list((tmp_path / "runs/ade20k/pspnet50/result").iterdir())


@pytest.mark.slow
def test_a_missing_configuration_of_the_study_is_made_and_another_is_one_line(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "tool/train.sh", ["camvid", "segnet_0.5_300"], machine, tmp_path)
    assert "--config config/camvid/study/camvid_segnet_0.5_300.yaml" in done.stdout
    wrong = start(project / "tool/test.sh", ["camvids", "segnet"], machine, tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: config/camvids/camvids_segnet.yaml: no such file")
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_one_process_starts_for_each_gpu_that_is_listed_and_there(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    test, train = project / "tool/test.sh", project / "tool/train.sh"
    four = start(train, ["ade20k", "pspnet50"], machine | {"GPUS": "0,1,2"}, tmp_path).stdout
    assert "--standalone --nproc_per_node 3 -m acosp_seg.train" in four
    assert "sees 0,1,2" in four
    asked = start(test, ["ade20k", "pspnet50"], machine | {"PROCESSES": "2"}, tmp_path).stdout
    assert "--standalone --nproc_per_node 2 -m acosp_seg.test" in asked
    alone = start(test, ["ade20k", "pspnet50", "--model", "x.pth"], machine | {"GPUS": "0"}, tmp_path).stdout
    assert "got -m acosp_seg.test --config config/ade20k/ade20k_pspnet50.yaml --model x.pth" in alone


@pytest.mark.slow
def test_without_an_active_interpreter_that_has_the_project_the_workspaces_is_taken(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    recorder = Path(machine.pop("PYTHON"))
    active, of_workspace = recorder.with_name("python"), tmp_path / ".venv/bin/python"
    of_workspace.parent.mkdir(parents=True)
    for path, text in ((active, "#!/bin/sh\nexit 1\n"), (of_workspace, RECORDER)):
        path.write_text(text)
        path.chmod(0o755)
    done = start(project / "tool/test.sh", ["ade20k", "pspnet50"], machine, tmp_path)
    assert "got -m acosp_seg.test" in done.stdout
    active.write_text("#!/bin/sh\necho active $*\n")
    machine["PROCESSES"] = "1"
    done = start(project / "tool/test.sh", ["ade20k", "pspnet50"], machine, tmp_path)
    assert "active -m acosp_seg.test" in done.stdout


@pytest.mark.slow
def test_a_relative_folder_of_runs_starts_where_the_command_was_typed(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "tool/train.sh", ["tiny", "segnet"], machine | {"PRUNELAB_RUNS": "mine"}, tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "mine/tiny/segnet/model").is_dir()


@pytest.mark.slow
def test_a_run_that_is_there_keeps_the_files_that_made_it_and_its_own_configuration_is_tested(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "runs/tiny/segnet/model"
    model.mkdir(parents=True)
    (model / "metrics.jsonl").touch()
    (model / "config.yaml").touch()
    done = start(project / "tool/train.sh", ["tiny", "segnet", "--resume"], machine, tmp_path)
    assert not (model.parent / "train.sh").exists()
    assert f"acosp_seg.test --config {model / 'config.yaml'}" in done.stdout


@pytest.mark.slow
def test_the_classifier_has_a_folder_for_each_sparsity(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    done = start(project / "tool/train_cifar10.sh", ["0.5", "--epochs", "3"], machine, tmp_path)
    folder = tmp_path / "runs/cifar10/resnet18_0.5"
    assert f"-m acosp_seg.train_cifar10 --save_dir {folder} --sparsity 0.5 --epochs 3" in done.stdout
    assert (folder / "train_0.5.py").is_file()
    assert start(project / "tool/train_cifar10.sh", [], machine, tmp_path).returncode == 2


@pytest.mark.slow
def test_slurm_file_starts_a_task_and_resumes(project: Path, machine: dict[str, str], tmp_path: Path) -> None:
    done = start(project / "tool/slurm.sh", ["cityscapes", "pspnet50", "--device", "cuda"], machine, tmp_path)
    config = "config/cityscapes/cityscapes_pspnet50.yaml"
    assert f"-m acosp_seg.train --resume --config {config} --device cuda" in done.stdout
    assert "rank 1 of 2 at node7" in done.stdout


@pytest.mark.slow
def test_slurm_file_tells_the_tasks_to_stop_and_asks_to_be_requeued(
    project: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin/recorder").write_text(SLOW)
    copied = tmp_path / "spool" / "job41"
    copied.parent.mkdir()
    copied.write_text((TOOL / "slurm.sh").read_text())
    environment = machine | {"PROJECT": str(project)}
    status, out = interrupted(copied, ["tiny", "segnet"], environment, project / "started")
    assert status == 0
    assert out.startswith("saved\n")
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert said[-2:] == ["scancel --signal=USR1 41", "scontrol requeue 41"]


@pytest.mark.slow
def test_slurm_file_says_what_is_missing(machine: dict[str, str], tmp_path: Path) -> None:
    copied = tmp_path / "job41"
    copied.write_text((TOOL / "slurm.sh").read_text())
    done = start(copied, ["tiny", "segnet"], machine, tmp_path)
    assert done.returncode == 2
    assert "set PROJECT=" in done.stderr


FFMPEG = """#!/bin/sh
printf '%s\\n' "$@"
"""


def _make_video(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "ffmpeg").write_text(FFMPEG)
    (tools / "ffmpeg").chmod(0o755)
    return subprocess.run(
        ["sh", str(TOOL / "make_video.sh"), *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_film_of_one_folder_and_of_four_side_by_side(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    one = _make_video(tmp_path, "a", "film.mp4").stdout.splitlines()
    assert "a/*.png" in one
    assert "scale=1280:650,setsar=1" in one
    assert one[-1] == "film.mp4"
    four = _make_video(tmp_path, *"abcd", "film.mp4").stdout.splitlines()
    assert [word for word in four if word.endswith("*.png")] == [f"{name}/*.png" for name in "abcd"]
    assert four.count("-framerate") == 4


def test_film_without_pictures_or_over_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "old.mp4").touch()
    for arguments, said in {
        ("a", "film.mp4"): "a: no *.png file there",
        ("a", "old.mp4"): "old.mp4: there is such a file",
        ("a",): "got 1 arguments",
    }.items():
        done = _make_video(tmp_path, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
