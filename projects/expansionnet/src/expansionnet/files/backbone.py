"""A backbone by itself in a folder: ``backbone.json`` and ``backbone.safetensors``.

Such a folder is written for random weights that features were computed with, and its two files lie in the
folder of a model that reads features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from expansionnet.config import SwinConfig
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.util import StrPath, read_json

CONFIG_FILE, WEIGHTS_FILE = "backbone.json", "backbone.safetensors"
"""The two files."""
FORMAT = "expansionnet-backbone/1"
ENDING = ".backbone"
"""What the name of a folder beside features ends with, after the features' own name."""


@dataclass(frozen=True, kw_only=True)
class BackboneFiles:
    """What the two files hold."""

    config: SwinConfig
    """Sizes."""
    state: Mapping[str, Tensor]
    """Weights, as timm names them."""
    black: bool = False
    """See `expansionnet.features.preprocess.Preprocess`."""

    def content(self) -> dict[str, bytes]:
        """Both files by name."""
        from safetensors.torch import save

        state = {name: value.cpu().contiguous() for name, value in self.state.items()}
        plain = {"format": FORMAT, "black_pictures": self.black, "swin": to_plain(self.config)}
        return {CONFIG_FILE: (json.dumps(plain, indent=2) + "\n").encode(), WEIGHTS_FILE: save(state)}

    @classmethod
    def read(cls, folder: StrPath) -> BackboneFiles:
        """Read both files of a folder.

        Raises:
            UserError: they are missing, damaged, or something else.
        """
        file = Path(folder) / CONFIG_FILE
        plain = read_json(file)
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise UserError(f"{file}: not a backbone, expected the format {FORMAT!r}")
        return cls(
            config=from_plain(SwinConfig, plain.get("swin"), where=f"{file} swin"),
            state=read_tensors(Path(folder) / WEIGHTS_FILE),
            black=bool(plain.get("black_pictures")),
        )


def has_backbone(folder: StrPath) -> bool:
    """Whether both files are in a folder."""
    return all((Path(folder) / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))


def beside(features: StrPath) -> Path:
    """Folder of the random weights that some features were computed with."""
    path = Path(features)
    return path.with_name(path.name + ENDING)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: missing, damaged or cut off, expected weights") from error
