"""Checkpoints that cannot be half written: tensors and JSON in a folder, renamed into place, verified.

A checkpoint ``step-000123/`` holds

- ``structure.json``: plain data that says how to build the model (masks, kept channels), readable before all
else; - ``state.json``: everything that is not a tensor; where a tensor stood there is ``{"$tensor": key}``;
- ``tensors.safetensors``: the tensors, each once, however many names share it;
- ``manifest.json``: size and SHA-256 of the other files.

Nothing is pickled. It is filled under a hidden name, flushed to the disk and renamed, so that a kill at any
instruction leaves the earlier checkpoints, and this one either whole or invisible.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from prunelab.errors import UserError
from prunelab.seed import derive, preserved, seed_all
from prunelab.util import atomic_folder, human_bytes, read_json, recover_folder, save_tensors, sha256_file

FORMAT = 1
"""Version of the layout above."""

watchers: list[Callable[[str], None]] = []
"""Called with the name of each stage that a run and its writing pass; tests end a run there to stand for a
kill.
"""

_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
_FILES = ("structure.json", "state.json", "tensors.safetensors")


def reached(stage: str) -> None:
    """Tell the `watchers` that a stage is reached."""
    for watcher in watchers:
        watcher(stage)


# Plain data and tensors
# ---------------------------------------------------------------------------------------


class _Packer:
    """Splits nested state into plain data and tensors; a tensor that occurs twice is kept once."""

    def __init__(self, unknown: Callable[[Any], Any] | None) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._unknown = unknown
        self._keys: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def pack(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray):
            return {"$array": self._tensor(torch.from_numpy(np.ascontiguousarray(value)), path)["$tensor"]}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if isinstance(value, tuple):
            return {"$tuple": [self.pack(v, f"{path}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, list):
            return [self.pack(v, f"{path}/{i}") for i, v in enumerate(value)]
        return self._scalar(value, path)

    def _scalar(self, value: Any, path: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        if self._unknown is not None:
            return self._unknown(value)
        raise UserError(
            f"state {path.strip('/') or 'value'} is a {type(value).__name__}; expected tensors and plain "
            "data (numbers, strings, lists, tuples, dicts)"
        )

    def _mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.pack(v, f"{path}/{key}") for key, v in value.items()}
        pairs = [[self.pack(k, f"{path}/key"), self.pack(v, f"{path}/{k}")] for k, v in value.items()]
        return {"$pairs": pairs}

    def _tensor(self, tensor: torch.Tensor, path: str) -> dict[str, Any]:
        tensor = tensor.detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(
                f"state {path.strip('/')} is {tensor.layout}; expected a dense tensor with values"
            )
        memory = (tensor.data_ptr(), tensor.device) if tensor.numel() else (id(tensor), None)
        identity = (*memory, tensor.dtype, tensor.shape, tensor.stride())
        if identity not in self._keys:
            key = path.strip("/") or "value"
            while key in self.tensors:
                key += "_"
            self._keys[identity] = key
            self.tensors[key] = self._own(tensor)
        reference: dict[str, Any] = {"$tensor": self._keys[identity]}
        if tensor.device.type != "cpu":
            reference["device"] = tensor.device.type
        return reference

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor on the CPU whose memory holds nothing else (what the file format asks for)."""
        plain = tensor.resolve_conj().resolve_neg().to("cpu").contiguous()
        storage = plain.untyped_storage()
        whole = storage.nbytes() == plain.numel() * plain.element_size()
        if not whole or storage.data_ptr() in self._storages:
            plain = plain.clone()
        self._storages.add(plain.untyped_storage().data_ptr())
        return plain


