"""Small helpers for every other module: safe writing, plain reading, foreign pickles, words for people."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import importlib
import itertools
import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, TypeAlias

from prunelab.errors import UserError

StrPath: TypeAlias = str | os.PathLike[str]

NUMPY_ARRAYS = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
    }
)
"""What a pickle of plain NumPy arrays names; add it to the allow-list of `restricted_load`."""

_PLAIN = frozenset(
    {
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "bytearray"),
        ("builtins", "complex"),
        ("_codecs", "encode"),
    }
)
"""Names that old protocols write for plain data."""

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that Python 2 knew by another name."""

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's error behind ``error``; libraries in Rust put its number into their message."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a failed write of ``path`` into one line for the user.

    Errors that name a file elsewhere (the caller was reading something) are none of ours and pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        system = _system_error(error)
        names_another = system is not None and system.filename and path.name not in str(system.filename)
        if system is None or (names_another and system.errno not in _FULL_DISK):
            raise
        hint = " (free some space or choose another folder)" if system.errno in _FULL_DISK else ""
        kept = "; what was there before is unchanged" if path.exists() else ""
        raise UserError(f"{path}: cannot be written: {system.strerror}{hint}{kept}") from error


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk; file systems that cannot do this are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: StrPath, mode: str = "wb", *, encoding: str | None = None) -> Iterator[IO[Any]]:
    """Open a file that appears under ``path`` complete or not at all.

    Writes go to a temporary file of the same folder, which is flushed to the disk and then renamed. If
    anything fails, the temporary file is removed and a file that was there before stays as it was. Missing
    parent folders are made.

    Args:
        path: The file to (over)write.
        mode: ``"wb"`` or ``"w"`` (text, UTF-8 unless ``encoding`` says otherwise).
        encoding: Text encoding.

    Raises:
        UserError: The disk is full, or the file cannot be written for another reason of the operating system.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    if "b" not in mode:
        encoding = encoding or "utf-8"
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)


def _staging(target: Path) -> tuple[Path, Path]:
    """The two hidden neighbours of a folder that is being replaced: the new one and the old one."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def recover_folder(path: StrPath) -> None:
    """Undo an `atomic_folder` that was killed between its two renames: bring the old folder back."""
    target = Path(path)
    _, old = _staging(target)
    if old.is_dir() and not target.exists():
        os.replace(old, target)


@contextlib.contextmanager
def atomic_folder(path: StrPath) -> Iterator[Path]:
    """Fill a temporary folder that takes the place of ``path`` when the block ends well.

    One writer at a time; readers see the earlier folder or the new one. Where the file system cannot exchange
    two folders in one go it takes two renames: if a writer is killed between them, `recover_folder` (called
    here and by the readers) brings the earlier folder back. What a killed writer left is removed by the next.

    Raises:
        UserError: The disk is full, or the folder cannot be written; the earlier folder is unchanged.
    """
    target = Path(path)
    new, old = _staging(target)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(target)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            for part in [*new.rglob("*"), new]:
                if part.is_file():
                    _sync_file(part)
                elif part.is_dir():
                    _sync_folder(part)
            if target.is_dir() and _exchange(new, target):
                shutil.rmtree(new, ignore_errors=True)  # the earlier folder
            else:
                if target.exists():
                    os.replace(target, old)
                os.replace(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            recover_folder(target)
            raise
        _sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two folders change names in one go; False where the system (not Linux, NFS) cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_json(path: StrPath) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file is missing, is not UTF-8, or is not JSON (line and column of the first fault).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a JSON text file: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error


def write_json(path: StrPath, data: Any, *, indent: int | None = 2) -> None:
    """Write plain data as JSON, atomically (`atomic_write`); the text ends in a newline."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)  # before the file is touched: may raise
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of a process, started when they are needed (a forked child must not use its parent's)."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix=f"parts-{process}")


_pool_lock = threading.Lock()


def in_parts(work: Callable[[int, int], object], items: int, threads: int = 2, *, least: int = 1024) -> None:
    """Call ``work(low, high)`` on shares of the items, at the same time; all write to places of their own.

    Args:
        work: what is done with the items from ``low`` to ``high``; worth a thread where it lets others run.
        items: how many there are; nothing is called for 0.
        threads: most shares.
        least: fewer items than this are not worth another thread.
    """
    shares = min(threads, items // least)
    if shares < 2:
        if items > 0:
            work(0, items)
        return
    with _pool_lock:
        pool = _pool(os.getpid())
    bounds = [items * share // shares for share in range(shares + 1)]
    others = [pool.submit(work, *part) for part in itertools.pairwise(bounds[1:])]
    try:
        work(0, bounds[1])
    finally:
        wait(others)
    for other in others:
        other.result()


def save_tensors(tensors: Mapping[str, Any], path: StrPath, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that others may read as they may any new file.

    safetensors writes a temporary file and renames it, which leaves the permissions of a temporary file: the
    owner's alone.
    """
    from safetensors.torch import save_file

    target = Path(path)
    target.touch()
    mode = target.stat().st_mode
    save_file(dict(tensors), target, metadata=metadata)
    target.chmod(mode)


def sha256_file(path: StrPath) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def human_names(names: Sequence[str], most: int = 8) -> str:
    """Names in a line: ``a, b``; ``a, b, ... (9 in all)`` where there are more than `most`; or ``none``."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "none"


def free_name(name: str, taken: Collection[str]) -> str:
    """A name that is not taken yet: itself, or with the first number behind it that is free, from 2."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found


def human_bytes(count: float) -> str:
    """A size for people, in decimal units: ``999 B``, ``1.55 MB``, ``213 MB``."""
    return _human(count, ("B", "kB", "MB", "GB", "TB", "PB"))


def human_count(count: float) -> str:
    """A number for people: ``950``, ``53.5 M``, ``1.81 G``."""
    return _human(count, ("", "k", "M", "G", "T", "P")).rstrip()


def human_seconds(seconds: float) -> str:
    """A duration for people: ``830 ns``, ``1.25 ms``, ``45.6 s``, ``2 min 05 s``, ``3 h 07 min``."""
    if abs(seconds) >= 3599.5:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60:02d} min"
    if abs(seconds) >= 99.95:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60:02d} s"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if abs(seconds) * scale >= 0.9995:
            return f"{_three_digits(seconds * scale)} {unit}"
    return f"{seconds * 1e9:.0f} ns" if seconds else "0 s"


