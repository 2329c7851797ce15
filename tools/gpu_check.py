"""Check everything that needs a GPU: `gpu_check.py [PROJECT ...]`.

For the core and each project, from the sources (only the dependencies need to be installed): the tests marked
`gpu`, and one step at the paper's real size, by the project's module `<package>.gpu_check` if it
has one. Ends with one plain line; without a GPU that line says so and the code is 0.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTHING_COLLECTED = 5  # pytest's exit code


def member_folders(names: Sequence[str]) -> list[Path]:
    """The core's folder and those of the named projects, of all projects where none is named."""
    projects = sorted(p.parent for p in ROOT.glob("projects/*/pyproject.toml"))
    chosen = [p for p in projects if not names or p.name in names]
    return [ROOT / "packages" / "core", *chosen]


def commands(folder: Path) -> list[list[str]]:
    """What is run for one member."""
    pytest = [sys.executable, "-m", "pytest", str(folder), "-m", "gpu", "-p", "no:cacheprovider"]
    found = [pytest]
    package = folder.name.replace("-", "_")
    if (folder / "src" / package / "gpu_check.py").is_file():
        found.append([sys.executable, "-m", f"{package}.gpu_check"])
    return found


def run(command: Sequence[str]) -> bool:
    """Run one command with every member's sources on the path; True where it went well."""
    sources = [str(p) for p in sorted(ROOT.glob("p*/*/src"))]
    path = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
    print(f"$ {' '.join(command)}", flush=True)
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
    return code in {0, NOTHING_COLLECTED}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all checks; 0 where each went well or there is no GPU."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description="Run what needs a GPU.")
    parser.add_argument("projects", nargs="*", help="these projects beside the core; default: all")
    names = parser.parse_args(argv).projects
    known = [f.name for f in member_folders([])][1:]
    if unknown := sorted(set(names) - set(known)):
        print(f"error: no project {', '.join(unknown)}: expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    import torch

    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device here, nothing was checked")
        return 0
    results = [run(command) for folder in member_folders(names) for command in commands(folder)]
    print(
        f"gpu_check on {torch.cuda.get_device_name()}: "
        f"{sum(results)} passed, {len(results) - sum(results)} failed"
    )
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