def pack(value: Any, unknown: Callable[[Any], Any] | None = None) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split nested state into what JSON holds and tensors on the CPU.

    Dicts (any plain keys), lists, tuples, strings, numbers (infinite ones too), NumPy arrays and tensors come
    back from `unpack` as they were; parameters come back as tensors.

    Args:
        value: the state.
        unknown: turns a value of another type into plain data.

    Raises:
        UserError: a value has another type and there is no ``unknown``.
    """
    packer = _Packer(unknown)
    return packer.pack(value, ""), packer.tensors


def unpack(plain: Any, tensor: Callable[[str], torch.Tensor], device: torch.device | None = None) -> Any:
    """The inverse of `pack`.

    Args:
        plain: what `pack` made for JSON.
        tensor: from a key to its tensor; called once for each place, so give a fresh one each time.
        device: where tensors go that were not on the CPU; None leaves them on the CPU.
    """
    if isinstance(plain, list):
        return [unpack(v, tensor, device) for v in plain]
    if not isinstance(plain, dict):
        return plain
    if "$tensor" in plain:
        value = tensor(plain["$tensor"])
        return value.to(device) if device is not None and "device" in plain else value
    if "$array" in plain:
        return tensor(plain["$array"]).numpy()
    if "$tuple" in plain:
        return tuple(unpack(v, tensor, device) for v in plain["$tuple"])
    if "$pairs" in plain:
        return {unpack(k, tensor, device): unpack(v, tensor, device) for k, v in plain["$pairs"]}
    if "$float" in plain:
        return float(plain["$float"])
    return {key: unpack(v, tensor, device) for key, v in plain.items()}


# One folder
# ---------------------------------------------------------------------------------------------------


def write(
    target: Path,
    state: Any,
    *,
    structure: Any = None,
    unknown: Callable[[Any], Any] | None = None,
    **facts: Any,
) -> None:
    """Write one checkpoint folder, atomically.

    Args:
        target: the folder; one that exists is replaced.
        state: nested state, see `pack`.
        structure: plain data, readable without touching the rest.
        unknown: see `pack`.
        facts: plain data for the manifest.

    Raises:
        UserError: the state holds something that cannot be written, or the disk is full; what was there
            before is unchanged.
    """
    plain, tensors = pack(state, unknown)
    packed_structure, arrays = pack(structure)
    if arrays:
        raise UserError(f"structure holds tensors ({next(iter(arrays))}); expected plain data")
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    reached("write: begin")
    try:
        with atomic_folder(target) as folder:
            save_tensors(tensors, folder / "tensors.safetensors")
            reached("write: tensors")
            (folder / "state.json").write_text(json.dumps(plain, allow_nan=False))
            (folder / "structure.json").write_text(json.dumps(packed_structure, allow_nan=False))
            reached("write: plain data")
            files = {
                name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
                for name in _FILES
            }
            manifest = {"format": FORMAT, **facts, "files": files}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
            reached("write: manifest")
    except UserError as error:
        raise UserError(
            f"{error}; it needs {human_bytes(size)}; earlier checkpoints are unchanged"
        ) from error
    reached("write: renamed")


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words; None if every byte is as it was written."""
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, expected {FORMAT}"
        for name in _FILES:
            expected = manifest["files"][name]
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, expected {expected['bytes']}"
            if sha256_file(folder / name) != expected["sha256"]:
                return f"{name} has another checksum than when it was written"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (KeyError, TypeError):
        return "manifest.json is incomplete"
    return None


