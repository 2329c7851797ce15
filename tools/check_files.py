"""Whitespace, size and syntax of files: `check_files.py [FILE ...]`, by default all that git tracks.

What git hook collections usually do, in a few lines, so that a commit needs no hook from another site.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

LARGEST = 250_000  # bytes
LARGEST_FIXTURE = 1_000_000
BINARY = {
    ".bin",
    ".gz",
    ".h5",
    ".jpeg",
    ".jpg",
    ".model",
    ".npy",
    ".npz",
    ".onnx",
    ".png",
    ".pth",
    ".safetensors",
}


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one file, each as ``text`` behind its name."""
    size = path.stat().st_size
    limit = LARGEST_FIXTURE if "fixtures" in path.parts else LARGEST
    if size > limit:
        yield f"{size} bytes, at most {limit} are kept in the repository"
    if path.suffix in BINARY or "fixtures" in path.parts:
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        yield "not UTF-8 text, and its suffix is not one of a binary file"
        return
    if "\r" in text:
        yield "a carriage return, lines end with a line feed alone"
    if text and not (text.endswith("\n") and not text.endswith("\n\n")):
        yield "must end with exactly one line feed"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"line {number} ends with blanks"
    yield from _syntax(path, text)


def _syntax(path: Path, text: str) -> Iterator[str]:
    try:
        if path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix in {".yaml", ".yml", ".cff"}:
            list(yaml.safe_load_all(text))
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        yield " ".join(f"cannot be read: {error}".split())


def tracked(root: Path) -> list[Path]:
    """Every file below ``root`` that git tracks and that is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return [p for name in listed.stdout.split("\0") if name and (p := root / name).is_file()]


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line a problem and return 1 where there is one."""
    arguments = sys.argv[1:] if argv is None else argv
    paths = [Path(a) for a in arguments] or tracked(Path(__file__).resolve().parents[1])
    found = [f"{path}: {problem}" for path in paths if path.is_file() for problem in problems(path)]
    print("\n".join(found) or f"{len(paths)} files are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
