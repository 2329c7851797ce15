"""Models as folders: ``config.json``, ``model.safetensors`` and a card ``README.md``, here or on the Hub.

``config.json`` holds the configuration and the structure (kept channels, which weights are masked) as plain
data, so that a pruned model is built with its right shapes before its weights load. Nothing is pickled.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor

from prunelab.config import to_plain, yaml_text
from prunelab.errors import UserError
from prunelab.util import (
    StrPath,
    atomic_folder,
    human_count,
    read_json,
    recover_folder,
    save_tensors,
    write_json,
)

if TYPE_CHECKING:
    from typing import Self

FORMAT = "prunelab-model"
VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_SHOWN = 3  # how many differences an error line names


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a model folder holds."""

    dir: Path
    """Where it lies; further files of the model are here as well."""
    kind: str
    """Whose model it is, e.g. ``smp-caption``."""
    config: dict[str, Any]
    """The configuration as plain data."""
    structure: dict[str, Any] | None
    """What pruning changed, as plain data."""
    state: dict[str, Tensor]
    """Weights by name; names that were tied when saved are the same tensor."""


# ---------------------------------------------------------------------------------------------------- folders


def save_model_folder(
    dir: StrPath,
    config: Any,
    state: Mapping[str, Tensor],
    *,
    kind: str,
    structure: Any = None,
    card: str = "",
    extra_files: Mapping[str, bytes | str | Path] | None = None,
) -> Path:
    """Write a model folder; it appears whole or not at all.

    A model folder that is already there is replaced; files in it that no saving wrote are kept.

    Args:
        dir: The folder.
        config: A dataclass or plain data (`prunelab.config.to_plain`).
        state: The model's ``state_dict()``.
        kind: Whose model it is, e.g. ``smp-caption``; checked when it is loaded.
        structure: What must be known to build the model besides the configuration, as plain data.
        card: Text of ``README.md`` (`model_card`).
        extra_files: Further files by name: bytes, text, or the path of a file to copy.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds other things than a model, or cannot be written.
    """
    target = Path(dir)
    recover_folder(target)
    extra = dict(extra_files or {})
    for name in extra:
        if Path(name).name != name or name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
            raise ValueError(f"{name!r} cannot be the name of an extra file of a model folder")
    kept = _foreign_files(target)
    tensors, shared = _own_tensors(state)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "config": to_plain(config),
        "structure": to_plain(structure),
        "shared": shared,
        "files": [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, *extra],
    }
    with atomic_folder(target) as new:
        for name in kept:
            _copy(target / name, new / name)
        save_tensors(tensors, new / WEIGHTS_FILE, metadata={"format": "pt"})
        for name, source in extra.items():
            _put(new / name, source)
        _put(new / CARD_FILE, card or model_card(kind, config=config, state=state))
        write_json(new / CONFIG_FILE, content)
    return target


def _foreign_files(folder: Path) -> list[str]:
    """Names in an existing model folder that no saving wrote.

    Raises:
        UserError: The folder is something else than a model folder.
    """
    if not folder.exists():
        return []
    names = sorted(os.listdir(folder)) if folder.is_dir() else [folder.name]
    if names and not is_model_folder(folder):
        raise UserError(f"{folder}: not overwritten: it is there already and holds no model ({names[0]} ...)")
    written = set(read_json(folder / CONFIG_FILE).get("files", [])) if names else set()
    return [name for name in names if name not in written]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _put(target: Path, source: bytes | str | Path) -> None:
    if isinstance(source, Path):
        if not source.is_file():
            raise UserError(f"{source}: no such file, but the model folder needs it as {target.name}")
        shutil.copyfile(source, target)
    else:
        target.write_bytes(source if isinstance(source, bytes) else source.encode())