class Checkpoint:
    """A checkpoint folder, opened for reading: plain data at once, tensors as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / "manifest.json")
        self.structure: Any = unpack(read_json(folder / "structure.json"), _no_tensor)
        self._plain: Any = read_json(folder / "state.json")

    def keys(self, *path: str) -> list[str]:
        """The names directly below ``path``."""
        return list(self._at(path))

    def part(self, *path: str, device: torch.device | None = None) -> Any:
        """The state below ``path``, with tensors of its own; see `unpack` for ``device``.

        Raises:
            UserError: the tensors cannot be read.
        """
        with self._tensors() as tensors:
            return unpack(self._at(path), lambda key: tensors.get_tensor(key).clone(), device)

    def packed(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """The whole state in the form that `pack` gave."""
        with self._tensors() as tensors:
            return self._plain, {key: tensors.get_tensor(key).clone() for key in tensors.keys()}  # noqa: SIM118

    @contextmanager
    def _tensors(self) -> Iterator[Any]:
        file = self.folder / "tensors.safetensors"
        try:
            with safe_open(file, framework="pt") as tensors:
                yield tensors
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{file}: cannot be read: {error}; expected the tensors of a checkpoint"
            ) from error

    def _at(self, path: tuple[str, ...]) -> Any:
        plain = self._plain
        for key in path:
            plain = plain[key]
        return plain


def _no_tensor(key: str) -> torch.Tensor:
    raise UserError(f"structure refers to tensor {key!r}; expected plain data")


# A folder of checkpoints
# --------------------------------------------------------------------------------------


def once(folder: Path, key: str, seed: int, work: Callable[[], Any], say: Callable[[str], None]) -> Any:
    """The kept result of one-off work, or its result now, kept for the next time; in one process.

    The work runs with random states of its own, made from ``seed`` and ``key``.

    Returns:
        The result in the form that `pack` gives: it is the same, kept or fresh.
    """
    recover_folder(folder)
    if folder.is_dir():
        problem = verify(folder)
        if problem is None:
            return Checkpoint(folder).packed()
        say(f"{folder} is damaged ({problem}); doing {key!r} again")
    with preserved():
        seed_all(derive(seed, "once", key))
        result = work()
    reached("once: done")
    write(folder, result, key=key)
    return pack(result)


def listed(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; what a killed writer left behind is not among them."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2] or 1), path))
    return [path for *_, path in sorted(found)]


def save(
    folder: Path, step: int, state: Any, *, structure: Any = None, best: bool = False, keep_last: int = 2
) -> Path:
    """Add a checkpoint and remove old ones: the last ``keep_last`` and the newest best one stay.

    A second checkpoint of one step gets a name of its own (``step-000123-2``), so that nothing is ever
    replaced.

    Raises:
        UserError: see `write`; nothing is removed then.
    """
    attempt = 1
    while (target := folder / f"step-{step:06d}{f'-{attempt}' if attempt > 1 else ''}").exists():
        attempt += 1
    write(target, state, structure=structure, step=step, best=best)
    present = listed(folder)
    keep = set(present[-keep_last:])
    keep.update([path for path in present if _is_best(path)][-1:])
    for path in present:
        if path not in keep:
            _remove(path)
    return target


def _is_best(path: Path) -> bool:
    try:
        return bool(read_json(path / "manifest.json").get("best"))
    except (UserError, AttributeError):
        return False


def _remove(path: Path) -> None:
    """Rename, then delete: a kill in between leaves no checkpoint that looks whole."""
    gone = path.with_name(f".{path.name}.gone")
    os.replace(path, gone)
    reached("remove: renamed")
    shutil.rmtree(gone)


def clean(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for path in folder.glob(".*"):
        if path.suffix in (".new", ".old", ".gone"):
            shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Args:
        folder: the folder of checkpoints.
        say: told one line for each damaged checkpoint that is passed over.

    Raises:
        UserError: there are checkpoints and all of them are damaged.
    """
    present = listed(folder)
    problem = ""
    for path in reversed(present):
        problem = verify(path)
        if problem is None:
            return path
        say(f"checkpoint {path} is damaged ({problem}); falling back to the one before it")
    if present:
        raise UserError(f"{folder}: all {len(present)} checkpoints are damaged (the oldest: {problem})")
    return None


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it is never chosen again and may still be looked at."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)


def resolve(path: Path, say: Callable[[str], None]) -> Path:
    """The checkpoint that a user means: a checkpoint folder itself, or the newest one of a run folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if (path / "manifest.json").is_file():
        problem = verify(path)
        if problem:
            raise UserError(f"checkpoint {path} is damaged: {problem}")
        return path
    found = newest(path / "checkpoints", say)
    if found is None:
        raise UserError(
            f"{path}: no checkpoint; expected a checkpoint folder (step-...) or a run folder with one"
        )
    return found
