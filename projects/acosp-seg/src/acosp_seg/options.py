"""What the commands besides ``train`` and ``test`` are asked to do, as plain data with checks."""

from __future__ import annotations

from dataclasses import dataclass

from acosp_seg.config import DATASETS
from prunelab.doors import PRESETS, check_at_least, check_one_of, check_share, check_within, did_you_mean
from prunelab.errors import UserError

EXPORT_FORMATS = ("original", "compact", "onnx")
PREPARED = tuple(name for name in DATASETS if name != "tiny")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """``compare``: networks side by side."""

    models: tuple[str, ...] = ()
    """Models with names for the table; a PLACE is a model folder, a run, or a file of the original."""
    json: str = ""
    """File for the table's rows; empty: none."""
    figure: str = ""
    """PNG file that shows what the networks see in some pictures, side by side; empty: none."""

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("compare needs models: --models dense=FOLDER pruned=FOLDER")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """``demo``: segment pictures."""

    files: tuple[str, ...] = ()
    """Pictures, or folders of pictures."""
    image_dir: str = ""
    """Pattern of pictures, as the original's demo takes it: "pictures/*.png"."""
    config_file: str | None = None
    """YAML file that names the model, the sizes and where pictures go; none: the model's own."""
    overrides: tuple[str, ...] = ()
    """Trailing KEY VALUE pairs for the YAML file."""
    model: str = ""
    """Model folder, run, or file of the original; empty: the file's model_path, else the newest run."""
    output: str = ""
    """Folder for the pictures; empty: the file's demo_save_path, else demo."""
    opacity: float = 0.5
    """How much of a picture its colours cover, 0 to 1."""
    preset: str | None = None
    """faithful or fixed; none: faithful with a YAML file of the original, else fixed."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        if not self.files and not self.image_dir:
            raise UserError("demo needs pictures: acosp-seg demo FILE..., or --image-dir PATTERN")
        check_within("opacity", self.opacity, 0, 1)
        if self.preset is not None:
            check_one_of("preset", self.preset, PRESETS)
        if self.overrides and not self.config_file:
            raise UserError(f"{' '.join(self.overrides)}: KEY VALUE pairs need --config FILE")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """``prepare``: a data set as it is published into list files and labels that training reads."""

    dataset: str
    """Which data set; folder: pictures and labels of your own."""
    source: str = ""
    """Folder of the data set as unpacked; empty: its folder under PRUNELAB_DATA."""
    output: str = ""
    """Folder that is written; empty: the source."""
    val_share: float = 0.1
    """Share of the pictures of a folder of your own that is kept for validation."""
    check: bool = False
    """Only look at the label values of the list files, and write nothing."""
    limit: int = -1
    """Label files that a check looks at; -1: all."""
    ignore_label: int | None = None
    """Label of pixels without a class; none: that of the data set (255, CamVid 11)."""
    dry_run: bool = False
    """Say what would be done and write nothing."""

    def __post_init__(self) -> None:
        if self.dataset not in PREPARED:
            raise UserError(f"dataset is {self.dataset!r}: {did_you_mean(self.dataset, PREPARED)}")
        check_share("val_share", self.val_share)
        check_at_least("limit", self.limit, -1)
        if self.ignore_label is not None:
            check_within("ignore_label", self.ignore_label, 0, 255)


@dataclass(frozen=True, kw_only=True)
class CityscapesOptions:
    """``convert_cityscapes``: label ids of Cityscapes into training ids, or back."""

    input_dir: str
    """Folder that is searched, sub-folders included."""
    output_dir: str
    """Folder that is written, with the same sub-folders."""
    to_19: bool = True
    """True: label ids to the 19 training ids; False: back."""
    img_postfix: str = "labelIds.png"
    """End of the names that are converted."""
    dry_run: bool = False
    """Check the command line and stop."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """``convert``: a published file into a model folder of ours."""

    source: str
    """File of the original or of torchvision, or a run or model folder."""
    destination: str
    """Model folder that is written."""
    config_file: str = ""
    """YAML file of the model; empty: told from the file's tensors."""
    dry_run: bool = False
    """Say what is recognised and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """``export``: a trained model into another format."""

    model: str
    """Model folder, run, or file of the original."""
    format: str = "compact"
    """compact (really fewer channels), original (its .pth) or onnx."""
    output: str = ""
    """File or folder that is written; empty: beside the model."""
    height: int = 0
    """Height of the pictures of an ONNX file; 0: test_h of the model."""
    width: int = 0
    """Width of the pictures of an ONNX file; 0: test_w of the model."""
    dry_run: bool = False
    """Check the command line and stop."""

    def __post_init__(self) -> None:
        check_one_of("format", self.format, EXPORT_FORMATS)
        for name in ("height", "width"):
            check_at_least(name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """``create_study``: the configurations of the CamVid study."""

    template: str = "config/camvid/camvid_segnet_base.yaml"
    """Template with the words MODEL, SPARSITY, DURATION, LEARNABLE, SEED and SPARSE."""
    output: str = ""
    """Folder that is written; empty: study beside the template."""
    name: str = ""
    """Write only this one, say segnet_0.5_300; empty: all 75."""
    dry_run: bool = False
    """Say what would be written and write nothing."""
