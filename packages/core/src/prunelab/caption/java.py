"""Programs in Java that pycocoevalcap carries: found, started, and never waited for without an end."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

from prunelab.errors import UserError


class Unavailable(UserError):
    """A metric that cannot be computed on this machine; the message says what is missing."""


def find_java(metric: str) -> str:
    """Return the path of the ``java`` program.

    Raises:
        Unavailable: there is none.
    """
    java = shutil.which("java")
    if java is None:
        raise Unavailable(
            f"{metric} needs Java and no 'java' program was found in PATH; install a Java runtime"
        )
    return java


def find_folder(metric: str, part: str) -> Path:
    """Return the folder of a part of pycocoevalcap, without importing it.

    Raises:
        Unavailable: the package is not installed.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"{metric} needs the package pycocoevalcap, which is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / part


def run_java(metric: str, command: list[str], text: str, folder: Path, timeout: float) -> str:
    """Run a program on ``text`` and return what it printed.

    The program is killed, and waited for, when the time is over or the caller is interrupted.

    Raises:
        Unavailable: it cannot be started, takes longer than ``timeout`` seconds, or fails.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            cwd=folder,
            timeout=timeout,
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
    except OSError as error:
        raise Unavailable(f"{metric}: {command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{metric}: no result from Java within {timeout:g} seconds; give it more time"
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[0].strip() if lines else "no message"
        raise Unavailable(f"{metric}: Java ended with code {done.returncode}: {reason[:200]}")
    return done.stdout