def _own_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that own their memory, and for each tied name the name under which its tensor is saved."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, value in state.items():
        tensor = value.detach()
        if tensor.device.type == "meta":
            raise ValueError(f"{name} has no values: it is on the meta device")
        storage = tensor.untyped_storage().data_ptr()
        key = (tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in first:
            shared[name] = first[key]
            continue
        first.setdefault(key, name)
        plain = tensor.cpu().contiguous()
        # a part of a larger tensor that is saved as well must become a tensor of its own
        overlaps = storage in storages and plain.data_ptr() == tensor.data_ptr()
        tensors[name] = plain.clone() if overlaps else plain
        storages.add(storage)
    return tensors, shared


def is_model_folder(path: StrPath) -> bool:
    """Whether a path is a folder that `load_model_folder` can read."""
    file = Path(path) / CONFIG_FILE
    try:
        content = read_json(file) if file.is_file() else None
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_model_folder(
    name: StrPath,
    *,
    kind: str | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    cache_dir: StrPath | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
) -> ModelFolder:
    """Read a model folder from the disk, or from the Hub if ``name`` is no path here but looks like an id.

    Args:
        name: A folder (or the ``model.safetensors`` in it), or an id such as ``user/model``.
        kind: Whose model is expected; None takes any.
        device: Where the weights go.
        revision: Branch, tag or commit on the Hub; the other arguments are those of
            ``huggingface_hub.snapshot_download``.
        cache_dir: See ``revision``.
        local_files_only: See ``revision``.
        force_download: See ``revision``.
        token: See ``revision``.

    Raises:
        UserError: There is no such folder, a file of it is missing or broken, or its kind is another.
    """
    recover_folder(name)
    folder = Path(name)
    if folder.name in (WEIGHTS_FILE, CONFIG_FILE) and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        options = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = _fetch(str(name), **options, force_download=force_download, token=token)
    content = _read_config(folder, kind)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file, but {folder / CONFIG_FILE} belongs to a model with weights"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights, device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: broken or cut off: {error}") from error
    for alias, original in content.get("shared", {}).items():
        if original not in state:
            raise UserError(f"{weights}: the tensor {original!r} is missing ({alias!r} is tied to it)")
        state[alias] = state[original]
    return ModelFolder(
        dir=folder,
        kind=content.get("kind", ""),
        config=content["config"],
        structure=content.get("structure"),
        state=state,
    )


def _read_config(folder: Path, kind: str | None) -> dict[str, Any]:
    """Read and check ``config.json``."""
    file = folder / CONFIG_FILE
    content = read_json(file)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{file}: format is {found!r}, expected {FORMAT!r}")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise UserError(f"{file}: version is {content.get('version')!r}, this prunelab reads up to {VERSION}")
    if not isinstance(content.get("config"), dict):
        raise UserError(f"{file}: config is missing")
    if kind is not None and content.get("kind") != kind:
        raise UserError(f"{file}: a model of {content.get('kind')!r}, expected one of {kind!r}")
    return content


def _fetch(name: str, **options: Any) -> Path:
    """Bring a model from the Hub into the local cache."""
    looks_local = name.startswith((".", "/")) or Path(*Path(name).parts[:1]).is_dir()
    if looks_local or not _HUB_ID.fullmatch(name):
        raise UserError(f"{name}: no such folder (expected one with {CONFIG_FILE} and {WEIGHTS_FILE})")
    from huggingface_hub import snapshot_download

    try:
        ignored = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle"]  # never read, often large
        return Path(snapshot_download(name, ignore_patterns=ignored, **options))
    except (OSError, ValueError) as error:  # every error of the Hub's client is one of these
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name}: no such folder here, and not to be had from the Hub: {reason[0]}"
        ) from error


