"""What the commands besides ``train``, ``test`` and ``prune`` are asked to do, as plain data with checks."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.doors import did_you_mean
from prunelab.errors import UserError

EXPORT_FORMATS = ("onnx", "slim", "original")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: classify pictures, or find objects in them."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures; none: some that the newest tour generated."""
    model: str = ""
    """Model folder, run, or tour; empty: the newest tour's slim network."""
    output: str = ""
    """Folder for the pictures that are written; empty: demo."""
    top: int = 5
    """Classes that are named for a picture."""
    draw: bool = False
    """Of a classifier: also write each picture with its class on it. A detector's are always written."""
    threshold: float = 0.5
    """Least score of a box that is drawn."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UserError(f"top is {self.top}, expected at least 1")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: foreign weights into a model folder of ours."""

    source: str
    """Weights: arrays under the original's names, a torch file, or a run or model folder."""
    destination: str
    """Model folder that is written."""
    net: str = ""
    """Network that the weights are of; empty: told from their names and shapes."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model in another format."""

    model: str = ""
    """Model folder or run; empty: the newest one."""
    format: str = "onnx"
    """onnx (a file), slim (a model folder with really fewer channels) or original (arrays named as there)."""
    output: str = ""
    """File or folder that is written; empty: beside the model."""
    image_size: int = 0
    """Side of the pictures of an ONNX file; 0: that of the model."""
    round_to: int = 1
    """Numbers of channels of a slim network are rounded up to multiples of it."""
    enbl_fake_prune: bool = False
    """Prune channels at random first, as a test of speed."""
    fake_prune_ratio: float = 0.5
    """Share of channels that this removes."""
    nb_repts_warmup: int = 10
    """Runs of each network before it is timed."""
    nb_repts: int = 0
    """Runs that are timed, of the dense, the masked and the slim network; 0: none is."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if self.format not in EXPORT_FORMATS:
            hint = did_you_mean(self.format, EXPORT_FORMATS)
            raise UserError(f"format is {self.format!r}, expected one of {', '.join(EXPORT_FORMATS)}; {hint}")
        for name in ("image_size", "nb_repts_warmup", "nb_repts"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.round_to < 1:
            raise UserError(f"round_to is {self.round_to}, expected at least 1")
        if not 0 <= self.fake_prune_ratio < 1:
            raise UserError(f"fake_prune_ratio is {self.fake_prune_ratio}, expected 0 <= ratio < 1")
