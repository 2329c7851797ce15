"""METEOR 1.5, computed by the Java program that pycocoevalcap carries."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import IO

from prunelab.caption.java import Unavailable, find_folder, find_java

_JAR = "meteor-1.5.jar"
_SEPARATOR = " ||| "


def meteor(
    references: Sequence[Sequence[str]], candidates: Sequence[str], *, timeout: float = 1800.0
) -> tuple[float, list[float]]:
    """Score one caption an image (Denkowski and Lavie, 2014), English, normalised.

    Args:
        references: for each of B images its tokenised references.
        candidates: B tokenised captions.
        timeout: seconds after which the program is ended.

    Returns:
        The corpus score and the B captions' scores.

    Raises:
        Unavailable: no Java, no package, no answer in time, or an answer that is not a score.
    """
    folder = find_folder("METEOR", "meteor")
    if not (folder / _JAR).is_file():
        raise Unavailable(f"METEOR needs {folder / _JAR}, which is missing; install pycocoevalcap again")
    command = [find_java("METEOR"), "-Xmx2G", "-jar", _JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = [_line(refs, caption) for refs, caption in zip(references, candidates, strict=True)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )
        except OSError as error:
            raise Unavailable(f"METEOR: {command[0]} cannot be started: {error.strerror}") from error
        late = threading.Event()
        watch = threading.Timer(timeout, lambda: (late.set(), process.kill()))
        watch.start()
        try:
            figures = _converse(process, lines)
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            raise Unavailable(_reason(late.is_set(), timeout, errors)) from error
        finally:
            watch.cancel()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                _close(stream)
    return figures[-1], figures[:-1]


def _line(references: Sequence[str], candidate: str) -> str:
    parts = [*references, candidate]
    clean = [" ".join(part.replace("|||", "").splitlines()).replace("  ", " ") for part in parts]
    return _SEPARATOR.join(["SCORE", *clean]) + "\n"


def _converse(process: subprocess.Popen[str], lines: Sequence[str]) -> list[float]:
    """Send every caption, send back the program's counts, and read the scores (one more than captions)."""
    questions, answers = process.stdin, process.stdout
    if questions is None or answers is None:
        raise ValueError("the program was started without pipes")

    def send() -> None:  # in a thread: the program's answers would fill the pipe while we write
        try:
            questions.writelines(lines)
            questions.flush()
        except (OSError, ValueError):  # the program is gone; the reader notices
            pass

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    counts = [_answer(answers) for _ in lines]
    sender.join()
    questions.write(_SEPARATOR.join(["EVAL", *counts]) + "\n")
    questions.flush()
    return [float(_answer(answers)) for _ in range(len(lines) + 1)]


def _answer(stream: IO[str]) -> str:
    line = stream.readline()
    if not line:
        raise ValueError("the program ended")
    return line.strip()


def _close(stream: IO[str] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:  # what was still to be written to a program that is gone
        pass


def _reason(late: bool, timeout: float, errors: IO[str]) -> str:
    if late:
        return f"METEOR: no result from Java within {timeout:g} seconds; give it more time"
    errors.seek(0)
    lines = [line.strip() for line in errors if line.strip()]
    return f"METEOR: Java ended without a score: {(lines or ['no message'])[0][:200]}"
