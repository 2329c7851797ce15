"""The published files of CIFAR: fetched where they are missing, and told from others by their MD5 sums."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from prunelab.data.cifar import Published, find
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_folder, atomic_write

_BLOCK = 1 << 20  # bytes that are fetched at a time
_TIMEOUT = 60  # seconds without an answer


class OtherChecksum(UserError):
    """A file is not the published one."""


def checked(folder: StrPath, of: Published, *, strict: bool = True) -> list[str]:
    """Compare Python batches with the published ones; other layouts have no published sums.

    Args:
        folder: see `prunelab.data.cifar.find`.
        of: the set.
        strict: raise at the first file that differs.

    Returns:
        A line for each file that is missing or differs; none where all is well.

    Raises:
        OtherChecksum: a file differs or is missing, and ``strict``.
    """
    place = find(folder, of)
    if place is None or not (place / of.files["test"]).is_file():
        return []
    lines = []
    for name, expected in of.sums.items():
        file = place / name
        if not file.is_file():
            line = f"{file}: no such file, expected all batches of {of.name}"
        elif (found := _md5(file)) != expected:
            line = f"{file}: MD5 sum {found}, expected {expected}, that of the published {of.name}"
        else:
            continue
        if strict:
            raise OtherChecksum(line)
        lines.append(line)
    return lines


def fetched(folder: StrPath, of: Published, *, strict: bool = True) -> Path:
    """Unpack the published archive, which is fetched unless it lies in ``folder`` already.

    Args:
        folder: where the archive and the folder of batches go.
        of: the set.
        strict: refuse an archive with another MD5 sum; else say so.

    Returns:
        The folder of batches.

    Raises:
        OtherChecksum: the archive is another one, and ``strict``.
        UserError: it cannot be fetched, is damaged, or lacks a file; nothing was unpacked.
    """
    root = Path(folder)
    archive = root / of.url.rpartition("/")[2]
    if not archive.is_file():
        _fetch(of.url, archive)
    if (found := _md5(archive)) != of.md5:
        line = f"{archive}: MD5 sum {found}, expected {of.md5}, that of the published {of.name}"
        if strict:
            raise OtherChecksum(line)
        _say(f"warning: {line}")
    with atomic_folder(root / of.batches) as place:
        _unpack(archive, of, place)
    return root / of.batches


def _fetch(url: str, file: Path) -> None:
    """Fetch a file whole, or leave nothing of it."""

    def failed(error: Exception) -> UserError:
        return UserError(
            f"{url}: cannot be fetched ({error}); expected a network, or that file in {file.parent}"
        )

    _say(f"fetching {url} to {file}")
    try:
        source = urllib.request.urlopen(url, timeout=_TIMEOUT)
    except (OSError, HTTPException) as error:  # urllib's errors are OSErrors
        raise failed(error) from error
    with source, atomic_write(file) as target:
        while True:
            try:
                block = source.read(_BLOCK)
            except (OSError, HTTPException) as error:
                raise failed(error) from error
            if not block:
                return
            target.write(block)


def _unpack(archive: Path, of: Published, place: Path) -> None:
    """Take the batches out of an archive by their names, and nothing else."""
    try:
        with tarfile.open(archive) as packed:
            members = {member.name.removeprefix("./"): member for member in packed if member.isfile()}
            for name in of.sums:
                member = members.get(f"{of.batches}/{name}")
                source = packed.extractfile(member) if member else None
                if source is None:
                    raise UserError(f"{archive}: has no {of.batches}/{name}, expected all of {of.name}")
                with atomic_write(place / name) as file:
                    file.write(source.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: damaged ({error}); remove it, and it is fetched again") from error


def _md5(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
