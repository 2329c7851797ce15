import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunelab.data.cifar import CIFAR100, Published, open_cifar
from prunelab.data.cifar_files import OtherChecksum, checked, fetched
from prunelab.errors import UserError


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def published(folder: Path, *, leave_out: str = "") -> Published:
    """A small CIFAR-100 in an archive of `folder`, with the sums of its own files."""
    files = {
        name: pickle.dumps(  # noqa: TID251 - the official files are pickles
            {b"data": np.full((count, 3072), count, np.uint8), b"fine_labels": list(range(count))}
        )
        for name, count in (("train", 6), ("test", 3))
    }
    archive = folder / "small.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in {**files, "../outside": b"never unpacked"}.items():
            if name != leave_out:
                member = tarfile.TarInfo(f"{CIFAR100.batches}/{name}")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return replace(
        CIFAR100,
        url=archive.as_uri(),
        md5=md5(archive.read_bytes()),
        sums={name: md5(content) for name, content in files.items()},
    )


def test_the_archive_is_fetched_checked_and_unpacked(tmp_path, capsys):
    of, root = published(tmp_path / "net"), tmp_path / "data"
    assert fetched(root, of) == root / "cifar-100-python"
    assert "small.tar.gz to" in capsys.readouterr().err
    assert sorted(file.name for file in (root / "cifar-100-python").iterdir()) == ["test", "train"]
    assert not (root / "outside").exists()
    assert open_cifar(root, "train", of).labels.tolist() == list(range(6))
    assert checked(root, of) == []


def test_an_archive_that_is_there_is_not_fetched_again(tmp_path, capsys):
    of = published(tmp_path)
    fetched(tmp_path, replace(of, url="http://nowhere.invalid/small.tar.gz"))
    assert capsys.readouterr().err == ""
    assert len(open_cifar(tmp_path, "test", of)) == 3


def test_another_archive_is_refused_or_told(tmp_path, capsys):
    of = replace(published(tmp_path), md5="0" * 32)
    with pytest.raises(OtherChecksum, match=r"small\.tar\.gz: MD5 sum [0-9a-f]{32}, expected 0{32}, that of"):
        fetched(tmp_path, of)
    assert not (tmp_path / of.batches).exists()
    fetched(tmp_path, of, strict=False)
    assert "warning: " in capsys.readouterr().err
    assert len(open_cifar(tmp_path, "train", of)) == 6


def test_what_cannot_be_fetched_or_unpacked_leaves_nothing_behind(tmp_path):
    root = tmp_path / "data"
    missing = replace(CIFAR100, url=(tmp_path / "no.tar.gz").as_uri())
    with pytest.raises(UserError, match=r"no\.tar\.gz: cannot be fetched \(.*\); expected a network, or"):
        fetched(root, missing)
    assert not root.exists()
    short = published(tmp_path / "short", leave_out="test")
    with pytest.raises(UserError, match=r"small\.tar\.gz: has no cifar-100-python/test, expected all of CIF"):
        fetched(root, short)
    whole = (tmp_path / "short/small.tar.gz").read_bytes()
    (root / "small.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"small\.tar\.gz: damaged .*; remove it, and it is fetched again"):
        fetched(root, replace(short, md5=md5(whole[: len(whole) // 2])))
    assert [file.name for file in root.iterdir()] == ["small.tar.gz"]


def test_a_connection_that_breaks_leaves_nothing_behind(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError("connection reset")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Broken())
    with pytest.raises(UserError, match=r"cannot be fetched \(connection reset\)"):
        fetched(tmp_path / "data", CIFAR100)
    assert list((tmp_path / "data").iterdir()) == []


def test_files_that_differ_or_are_missing_are_named(tmp_path):
    of = published(tmp_path)
    place = fetched(tmp_path, of)
    with (place / "train").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        OtherChecksum, match=r"train: MD5 sum [0-9a-f]{32}, expected [0-9a-f]{32}, that of the"
    ):
        checked(tmp_path, of)
    (place / "train").unlink()
    assert checked(tmp_path, of, strict=False) == [
        f"{place / 'train'}: no such file, expected all batches of CIFAR-100"
    ]
    assert checked(tmp_path / "nothing", of) == []
