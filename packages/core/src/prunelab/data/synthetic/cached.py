"""Embedded sets are made once and kept; what is kept is checked byte by byte before it is used again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunelab.data.synthetic import captions, shape_classes, shapes, streets
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json, sha256_file, write_json

MANIFEST = "manifest.json"

_KINDS: dict[str, tuple[Callable[..., Path], int]] = {
    "captions": (captions.write, captions.VERSION),
    "classes": (shape_classes.write_classes, shape_classes.VERSION),
    "shapes": (shapes.write_voc, shapes.VERSION),
    "streets": (streets.write, streets.VERSION),
}


def cache_folder(cache_dir: StrPath | None = None) -> Path:
    """Where made sets are kept: the argument, else ``PRUNELAB_CACHE``, else ``~/.cache/prunelab``."""
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("PRUNELAB_CACHE") or Path.home() / ".cache" / "prunelab")


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a set, by its path."""
    found = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder).as_posix()): sha256_file(file) for file in found}


def is_whole(folder: Path, about: dict[str, Any]) -> bool:
    """Whether a folder holds the set described by ``about``, with every file as it was made."""
    try:
        return read_json(folder / MANIFEST) == about | {"files": _files(folder)}
    except (UserError, OSError):
        return False


def cached(kind: str, *, cache_dir: StrPath | None = None, **params: int) -> Path:
    """The folder of an embedded set; makes it where it is missing or damaged.

    Several processes may ask at once: each makes its own, and the first that is ready is kept.

    Args:
        kind: ``captions``, ``classes``, ``shapes`` or ``streets``.
        cache_dir: see `cache_folder`.
        params: arguments of the set's writer, e.g. ``seed=0, train=480``.

    Raises:
        UserError: an unknown kind or argument, or the cache cannot be written.
    """
    if kind not in _KINDS:
        raise UserError(f"embedded set {kind!r} is unknown; expected one of {', '.join(_KINDS)}")
    write, version = _KINDS[kind]
    known = {n: p.default for n, p in inspect.signature(write).parameters.items() if p.kind is p.KEYWORD_ONLY}
    if unknown := params.keys() - known.keys():
        raise UserError(f"embedded set {kind!r} has no {min(unknown)!r}; expected some of {', '.join(known)}")
    about = {"kind": kind, "version": version, "params": known | params}
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    target = cache_folder(cache_dir) / "synthetic" / f"{kind}-{name}"
    if is_whole(target, about):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"{target.parent}: the cache cannot be written ({error.strerror}); set PRUNELAB_CACHE"
        ) from error
    try:
        write(made, **params)
        write_json(made / MANIFEST, about | {"files": _files(made)})
        _put(made, target, about)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _put(made: Path, target: Path, about: dict[str, Any]) -> None:
    """Move a made set to its place; a damaged one makes way, one made by another process meanwhile stays."""
    for _ in range(10):
        try:
            os.rename(made, target)
        except OSError:
            if is_whole(target, about):
                return
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            if target.exists():
                os.replace(target, old / "set")
            shutil.rmtree(old, ignore_errors=True)
        else:
            return
    raise UserError(f"{target}: the embedded set cannot be put there; remove that folder")
