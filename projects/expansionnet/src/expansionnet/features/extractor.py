"""The backbone by itself: pictures to visual tokens; and what is known of where features came from."""

# B pictures, H their side in pixels, S visual tokens, F their width

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from expansionnet.config import SwinConfig
from expansionnet.features.preprocess import Preprocess
from expansionnet.files import backbone as backbone_files
from expansionnet.files.backbone import BackboneFiles
from expansionnet.files.loading import open_backbone
from expansionnet.model.swin import build_swin
from prunelab.config import from_plain, to_plain
from prunelab.data.pictures import Picture
from prunelab.errors import UserError
from prunelab.hub import load_state
from prunelab.onednn import OneDNN
from prunelab.util import StrPath, read_json, write_json

ORIGIN_FORMAT = "expansionnet-features/1"


class FeatureExtractor:
    """Computes the visual tokens of pictures.

    Args:
        backbone: what `build_swin` made; put into evaluation mode.
        config: its sizes.
        black: see `Preprocess`.
        amp: ``bf16`` to compute in mixed precision.
        device: where it goes; None: it stays.

    Attributes:
        backbone: the network.
        config: its sizes.
        preprocess: how it sees pictures.
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: SwinConfig,
        *,
        black: bool = False,
        amp: str = "off",
        device: str | torch.device | None = None,
    ) -> None:
        self.backbone = backbone.eval() if device is None else backbone.eval().to(device)
        self.config, self.amp = config, amp
        self.preprocess = Preprocess(size=config.img_size, black=black)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """Visual tokens of pictures, (B, S, F) float32.

        Raises:
            UserError: a file is missing or is no picture.
        """
        return self.tokens(self.preprocess.batch(pictures))

    @torch.inference_mode()
    def tokens(self, images: Tensor) -> Tensor:
        """Visual tokens (B, S, F) float32 of prepared pictures (B, 3, H, H)."""
        with OneDNN(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp == "bf16"):
            return self.backbone(images.to(self.device, non_blocking=True)).float()

    # ------------------------------------------------------------------------------------------------- files

    @classmethod
    def open(
        cls, path: str | Path, *, black: bool = False, device: str | torch.device | None = None
    ) -> FeatureExtractor:
        """The backbone that a path means: any weights with one, or the folder of a model that reads features.

        Args:
            path: see `expansionnet.files.loading.open_backbone`.
            black: see `Preprocess`.
            device: where it goes.

        Raises:
            UserError: nothing is there, or weights without a backbone.
        """
        weights = open_backbone(path)
        assert weights.swin is not None  # as there is a backbone
        backbone = build_swin(weights.swin)
        load_state(backbone, weights.backbone, where=str(weights.path))
        return cls(backbone, weights.swin, black=black, device=device)

    @classmethod
    def beside(cls, features: StrPath) -> FeatureExtractor | None:
        """The backbone that features were computed with, if its weights still lie where they lay."""
        origin = Origin.beside(features)
        if origin is None:
            return None
        for place in filter(None, (origin.weights, str(backbone_files.beside(features)))):
            try:
                found = cls.open(place, black=origin.black_pictures)
            except UserError:  # nothing lies there, or something else does now
                continue
            if found.digest() == origin.sha256:
                return found
        return None

    def digest(self) -> str:
        """SHA-256 of the sizes and the weights, as 64 hexadecimal digits."""
        known = hashlib.sha256(json.dumps(to_plain(self.config), sort_keys=True).encode())
        for name, value in sorted(self.backbone.state_dict().items()):
            known.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            known.update(value.detach().cpu().numpy().tobytes())
        return known.hexdigest()

    def files(self) -> dict[str, bytes]:
        """What `save` writes, by file name."""
        state = self.backbone.state_dict()
        return BackboneFiles(config=self.config, state=state, black=self.preprocess.black).content()

    def save(self, folder: StrPath) -> Path:
        """Write ``backbone.json`` and ``backbone.safetensors`` into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (place / name).write_bytes(content)
        return place

    @classmethod
    def load(
        cls, folder: StrPath, *, black: bool | None = None, device: str | torch.device | None = None
    ) -> FeatureExtractor:
        """Read what `save` wrote.

        Args:
            folder: where from.
            black: see `Preprocess`; None: as it was saved.
            device: where it goes.

        Raises:
            UserError: the folder holds no backbone, or its files do not belong together.
        """
        found = BackboneFiles.read(folder)
        backbone = build_swin(found.config)
        load_state(backbone, found.state, where=str(Path(folder) / backbone_files.WEIGHTS_FILE))
        return cls(backbone, found.config, black=found.black if black is None else black, device=device)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What features were computed with; a JSON file beside them."""

    swin: SwinConfig
    """Sizes of the backbone."""
    sha256: str
    """`FeatureExtractor.digest`."""
    weights: str
    """Where its weights lay, as an absolute path; random ones are kept beside the features."""
    dtype: str
    """fp32 or fp16."""
    amp: str = "off"
    """Mixed precision while computing."""
    black_pictures: bool = False
    """See `Preprocess`."""

    def same_as(self, other: Origin | None) -> bool:
        """Whether the features are the same, wherever the weights lay."""
        return other is not None and _but_place(self) == _but_place(other)

    @staticmethod
    def place(features: StrPath) -> Path:
        """Where the file of some features is."""
        path = Path(os.path.abspath(features))
        return path.with_name(f"{path.name}.json")

    def save(self, features: StrPath) -> None:
        """Write the file."""
        write_json(self.place(features), {"format": ORIGIN_FORMAT, **to_plain(self)})

    @classmethod
    def beside(cls, features: StrPath) -> Origin | None:
        """Read the file of some features; None where there is none.

        Raises:
            UserError: it is something else.
        """
        file = cls.place(features)
        if not file.is_file():
            return None
        plain = read_json(file)
        if not isinstance(plain, dict) or plain.pop("format", None) != ORIGIN_FORMAT:
            raise UserError(f"{file}: expected the format {ORIGIN_FORMAT!r}")
        return from_plain(cls, plain, where=str(file))


def _but_place(origin: Origin) -> dict[str, object]:
    return {**to_plain(origin), "weights": ""}