def _human(value: float, units: tuple[str, ...]) -> str:
    """Three significant digits with the unit that leaves fewer than four digits before the point."""
    number, place = float(value), 0
    # 999.5 would be rounded to four digits: move on to the next unit instead
    while abs(number) >= 999.5 and place < len(units) - 1:
        number, place = number / 1000, place + 1
    if place == 0 and number == int(number):
        return f"{int(number)} {units[0]}"
    return f"{_three_digits(number)} {units[place]}"


def _three_digits(number: float) -> str:
    return f"{number:.{2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0}f}"


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves the names of an allow-list and nothing else."""

    def __init__(self, file: IO[bytes], allow: Mapping[tuple[str, str], Any], encoding: str) -> None:
        super().__init__(file, fix_imports=True, encoding=encoding)
        self._allow = allow

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        module_name = _RENAMED.get(module_name, module_name)
        # NumPy 2 moved `numpy.core` to `numpy._core`; files written before that name the old place
        if module_name == "numpy.core" or module_name.startswith("numpy.core."):
            module_name = "numpy._core" + module_name.removeprefix("numpy.core")
        key = (module_name, global_name)
        if key not in self._allow and key not in _PLAIN:
            raise _Refused(f"{module_name}.{global_name}")
        stand_in = self._allow.get(key)
        return getattr(importlib.import_module(module_name), global_name) if stand_in is None else stand_in


class _Refused(Exception):
    """A pickle names something that is not on the allow-list."""


def restricted_load(
    path: StrPath,
    allow: Collection[tuple[str, str]] | Mapping[tuple[str, str], Any] = (),
    *,
    encoding: str = "ASCII",
) -> Any:
    """Read a foreign pickle without running what it names.

    Plain data (numbers, strings, bytes, lists, tuples, dicts, sets) needs no allow-list. Every class or
    function that the file names must be on the list; the file is refused at the first one that is not, before
    anything of that name is imported.

    Args:
        path: The pickle.
        allow: Pairs (module, name), e.g. ``{("collections", "defaultdict")} | NUMPY_ARRAYS``; a mapping gives
            a stand-in for each pair (``None``: the real thing), for classes that are not installed.
        encoding: How Python 2 strings are read: ``"latin1"`` for NumPy arrays, ``"bytes"`` for CIFAR batches.

    Raises:
        UserError: The file is missing, is not a whole pickle, or names something that is not allowed.
    """
    allowed = dict(allow) if isinstance(allow, Mapping) else dict.fromkeys(allow)
    try:
        with open(path, "rb") as file:
            return _RestrictedUnpickler(file, allowed, encoding).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except _Refused as error:
        names = ", ".join(sorted(f"{module}.{name}" for module, name in allowed)) or "plain data only"
        raise UserError(f"{path}: refused: the pickle names {error}; allowed: {names}") from error
    except Exception as error:  # a broken pickle may raise almost anything
        raise UserError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from error