def load_state(model: torch.nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly.

    Raises:
        UserError: Names or shapes differ; the line has the first ones of each kind.
    """
    own = model.state_dict()
    missing = [f"{name} {_shape(value)}" for name, value in own.items() if name not in state]
    unknown = [f"{name} {_shape(value)}" for name, value in state.items() if name not in own]
    shapes = [
        f"{name} {_shape(state[name])} in the file and {_shape(value)} in the model"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    groups = [("missing", missing), ("not in the model", unknown), ("of another shape", shapes)]
    told = [f"{len(items)} {what}: {_first(items)}" for what, items in groups if items]
    if told:
        raise UserError(f"{where}: weights of another model: {'; '.join(told)}")
    model.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


# ------------------------------------------------------------------------------------------------------- card


def model_card(
    title: str,
    *,
    summary: str = "",
    facts: Mapping[str, object] | None = None,
    usage: str = "",
    config: Any = None,
    state: Mapping[str, Tensor] | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
) -> str:
    """The text of a model card: metadata of the Hub, a summary, facts, how to use it, the configuration.

    Args:
        title: Heading.
        summary: A paragraph.
        facts: Lines of a table, e.g. ``{"CIDEr (test)": "111.3", "preset": "fixed"}``.
        usage: Python lines.
        config: The configuration, shown as YAML.
        state: The weights, for their number.
        tags: Tags on the Hub besides ``prunelab``.
        license: License of the weights, where it is known.
    """
    metadata = {"library_name": "prunelab", "tags": sorted({"prunelab", *tags})}
    if license:
        metadata["license"] = license
    parts = [f"---\n{yaml_text(metadata)}---\n", f"# {title}\n"]
    if summary:
        parts.append(f"{summary}\n")
    table = dict(facts or {})
    if state is not None:
        count = sum(value.numel() for value in state.values() if value.is_floating_point())
        table.setdefault("numbers stored", human_count(count))
    if table:
        lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in table.items()]
        parts.append("\n".join(["| | |", "| --- | --- |", *lines]) + "\n")
    if usage:
        parts.append(f"## Use\n\n```python\n{usage.strip()}\n```\n")
    if config is not None:
        parts.append(f"## Configuration\n\n```yaml\n{yaml_text(config)}```\n")
    return "\n".join(parts)


def note_facts(notes: Mapping[str, Any]) -> dict[str, object]:
    """What was noted of a model, as facts for `model_card`: groups are opened, numbers have four digits."""
    facts: dict[str, object] = {}
    for name, value in notes.items():
        inner = value.items() if isinstance(value, Mapping) else [(name, value)]
        facts |= {key: f"{one:.4g}" if isinstance(one, float) else one for key, one in inner}
    return facts


# ------------------------------------------------------------------------------------------------------ mixin


class HubModel(ModelHubMixin):
    """Gives a ``torch.nn.Module`` ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    The model says what belongs to it (`hub_config`, and where needed `hub_structure`, `hub_files` and
    `hub_card`), and how it is built (`from_hub_config`). List the mixin before ``nn.Module``::

        class Captioner(HubModel, nn.Module):
            hub_kind = "smp-caption"
    """

    hub_kind: ClassVar[str] = ""
    """Whose model it is; a folder of another kind is refused."""

    def hub_config(self) -> Any:
        """The configuration: a dataclass or plain data."""
        raise NotImplementedError

    def hub_structure(self) -> Any:
        """What pruning changed, as plain data; None for a dense model."""
        return None

    def hub_files(self) -> Mapping[str, bytes | str | Path]:
        """Further files of the folder, e.g. a vocabulary."""
        return {}

    def hub_card(self) -> str:
        """The model card; the default shows the configuration and how to load the model."""
        name = type(self).__name__
        usage = f'from {type(self).__module__} import {name}\n\nmodel = {name}.from_pretrained("this folder")'
        state = self.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
        title = f"{self.hub_kind}: {name}" if self.hub_kind else name
        return model_card(title, usage=usage, config=self.hub_config(), state=state)

    @classmethod
    def from_hub_config(cls, config: dict[str, Any], structure: dict[str, Any] | None, folder: Path) -> Self:
        """Build the model, with the shapes that ``structure`` says; weights are loaded afterwards."""
        raise NotImplementedError

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        save_directory: StrPath,
        *,
        card: str | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the model folder (`save_model_folder`), and upload it if ``push_to_hub``.

        Args:
            save_directory: The folder.
            card: Text of ``README.md``; `hub_card` if None.
            repo_id: Name on the Hub; the folder's name if None.
            push_to_hub: Also upload.
            config: Must be None: the model's own configuration is saved.
            model_card_kwargs: Not used; there because ``ModelHubMixin.push_to_hub`` passes it.
            **push_to_hub_kwargs: For ``ModelHubMixin.push_to_hub``.

        Returns:
            The address of the upload, or None.
        """
        if config is not None:
            raise ValueError("the configuration that is saved is the model's own; config must be None")
        save_model_folder(
            save_directory,
            self.hub_config(),
            self.state_dict(),  # pyright: ignore[reportAttributeAccessIssue]
            kind=self.hub_kind,
            structure=self.hub_structure(),
            card=self.hub_card() if card is None else card,
            extra_files=self.hub_files(),
        )
        if push_to_hub:
            return self.push_to_hub(repo_id or Path(save_directory).name, **push_to_hub_kwargs)
        return None

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: StrPath, *, device: str | torch.device = "cpu", **options: Any
    ) -> Self:
        """Build the model of a folder or of an id on the Hub, with its weights, in evaluation mode.

        Args:
            pretrained_model_name_or_path: See `load_model_folder`.
            device: Where the model goes.
            **options: For the Hub: ``revision``, ``cache_dir``, ``local_files_only``, ...

        Raises:
            UserError: See `load_model_folder`; or the weights do not fit the configuration.
        """
        folder = load_model_folder(pretrained_model_name_or_path, kind=cls.hub_kind or None, **options)
        model = cls.from_hub_config(folder.config, folder.structure, folder.dir)
        assert isinstance(model, torch.nn.Module)
        load_state(model, folder.state, where=str(folder.dir / WEIGHTS_FILE))
        return model.to(device).eval()
