"""Launch files in a shell, with stand-ins for Python, SLURM and other programs that they start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

READ = ("SLURM", "SBATCH", "MASTER", "RANK", "LOCAL_RANK", "WORLD", "CUDA", "PROCESSES", "PRUNELAB", "GPUS")
"""Beginnings of the variables that launch files read."""
SAY = '#!/bin/sh\necho "$(basename "$0") $*" >> "$SAID"\n'
"""A stand-in that writes what it was asked for to the test's ``said.txt``; more lines may follow."""
SLURM = {"scontrol": SAY + "echo node7\n", "scancel": SAY}
"""Stand-ins for a cluster whose first machine is node7; `srun` is the test's own."""
RECORDER = """#!/bin/sh
[ "$1" = -c ] && echo 3 && exit
echo "in $(pwd)"
for word in "$@"; do echo "got $word"; done
exit "${STATUS:-0}"
"""
"""A stand-in for Python that says where it is and what it was asked for; of GPUs, when asked, there are 3."""
SRUN = """#!/bin/sh
shift
exec "$@"
"""
"""A stand-in for SLURM's starter of processes: one of them."""
SLOW = "#!/bin/sh\ntouch started\nsleep 2\necho saved\n"
"""A stand-in for a training that takes two seconds, whatever it is told; see `interrupted`."""


def stand_ins(folder: Path, programs: Mapping[str, str], **variables: str) -> dict[str, str]:
    """An environment in which programs are stand-ins and no variable of a launch file is set.

    Args:
        folder: of the test; the programs lie in its ``bin``.
        programs: their texts by name; the one named ``recorder`` is Python.
        variables: further ones of the environment.
    """
    place = folder / "bin"
    place.mkdir()
    for name, text in programs.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(READ)}
    ours = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "SAID": str(folder / "said.txt")}
    return kept | ours | {"PYTHON": str(place / "recorder")} | variables


def start(
    script: Path, words: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a launch file in a folder, by the strictest shell that is there."""
    shell = shutil.which("dash") or "sh"
    command = [shell, str(script), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def got(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The words that the `RECORDER` was given."""
    return [line.removeprefix("got ") for line in done.stdout.splitlines() if line.startswith("got ")]


def copy_of(project: Path, folder: Path, names: Sequence[str] = ("scripts",)) -> Path:
    """A copy of what the launch files of a project need of it, elsewhere in a folder.

    Args:
        project: its folder.
        folder: of the test.
        names: folders of the project that are copied, but for what was made there.
    """
    package = project.name.replace("-", "_")
    place = folder / "elsewhere" / project.name
    for name in names:
        shutil.copytree(project / name, place / name, ignore=shutil.ignore_patterns("study", "__pycache__"))
    (place / "src" / package).mkdir(parents=True)
    (place / "src" / package / "train.py").touch()
    return place


def interrupted(
    script: Path, words: Sequence[str], environment: Mapping[str, str], started: Path
) -> tuple[int, str]:
    """Start a launch file, tell it to stop once a file is there, and give its status and what it printed."""
    command = ["sh", str(script), *words]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
    return job.returncode, out
